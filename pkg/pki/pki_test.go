package pki

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
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
	p, err := ca.Issue(serving)
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
		kept   bool
	}{
		"unchanged":      {0, func(*Leaf) {}, true},
		"half its life":  {leafLife / 2, func(*Leaf) {}, true},
		"near its end":   {leafLife * 3 / 4, func(*Leaf) {}, false},
		"expired":        {2 * leafLife, func(*Leaf) {}, false},
		"other address":  {0, func(l *Leaf) { l.IPs = []net.IP{net.IPv4(10, 0, 0, 1)} }, false},
		"other name":     {0, func(l *Leaf) { l.DNSNames = []string{"x"} }, false},
		"other identity": {0, func(l *Leaf) { l.CommonName = "x" }, false},
		"other group":    {0, func(l *Leaf) { l.Organization = []string{"x"} }, false},
	} {
		t.Run(name, func(t *testing.T) {
			s, c := newStore(t)
			p, err := mustCA(t, s, "ca").Issue(serving)
			if err != nil {
				t.Fatal(err)
			}
			before := read(t, p.Cert)
			c.now = c.now.Add(tc.later)
			l := serving
			tc.change(&l)
			if _, err := mustCA(t, s, "ca").Issue(l); err != nil {
				t.Fatal(err)
			}
			if kept := read(t, p.Cert) == before; kept != tc.kept {
				t.Errorf("kept: %v, want %v", kept, tc.kept)
			}
		})
	}
}

func TestLeafOfAnotherAuthorityIsIssuedAnew(t *testing.T) {
	s, _ := newStore(t)
	p, err := mustCA(t, s, "one").Issue(serving)
	if err != nil {
		t.Fatal(err)
	}
	before := read(t, p.Cert)
	if _, err := mustCA(t, s, "two").Issue(serving); err != nil {
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
	p, err := s.SigningKey("service-account")
	if err != nil {
		t.Fatal(err)
	}
	before := read(t, p.Key) + read(t, p.Cert)
	if _, err := s.SigningKey("service-account"); err != nil || read(t, p.Key)+read(t, p.Cert) != before {
		t.Errorf("changed: %v", err)
	}
}
