package health

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
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
		}, look: lookCertificates, asRoot: true},
		{Fault: Fault{
			Code: "LABK051", Title: "clock", Severity: Fatal,
			Cause:  "The clock shows a time before this program was built, so it is wrong. By more than 30 days it is fatal: certificates made now would have ended once it is set right.",
			Remedy: "set the clock (timedatectl set-ntp true, or date --set) and the hardware clock (hwclock --systohc)",
		}, look: lookClock},
	}
}

func lookCertificates(_ context.Context, h Host) finding {
	seen := 0
	for _, dir := range []string{h.data().ServerTLS(), h.data().AgentTLS()} {
		files, err := filepath.Glob(filepath.Join(dir, "*.crt"))
		if err != nil {
			return warn("look for certificates: %v", err)
		}
		for _, name := range files {
			begins, ok := notBefore(name)
			if !ok {
				continue
			}
			seen++
			if h.Now.Before(begins) {
				return fail("it is %s, and %s begins at %s", stamp(h.Now), name, stamp(begins))
			}
		}
	}
	if seen == 0 {
		return pass("no certificates yet")
	}
	return pass("%d certificates have begun", seen)
}

// notBefore is when the first certificate of a file begins. Files that hold none are somebody else's to complain about.
func notBefore(name string) (time.Time, bool) {
	text, err := os.ReadFile(name)
	if err != nil {
		return time.Time{}, false
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return time.Time{}, false
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}, false
	}
	return cert.NotBefore, true
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
