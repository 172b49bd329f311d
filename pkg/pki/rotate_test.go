package pki

import (
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/labk/labk/pkg/paths"
)

// cluster makes everything that a server has.
func cluster(t *testing.T) (*Store, *clock) {
	t.Helper()
	s, c := newStore(t)
	settle(t, s)
	return s, c
}

// settle is what a server does with its store at its start.
func settle(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Resume(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{ServerCA, ClientCA, RequestHeaderCA} {
		mustCA(t, s, name)
	}
	if _, err := s.SigningKey(); err != nil {
		t.Fatal(err)
	}
}

// issue issues a leaf, or keeps the one that is there, and returns it with what its file shows beside it.
func issue(t *testing.T, s *Store, ca string, l Leaf) []*x509.Certificate {
	t.Helper()
	p, _, err := mustCA(t, s, ca).Issue(l, false)
	if err != nil {
		t.Fatal(err)
	}
	certs, err := loadCerts(p.Cert)
	if err != nil {
		t.Fatal(err)
	}
	return certs
}

// accepted tells whether somebody who trusts the authorities in the text accepts the leaf that is shown.
func accepted(shown []*x509.Certificate, text string, now time.Time, use x509.ExtKeyUsage) bool {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(text))
	for _, c := range shown[1:] {
		between.AddCert(c)
	}
	_, err := shown[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{use}})
	return err == nil
}

// openSSL asks OpenSSL, which looks for an issuer in another way: it never goes back and tries another one.
func openSSL(t *testing.T, shown, text string, now time.Time) ([]byte, error) {
	t.Helper()
	roots := filepath.Join(t.TempDir(), "roots.crt")
	if err := os.WriteFile(roots, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return exec.CommandContext(t.Context(), "openssl", "verify", "-attime", strconv.FormatInt(now.Unix(), 10), "-purpose", "sslserver",
		"-no-CApath", "-no-CAstore", "-CAfile", roots, "-untrusted", shown, shown).CombinedOutput()
}

// Whoever knows the authorities of before, both, or the present ones only, is understood, and understands, as long as the change is under way; afterwards those of before are not
// accepted any more.
func TestRotation(t *testing.T) {
	s, c := cluster(t)
	client := Leaf{Name: "kubelet", CommonName: "kubelet"}
	oldServer, oldClient, oldKey := read(t, s.Trust(ServerCA)), read(t, s.Trust(ClientCA)), read(t, s.SigningPair().Cert)
	before := issue(t, s, ClientCA, client)
	beforeServing := issue(t, s, ServerCA, serving)
	c.now = c.now.Add(time.Hour)
	if err := s.Begin(); err != nil {
		t.Fatal(err)
	}
	if read(t, s.Trust(ServerCA)) != oldServer || !issue(t, s, ClientCA, client)[0].Equal(before[0]) {
		t.Error("something changed before Resume")
	}
	if err := s.Begin(); !errors.Is(err, ErrRotating) {
		t.Errorf("begun twice: %v", err)
	}
	if r, err := s.Rotation(); err != nil || r != nil {
		t.Errorf("a change that is only prepared is under way: %v, %v", r, err)
	}
	made := c.now
	c.now = c.now.Add(3 * 24 * time.Hour) // prepared on a Friday
	settle(t, s)
	if r, err := s.Rotation(); err != nil || r == nil || !r.Began.Equal(c.now) {
		t.Errorf("rotation %v, %v", r, err)
	}
	if err := s.Begin(); !errors.Is(err, ErrRotating) {
		t.Errorf("begun while the first is under way: %v", err)
	}

	both := read(t, s.Trust(ClientCA))
	newServer := read(t, mustCA(t, s, ServerCA).Cert)
	shown, clientNow := issue(t, s, ServerCA, serving), issue(t, s, ClientCA, client)
	if shown[0].Equal(beforeServing[0]) || clientNow[0].Equal(before[0]) {
		t.Error("leaves of before were kept")
	}
	for name, text := range map[string]string{"of before": oldServer, "both": read(t, s.Trust(ServerCA)), "present": newServer} {
		if !accepted(shown, text, c.now, x509.ExtKeyUsageServerAuth) {
			t.Errorf("who trusts %s does not accept the server", name)
		}
		if out, err := openSSL(t, s.Leaf(serving.Name).Cert, text, c.now); err != nil {
			t.Errorf("OpenSSL that trusts %s does not accept the server: %v: %s", name, err, out)
		}
	}
	if !accepted(clientNow, oldClient, c.now, x509.ExtKeyUsageClientAuth) || !accepted(clientNow, both, c.now, x509.ExtKeyUsageClientAuth) {
		t.Error("a kubelet does not accept the API server")
	}
	if !accepted(before, both, c.now, x509.ExtKeyUsageClientAuth) {
		t.Error("a client with a certificate of before is not accepted")
	}
	if keys := read(t, s.SigningPair().Cert); !strings.HasSuffix(keys, oldKey) || strings.Count(keys, "BEGIN PUBLIC KEY") != 2 {
		t.Errorf("keys for tokens: %s", keys)
	}

	if err := s.Finish(); err != nil {
		t.Fatal(err)
	}
	settle(t, s)
	present := read(t, s.Trust(ClientCA))
	if accepted(before, present, c.now, x509.ExtKeyUsageClientAuth) || !accepted(clientNow, present, c.now, x509.ExtKeyUsageClientAuth) {
		t.Error("afterwards the wrong clients are accepted")
	}
	if !accepted(issue(t, s, ServerCA, serving), oldServer, c.now, x509.ExtKeyUsageServerAuth) {
		t.Error("a pod that read the authority of before at its start does not accept the server")
	}
	if keys := read(t, s.SigningPair().Cert); strings.Contains(keys, oldKey) || strings.Count(keys, "BEGIN PUBLIC KEY") != 1 {
		t.Errorf("keys for tokens: %s", keys)
	}
	if read(t, s.Trust(ServerCA)) != newServer {
		t.Error("that of before is still trusted")
	}
	c.now = made.Add(caLife - 30*time.Minute)
	settle(t, s)
	if left, _ := filepath.Glob(filepath.Join(s.dir, former, "*")); len(left) > 0 {
		t.Errorf("left after all has ended: %v", left)
	}
	if err := s.Begin(); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

// The power may fail after any file that is written: the next start has the authorities of before, or the new ones, and never a mixture.
func TestRotationAndPowerCuts(t *testing.T) {
	whole, c := cluster(t)
	if err := whole.Begin(); err != nil {
		t.Fatal(err)
	}
	var files []string // of the new authorities
	err := filepath.WalkDir(filepath.Join(whole.dir, next), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files = append(files, strings.TrimPrefix(path, filepath.Join(whole.dir, next)))
		}
		return err
	})
	if err != nil || len(files) != 14 {
		t.Fatalf("%d files: %v, %v", len(files), files, err)
	}
	for cut := range len(files) + 1 {
		s := NewStore(t.TempDir(), c.Now)
		if err := os.CopyFS(s.dir, os.DirFS(whole.dir)); err != nil {
			t.Fatal(err)
		}
		for _, name := range files[:cut] { // in their places already
			if err := copyFile(filepath.Join(s.dir, next, name), filepath.Join(s.dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		settle(t, s)
		if r, err := s.Rotation(); err != nil || r == nil {
			t.Errorf("cut after %d: rotation %v, %v", cut, r, err)
		}
		for _, name := range []string{ServerCA, ClientCA, RequestHeaderCA} {
			ca := mustCA(t, s, name)
			if ca.former == nil || ca.cross.CheckSignatureFrom(ca.former) != nil || ca.former.Equal(ca.cert) {
				t.Errorf("cut after %d: %s is not the successor of the one of before", cut, name)
			}
		}
	}

	for _, name := range []string{"server-ca.key", "rotation.json"} { // while they were being made
		s, _ := cluster(t)
		before := read(t, s.Authority(ServerCA).Cert)
		if err := paths.WriteFile(filepath.Join(s.dir, making, name), []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
		settle(t, s)
		if r, err := s.Rotation(); err != nil || r != nil || read(t, s.Authority(ServerCA).Cert) != before || !missing(filepath.Join(s.dir, making)) {
			t.Errorf("half made: rotation %v, %v", r, err)
		}
	}
}

// A cluster whose authorities have ended can be brought back.
func TestRotationOfAnEndedAuthority(t *testing.T) {
	s, c := cluster(t)
	c.now = c.now.Add(caLife + time.Hour)
	if err := s.Begin(); err != nil {
		t.Fatal(err)
	}
	settle(t, s)
	shown := issue(t, s, ServerCA, serving)
	if !accepted(shown, read(t, s.Trust(ServerCA)), c.now, x509.ExtKeyUsageServerAuth) {
		t.Error("who trusts the new one does not accept the server")
	}
}

// What is damaged is not replaced by something new.
func TestRotationOfADamagedAuthority(t *testing.T) {
	s, _ := cluster(t)
	if err := os.Remove(s.Authority(ClientCA).Key); err != nil {
		t.Fatal(err)
	}
	if err := s.Begin(); err == nil || !strings.Contains(err.Error(), "restore") || !missing(filepath.Join(s.dir, next)) {
		t.Errorf("got %v", err)
	}
}

// While labk does not run, nobody knows who has followed.
func TestChangeAtRest(t *testing.T) {
	s, _ := cluster(t)
	if err := s.Change(Change{Finish: true, Force: true}); !errors.Is(err, ErrNotRotating) {
		t.Errorf("nothing to finish: %v", err)
	}
	if err := s.Change(Change{}); err != nil {
		t.Fatal(err)
	}
	settle(t, s)
	if err := s.Change(Change{Finish: true}); err == nil || !strings.Contains(err.Error(), "--force") {
		t.Errorf("finish without force: %v", err)
	}
	if r, err := s.Rotation(); err != nil || r == nil {
		t.Errorf("rotation %v, %v", r, err)
	}
	if err := s.Change(Change{Finish: true, Force: true}); err != nil {
		t.Error(err)
	}
	if r, err := s.Rotation(); err != nil || r != nil {
		t.Errorf("rotation %v, %v", r, err)
	}
}
