package pki

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/labk/labk/pkg/paths"
)

// What commands ask of the labk that runs.
const (
	// RotateRoute, POST: issue leaves anew. The answer is a Rotated.
	RotateRoute = "/certificates/rotate"
	// RotateCARoute, POST with a Change: begin or finish a change of authorities. GET: the answer is how it stands, a Progress.
	RotateCARoute = "/certificates/rotate-ca"
)

// Rotated names leaves: those that have been issued anew, and on an agent those that its fresh start asks for anew.
type Rotated struct {
	Issued []string `json:"issued,omitempty"`
	Asked  []string `json:"asked,omitempty"`
}

// Change says what is to be done to the authorities: new ones, or with Finish the end of trust in those of before; with Force also if there are nodes that have not followed.
type Change struct {
	Finish bool `json:"finish"`
	Force  bool `json:"force"`
}

// Progress is how a change of authorities stands.
type Progress struct {
	// Rotation is nil if none is under way.
	Rotation *Rotation `json:"rotation,omitempty"`
	// Behind names the nodes that have no certificates of the new authorities yet.
	Behind []string `json:"behind,omitempty"`
	// Followed is when the last of the others got its certificate of the new authorities in the place of one of before.
	Followed time.Time `json:"followed,omitzero"`
}

// State is how a certificate stands.
type State string

// The states. Good needs nothing; Due will be renewed soon, by labk or the kubelet; Near is an authority whose end is near, which a person has to replace; Ended and
// Future are accepted by nobody.
const (
	Good   State = "good"
	Due    State = "due"
	Near   State = "near its end"
	Ended  State = "ended"
	Future State = "not begun"
)

// nearEnd is how long before an authority's end its leaves begin to end with it.
const nearEnd = leafLife

// Found is a certificate of this PC.
type Found struct {
	// Name is the file's, without ending.
	Name string `json:"name"`
	File string `json:"file"`
	// Subject is the common name, Use one of "authority", "client", "server".
	Subject string `json:"subject"`
	Use     string `json:"use"`
	// Names and addresses that a server's is for.
	Names []string  `json:"names,omitempty"`
	From  time.Time `json:"from"`
	Until time.Time `json:"until"`
	// Renew is when it will be renewed by itself; nil for one that will not be.
	Renew *time.Time `json:"renew,omitempty"`
	State State      `json:"state"`
}

// Wrong tells whether nobody accepts the certificate.
func (f Found) Wrong() bool { return f.State == Ended || f.State == Future }

// Look reads the certificates of a data folder, the server's first; files that hold none are left out.
func Look(d paths.Data, now time.Time) ([]Found, error) {
	var all []Found
	for _, dir := range []struct{ path, pattern string }{
		{d.ServerTLS(), "*.crt"}, {d.ServerTLS(), "*.pem"}, {d.AgentTLS(), "machine.crt"}, {d.AgentTLS(), "kubelet-*-current.pem"},
	} {
		if _, err := os.ReadDir(dir.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("look for certificates: %w", err)
		}
		files, err := filepath.Glob(filepath.Join(dir.path, dir.pattern))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			if certs, err := loadCerts(file); err == nil {
				all = append(all, found(file, certs[0], now))
			}
		}
	}
	return all, nil
}

func found(file string, c *x509.Certificate, now time.Time) Found {
	name := filepath.Base(file)
	f := Found{
		Name: strings.TrimSuffix(strings.TrimSuffix(name, filepath.Ext(name)), "-current"), File: file,
		Subject: c.Subject.CommonName, From: c.NotBefore, Until: c.NotAfter, Names: slices.Clone(c.DNSNames), State: Good,
	}
	for _, ip := range c.IPAddresses {
		f.Names = append(f.Names, ip.String())
	}
	renew := RenewAt(c)
	switch {
	case c.IsCA:
		f.Use = "authority"
	case slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth):
		f.Use, f.Renew = "server", &renew
	default:
		f.Use, f.Renew = "client", &renew
	}
	if f.Name == "machine" { // it lasts as long as its authority
		f.Renew = nil
	}
	switch {
	case now.Before(c.NotBefore):
		f.State = Future
	case now.After(c.NotAfter):
		f.State = Ended
	case f.Renew != nil && now.After(renew):
		f.State = Due
	case f.Renew == nil && c.NotAfter.Sub(now) < nearEnd:
		f.State = Near
	}
	return f
}
