package health

import (
	"context"
	"errors"
	"strings"
	"time"
)

// StartLimit is how long a component may take to become ready before that is a fault.
const StartLimit = time.Minute

func liveProbes() []Probe {
	return []Probe{
		{Fault: Fault{
			Code: "LABK080", Title: "server", Severity: Warning,
			Cause:  "This agent cannot reach its server: that PC is off, the network between them is broken, or a firewall is in the way. Pods here go on; nothing new is started, and after 40 s the server calls this node NotReady.",
			Remedy: "look whether the server runs (labk status there) and answers from here (curl -k https://SERVER:6443/livez)",
		}, look: lookServer, live: true, again: Often},
		{Fault: Fault{
			Code: "LABK081", Title: "API", Severity: Fatal,
			Cause:  "This server's own API does not answer. Under systemd labk is started anew when that lasts.",
			Remedy: "see what it says (journalctl -u labk), and restart it (systemctl restart labk): pods go on",
		}, look: askLive("answers", func(l *Live) func(context.Context) error { return l.API }), live: true, again: Often},
		{Fault: Fault{
			Code: "LABK082", Title: "kubelet", Severity: Fatal,
			Cause:  "The kubelet of this PC does not answer: pods here go on, but nobody starts or stops any. Under systemd an agent is started anew when that lasts.",
			Remedy: "see what it says (journalctl -u labk, or -u labk-agent), and restart it (systemctl restart labk): pods go on",
		}, look: askLive("answers", func(l *Live) func(context.Context) error { return l.Kubelet }), live: true, again: Often},
		{Fault: Fault{
			Code: "LABK083", Title: "container runtime", Severity: Fatal,
			Cause:  "containerd, which is part of labk, does not answer on its socket. No container can be started, stopped or asked for its output.",
			Remedy: "restart labk (systemctl restart labk): pods go on",
		}, look: askLive("answers", func(l *Live) func(context.Context) error { return l.Runtime }), live: true, again: Often},
		{Fault: Fault{
			Code: "LABK084", Title: "start", Severity: Warning,
			Cause:  "A component of labk has been starting for longer than a minute. An agent waits so for a server that is off.",
			Remedy: "see in labk status which one it is and what it waits for",
		}, look: lookStart, live: true, again: Often},
	}
}

// ErrStarting is what a function of Live returns that cannot tell yet.
var ErrStarting = errors.New("it is still starting")

// askLimit bounds a question to a component.
const askLimit = 5 * time.Second

// askLive asks a component whether it is well; one that there is none of on this PC is.
func askLive(well string, which func(*Live) func(context.Context) error) func(context.Context, Host) finding {
	return func(ctx context.Context, h Host) finding {
		ask := which(h.Live)
		if ask == nil {
			return pass("not on this PC")
		}
		ctx, cancel := context.WithTimeout(ctx, askLimit)
		defer cancel()
		switch err := ask(ctx); {
		case errors.Is(err, ErrStarting):
			return pass("not looked at: %v", err)
		case err != nil:
			return fail("%v", err)
		}
		return pass("%s", well)
	}
}

func lookServer(ctx context.Context, h Host) finding {
	if h.Live.Server == nil {
		return pass("this PC is the server")
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	switch _, err := h.Live.Server(ctx); {
	case errors.Is(err, ErrStarting):
		return pass("not looked at: %v", err)
	case err != nil:
		return warn("%v", err)
	}
	return pass("%s answers", h.Config.Server)
}

func lookStart(_ context.Context, h Host) finding {
	if h.Live.Slow == nil {
		return pass("all components are ready")
	}
	if slow := h.Live.Slow(); len(slow) > 0 {
		return warn("not ready: %s", strings.Join(slow, "; "))
	}
	return pass("no component takes long")
}
