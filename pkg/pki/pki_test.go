package pki

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// clock is a time that the test moves.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func newStore(t *testing.T) (*Store, *clock) {
	c := &clock{time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)}
	return NewStore(t.TempDir(), c.Now), c
}

func mustCA(t *testing.T, s *Store, name string) *CA {
	t.Helper()
	ca, err := s.CA(name)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

var serving = Leaf{Name: "api", CommonName: "api", DNSNames: []string{"localhost"}, IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}

func TestServingLeafIsTrusted(t *testing.T) {
	s, c := newStore(t)
	ca := mustCA(t, s, "server-ca")
	p, _, err := ca.Issue(serving, false)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(p.Cert, p.Key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(read(t, ca.Cert)))
	for _, name := range []string{"localhost", "127.0.0.1"} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: c.now}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: "other", Roots: roots, CurrentTime: c.now}); err == nil {
		t.Error("trusted for a name that it does not have")
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: c.now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("a serving certificate must be no client's")
	}
	if info, err := os.Stat(p.Key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, %v", info.Mode(), err)
	}
}

func TestWhatIsGoodIsKept(t *testing.T) {
	for name, tc := range map[string]struct {
		later  time.Duration
		change func(*Leaf)
		anew   bool
		kept   bool
	}{
		"unchanged":          {0, func(*Leaf) {}, false, true},
		"wanted anew":        {0, func(*Leaf) {}, true, false},
		"before two thirds":  {leafLife*2/3 - 10*time.Minute, func(*Leaf) {}, false, true},
		"after two thirds":   {leafLife * 2 / 3, func(*Leaf) {}, false, false},
		"expired":            {2 * leafLife, func(*Leaf) {}, false, false},
		"from the future":    {-time.Hour, func(*Leaf) {}, false, false},
		"other address":      {0, func(l *Leaf) { l.IPs = []net.IP{net.IPv4(10, 0, 0, 1)} }, false, false},
		"other name":         {0, func(l *Leaf) { l.DNSNames = []string{"x"} }, false, false},
		"other identity":     {0, func(l *Leaf) { l.CommonName = "x" }, false, false},
		"other organization": {0, func(l *Leaf) { l.Organization = []string{"x"} }, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			s, c := newStore(t)
			c.now = c.now.Add(-24 * time.Hour)
			mustCA(t, s, "ca")
			c.now = c.now.Add(24 * time.Hour)
			p, _, err := mustCA(t, s, "ca").Issue(serving, false)
			if err != nil {
				t.Fatal(err)
			}
			before := read(t, p.Cert)
			c.now = c.now.Add(tc.later)
			l := serving
			tc.change(&l)
			_, issued, err := mustCA(t, s, "ca").Issue(l, tc.anew)
			if err != nil || issued == tc.kept {
				t.Fatalf("issued: %v, %v", issued, err)
			}
			if kept := read(t, p.Cert) == before; kept != tc.kept {
				t.Errorf("kept: %v, want %v", kept, tc.kept)
			}
		})
	}
}

func TestLeafOfAnotherAuthorityIsIssuedAnew(t *testing.T) {
	s, _ := newStore(t)
	p, _, err := mustCA(t, s, "one").Issue(serving, false)
	if err != nil {
		t.Fatal(err)
	}
	before := read(t, p.Cert)
	if _, _, err := mustCA(t, s, "two").Issue(serving, false); err != nil {
		t.Fatal(err)
	}
	if read(t, p.Cert) == before {
		t.Error("kept")
	}
}

func TestDamagedAuthorityIsNeverReplaced(t *testing.T) {
	for name, damage := range map[string]func(*CA) error{
		"no key":         func(c *CA) error { return os.Remove(c.Key) },
		"no certificate": func(c *CA) error { return os.Remove(c.Cert) },
		"not PEM":        func(c *CA) error { return os.WriteFile(c.Cert, []byte("x"), 0o600) },
		"other key": func(c *CA) error {
			other, err := c.store.CA("other")
			if err != nil {
				return err
			}
			return os.Rename(other.Key, c.Key)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := newStore(t)
			if err := damage(mustCA(t, s, "ca")); err != nil {
				t.Fatal(err)
			}
			if _, err := s.CA("ca"); err == nil || !strings.Contains(err.Error(), "restore") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestClockBeforeTheAuthority(t *testing.T) {
	s, c := newStore(t)
	mustCA(t, s, "ca")
	c.now = c.now.Add(-24 * time.Hour)
	if _, err := s.CA("ca"); err == nil || !strings.Contains(err.Error(), "set the clock") {
		t.Errorf("got %v", err)
	}
}

func TestSigningKeyIsKept(t *testing.T) {
	s, _ := newStore(t)
	p, err := s.SigningKey()
	if err != nil {
		t.Fatal(err)
	}
	before := read(t, p.Key) + read(t, p.Cert)
	if _, err := s.SigningKey(); err != nil || read(t, p.Key)+read(t, p.Cert) != before {
		t.Errorf("changed: %v", err)
	}
}

// A server that was off for two years has new leaves at its start; one that runs renews them for as long as its authority lives.
func TestLeavesOverTheYears(t *testing.T) {
	s, c := newStore(t)
	ca := mustCA(t, s, "ca")
	end := ca.cert.NotAfter
	valid := func() *x509.Certificate {
		t.Helper()
		p, _, err := mustCA(t, s, "ca").Issue(serving, false)
		if err != nil {
			t.Fatal(err)
		}
		certs, err := loadCerts(p.Cert)
		if err != nil {
			t.Fatal(err)
		}
		if c.now.Before(certs[0].NotBefore) || c.now.After(certs[0].NotAfter) {
			t.Fatalf("at %v it is valid from %v to %v", c.now, certs[0].NotBefore, certs[0].NotAfter)
		}
		return certs[0]
	}
	first := valid()
	c.now = c.now.Add(2 * leafLife)
	if valid().Equal(first) {
		t.Error("the old one was kept")
	}
	issued := 0
	for last := valid(); c.now.Before(end); c.now = c.now.Add(6 * time.Hour) {
		if now := valid(); !now.Equal(last) {
			if left := last.NotAfter.Sub(c.now); left < leafLife/4 {
				t.Errorf("renewed %v before its end", left)
			}
			last, issued = now, issued+1
		}
	}
	if issued < 11 || issued > 12 { // eight years of eight months each
		t.Errorf("issued %d times", issued)
	}
	c.now = end.Add(time.Hour)
	if _, err := s.CA("ca"); err == nil || !strings.Contains(err.Error(), "rotate-ca") {
		t.Errorf("an authority that has ended: %v", err)
	}
}

// Older versions of labk had a file for the certificate and one for the key.
func TestTwoFilesBecomeOne(t *testing.T) {
	s, _ := newStore(t)
	ca := mustCA(t, s, "ca")
	for _, ending := range []string{".crt", ".key"} {
		if err := os.WriteFile(filepath.Join(s.dir, serving.Name+ending), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := ca.Issue(serving, false); err != nil {
		t.Fatal(err)
	}
	if files, _ := filepath.Glob(filepath.Join(s.dir, serving.Name+".*")); len(files) != 1 {
		t.Errorf("there are %v", files)
	}
}
