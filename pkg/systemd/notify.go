// Package systemd tells systemd how a Type=notify service does. Protocol: sd_notify(3).
package systemd

import (
	"context"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Notifier speaks to systemd; without systemd it does nothing. Its methods may be called concurrently.
type Notifier struct {
	socket   string
	watchdog time.Duration
	taken    []string
}

// Take reads systemd's variables and removes them from the environment: the kubelet and the API server would else report
// themselves as the whole service, and pods' shims would inherit them. Call it before anything else starts.
func Take() *Notifier {
	n := &Notifier{socket: os.Getenv("NOTIFY_SOCKET")}
	if usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64); err == nil && usec > 0 {
		n.watchdog = time.Duration(usec) * time.Microsecond
	}
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		if value, ok := os.LookupEnv(name); ok {
			n.taken = append(n.taken, name+"="+value)
		}
		os.Unsetenv(name)
	}
	return n
}

// Ready tells that the service is up, with what a person sees in systemctl status; Stopping that it is going down.
func (n *Notifier) Ready(status string) { n.send("READY=1\nSTATUS=" + status) }
func (n *Notifier) Stopping()           { n.send("STOPPING=1") }

// Restarting tells that the same process is about to start anew; Ready follows.
func (n *Notifier) Restarting() {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return
	}
	n.send("RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(now.Nano()/1000, 10))
}

// Environ is what Take took out of the environment, for the same process when it starts anew.
func (n *Notifier) Environ() []string { return n.taken }

// Watch tells systemd's watchdog that all is well for as long as alive says so; it returns when ctx ends. Without a watchdog it returns at once.
func (n *Notifier) Watch(ctx context.Context, alive func(ctx context.Context) bool) {
	if n.watchdog == 0 {
		return
	}
	// Three chances before systemd loses patience.
	period := n.watchdog / 3
	tick := time.NewTicker(period)
	defer tick.Stop()
	for {
		try, cancel := context.WithTimeout(ctx, period)
		if alive(try) {
			n.send("WATCHDOG=1")
		}
		cancel()
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (n *Notifier) send(message string) {
	if n.socket == "" {
		return
	}
	// A name that begins with @ is in Linux' abstract namespace; package net takes it as it is.
	conn, err := net.Dial("unixgram", n.socket)
	if err != nil {
		return // systemd is gone, or never was: nobody to tell
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Second))
	conn.Write([]byte(message))
}
