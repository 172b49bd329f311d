package pki

import (
	"crypto/x509"
	"path/filepath"
	"testing"
	"time"

	"github.com/labk/labk/pkg/paths"
)

func TestLook(t *testing.T) {
	c := &clock{time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)}
	data := paths.Data(t.TempDir())
	if all, err := Look(data, c.now); err != nil || len(all) > 0 {
		t.Fatalf("an empty folder: %v, %v", all, err)
	}
	s := NewStore(data.ServerTLS(), c.Now)
	ca := mustCA(t, s, "client-ca")
	for _, l := range []Leaf{serving, {Name: "admin", CommonName: "admin"}} {
		if _, _, err := ca.Issue(l, false); err != nil {
			t.Fatal(err)
		}
	}
	certs, err := loadCerts(ca.Cert)
	if err != nil {
		t.Fatal(err)
	}
	machine, _, err := sign(&x509.Certificate{NotBefore: c.now, NotAfter: c.now.Add(caLife)}, certs[0], ca.key)
	if err != nil {
		t.Fatal(err)
	}
	if err := paths.WriteFile(filepath.Join(data.AgentTLS(), "machine.crt"), encode(machine), 0o600); err != nil {
		t.Fatal(err)
	}
	start := c.now
	for _, tc := range []struct {
		after                        time.Duration
		authority, leaf, machineLeaf State
		wrong                        int
	}{
		{-time.Hour, Future, Future, Future, 4},
		{0, Good, Good, Good, 0},
		{leafLife * 3 / 4, Good, Due, Good, 0},
		{leafLife + time.Hour, Good, Ended, Good, 2},
		{caLife - leafLife/2, Near, Ended, Near, 2},
		{caLife + time.Hour, Ended, Ended, Ended, 4},
	} {
		all, err := Look(data, start.Add(tc.after))
		if err != nil {
			t.Fatal(err)
		}
		got, wrong := map[string]Found{}, 0
		for _, f := range all {
			got[f.Name] = f
			if f.Wrong() {
				wrong++
			}
		}
		if len(got) != 4 || wrong != tc.wrong {
			t.Errorf("after %v: %d certificates, %d wrong: %v", tc.after, len(got), wrong, all)
		}
		for name, want := range map[string]struct {
			use   string
			state State
		}{"client-ca": {"authority", tc.authority}, "api": {"server", tc.leaf}, "admin": {"client", tc.leaf}, "machine": {"client", tc.machineLeaf}} {
			if f := got[name]; f.Use != want.use || f.State != want.state {
				t.Errorf("after %v, %s: %+v, want %v", tc.after, name, f, want)
			}
		}
	}
}
