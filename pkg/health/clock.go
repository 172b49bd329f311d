package health

import (
	"context"
	"time"
)

// A clock that is this much behind the program's own build date would make certificates that have ended once it is right.
const clockFarOff = 30 * 24 * time.Hour

func clockProbes() []Probe {
	return []Probe{
		{Fault: Fault{
			Code: "LABK050", Title: "clock and certificates", Severity: Fatal,
			Cause:  "The clock shows a time before a certificate of this cluster begins, so that nobody would accept it: often a spare PC with an empty battery.",
			Remedy: "set the clock (timedatectl set-ntp true, or date --set) and the hardware clock (hwclock --systohc)",
		}, look: lookCertificates, asRoot: true, again: Often},
		{Fault: Fault{
			Code: "LABK051", Title: "clock", Severity: Fatal,
			Cause:  "The clock shows a time before this program was built, so it is wrong. By more than 30 days it is fatal: certificates made now would have ended once it is set right.",
			Remedy: "set the clock (timedatectl set-ntp true, or date --set) and the hardware clock (hwclock --systohc)",
		}, look: lookClock, again: Often},
		{Fault: Fault{
			Code: "LABK052", Title: "certificates' end", Severity: Fatal,
			Cause:  "A certificate of this PC has ended, so that nobody accepts it. Near its end, with less than a twelfth of its life left, it is a warning: a running labk renews its certificates earlier than that, so something keeps it from doing so.",
			Remedy: "run labk certificate rotate; for an authority (a name that ends in -ca) labk certificate rotate-ca on the server",
		}, look: lookCertificatesEnd, live: true, again: Often},
		{Fault: Fault{
			Code: "LABK053", Title: "server's clock", Severity: Warning,
			Cause:  "The clocks of this PC and of its server are more than 30 s apart. Tokens and certificates that are new to the one have not begun, or have ended, for the other, and times in logs and events mislead.",
			Remedy: "set both by the same time servers (timedatectl set-ntp true)",
		}, look: lookServerClock, live: true, again: Often},
	}
}

func lookCertificates(_ context.Context, h Host) finding {
	all := Certificates(h.data())
	for _, c := range all {
		if h.Now.Before(c.From) {
			return fail("it is %s, and %s begins at %s", stamp(h.Now), c.File, stamp(c.From))
		}
	}
	if len(all) == 0 {
		return pass("no certificates yet")
	}
	return pass("%d certificates have begun", len(all))
}

// nearEnd is the part of a certificate's life that is left when something must have gone wrong with renewing it: the kubelet renews its own as late as with a tenth left.
const nearEnd = 12

func lookCertificatesEnd(_ context.Context, h Host) finding {
	all := Certificates(h.data())
	var next Certificate
	for _, c := range all {
		if next.File == "" || c.Until.Before(next.Until) {
			next = c
		}
		if h.Now.After(c.Until) {
			return fail("%s ended at %s", c.File, stamp(c.Until))
		}
	}
	for _, c := range all {
		if c.Until.Sub(h.Now) < c.Until.Sub(c.From)/nearEnd {
			return warn("%s ends at %s and has not been renewed", c.File, stamp(c.Until))
		}
	}
	if len(all) == 0 {
		return pass("no certificates yet")
	}
	return pass("the next, %s, at %s", next.Name, stamp(next.Until))
}

// clockApart is how far two clocks may be apart.
const clockApart = 30 * time.Second

func lookServerClock(ctx context.Context, h Host) finding {
	if h.Live.Server == nil {
		return pass("not needed on a server")
	}
	asked := time.Now()
	theirs, err := h.Live.Server(ctx)
	if err != nil {
		return pass("not looked at: the server does not answer") // LABK080 says what to do
	}
	// The server looked at its clock between the question and the answer, and tells whole seconds.
	ours, slack := time.Now(), time.Since(asked)+time.Second
	apart := ours.Sub(theirs)
	if apart.Abs() > clockApart+slack {
		return warn("it is %s here and %s on the server", ours.UTC().Format(time.TimeOnly), theirs.UTC().Format(time.DateTime))
	}
	return pass("like this PC's")
}

func lookClock(_ context.Context, h Host) finding {
	behind := h.Built.Sub(h.Now)
	switch {
	case h.Built.IsZero():
		return pass("%s", stamp(h.Now))
	case behind > clockFarOff:
		return fail("it is %s, long before this program was built (%s)", stamp(h.Now), stamp(h.Built))
	case behind > 0:
		return warn("it is %s, before this program was built (%s)", stamp(h.Now), stamp(h.Built))
	}
	return pass("%s", stamp(h.Now))
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
