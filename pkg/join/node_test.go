package join

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/pki"
)

func TestCheckSkew(t *testing.T) {
	for name, tc := range map[string]struct {
		mine, theirs string
		want         string // part of the error; empty: they fit
	}{
		"the same":           {"v1.37.1+labk1", "v1.37.1+labk1", ""},
		"another patch":      {"v1.37.4+labk1", "v1.37.1+labk1", ""},
		"older":              {"v1.36.0+labk1", "v1.37.1+labk1", ""},
		"three older":        {"v1.34.9+labk1", "v1.37.1+labk1", ""},
		"four older":         {"v1.33.9+labk1", "v1.37.1+labk1", "older than the server (v1.37.1+labk1) by more than 3 minor versions"},
		"newer":              {"v1.38.0+labk1", "v1.37.9+labk1", "newer than the server (v1.37.9+labk1), and a node must not be"},
		"newer, major":       {"v2.0.0", "v1.99.0", "a node must not be"},
		"no version here":    {"unknown", "v1.37.1", ""},
		"no version there":   {"v1.37.1", "", "is it a labk server?"},
		"nonsense there":     {"v1.37.1", "latest", `"latest"`},
		"a pre-release here": {"v1.37.0-rc.1", "v1.37.1", ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := checkSkew(tc.mine, tc.theirs)
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}

// joinedPC makes the credentials of a PC that joined as the node, at a time, and returns the hash of its cluster's CA.
func joinedPC(t *testing.T, files Files, node string, m Machine, when time.Time) string {
	t.Helper()
	ca := makeCA(t, "ca", func() time.Time { return when })
	text, err := os.ReadFile(ca.Cert)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: MachineUser + node}}, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.SignRequest(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request}))
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := files.writeMachine(authorities{text, text}, cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), m); err != nil {
		t.Fatal(err)
	}
	return hashOf(t, ca)
}

// TestTrust: OWN in a token stands for the hash of the CA that the PC joined with.
func TestTrust(t *testing.T) {
	pc := Machine{ID: "id", MACs: []string{"a"}}
	whole := "labk1-OWN-" + someToken.Bootstrap()
	for name, tc := range map[string]struct {
		joined  string // as which node
		machine Machine
		age     time.Duration
		damage  string // a file to remove
		token   string
		known   bool
		want    string // part of the error
	}{
		"new, no token":             {want: "has not joined yet"},
		"new":                       {token: someToken.String()},
		"new, half a token":         {token: "labk1-", want: "copy the whole token"},
		"joined, no token":          {joined: "pc", machine: pc, known: true},
		"joined, own token":         {joined: "pc", machine: pc, token: whole, known: true},
		"joined, other cluster":     {joined: "pc", machine: pc, token: someToken.String(), known: true}, // which of the two, the server shows
		"re-installed":              {joined: "pc", machine: Machine{ID: "other", MACs: []string{"a"}}, known: true},
		"copied, no token":          {joined: "pc", machine: Machine{ID: "id", MACs: []string{"b"}}, want: "copy of another PC's"},
		"copied":                    {joined: "pc", machine: Machine{ID: "id", MACs: []string{"b"}}, token: whole},
		"renamed, no token":         {joined: "old", machine: pc, want: "joined as the node old, not as pc"},
		"renamed":                   {joined: "old", machine: pc, token: whole},
		"ended, no token":           {joined: "pc", machine: pc, age: 11 * 365 * 24 * time.Hour, want: "has not joined yet"},
		"ended":                     {joined: "pc", machine: pc, age: 11 * 365 * 24 * time.Hour, token: whole},
		"half joined, no token":     {joined: "pc", machine: pc, damage: "machine.crt", want: "has not joined yet"},
		"without its key":           {joined: "pc", machine: pc, damage: "machine.key", token: whole},
		"without the CA":            {joined: "pc", machine: pc, damage: "server-ca.crt", token: whole},
		"without its machine":       {joined: "pc", machine: pc, damage: "machine.json", want: "copy of another PC's"},
		"joined, and half a token":  {joined: "pc", machine: pc, token: "labk1-", want: "copy the whole token"},
		"without the clients' CA":   {joined: "pc", machine: pc, damage: "client-ca.crt", known: true},
		"without the machine, anew": {joined: "pc", machine: pc, damage: "machine.json", token: whole},
	} {
		t.Run(name, func(t *testing.T) {
			data := paths.Data(t.TempDir())
			files := NodeFiles(data)
			own := ""
			if tc.joined != "" {
				own = joinedPC(t, files, tc.joined, pc, time.Now().Add(-tc.age))
			}
			if tc.damage != "" {
				if err := os.Remove(files.Dir + "/" + tc.damage); err != nil {
					t.Fatal(err)
				}
			}
			text := strings.Replace(tc.token, "OWN", own, 1)
			j := &joiner{files: files, Options: Options{Config: &config.Config{NodeName: "pc"}, Machine: tc.machine, Token: func() (string, error) { return text, nil }}}
			got, err := j.trust()
			if tc.want != "" {
				if mistake := new(config.Error); !errors.As(err, &mistake) || mistake.Option != "token" || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("got %v, want %q", err, tc.want)
				}
				return
			}
			if err != nil || (got.token != nil) != (text != "") {
				t.Fatalf("got %+v, %v", got, err)
			}
			if known := slices.Equal(got.known, []string{own}); known != tc.known || !known && len(got.known) > 0 {
				t.Errorf("it knows the CAs %v", got.known)
			}
		})
	}
}

func TestForgetAndWriteMachine(t *testing.T) {
	files := NodeFiles(paths.Data(t.TempDir()))
	if err := files.forget(); err != nil {
		t.Errorf("nothing to forget: %v", err)
	}
	joinedPC(t, files, "pc", Machine{MACs: []string{"a"}}, time.Now())
	if got := files.joinedAs(time.Now()); got != "pc" {
		t.Errorf("joined as %q", got)
	}
	for _, path := range []string{files.machine.Key, files.identity} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
	if err := files.forget(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(files.Dir); err != nil || len(left) > 0 || files.joinedAs(time.Now()) != "" {
		t.Errorf("left: %v, %v", left, err)
	}
}

// TestKeep: a certificate a start, so those before it must go.
func TestKeep(t *testing.T) {
	files := NodeFiles(paths.Data(t.TempDir()))
	joinedPC(t, files, "pc", Machine{}, time.Now())
	cert, err := os.ReadFile(files.machine.Cert)
	if err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(files.machine.Key)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(files.ClientCA)
	if err != nil {
		t.Fatal(err)
	}
	old, other := filepath.Join(files.Dir, clientStore+"-2025-01-01-00-00-00.pem"), filepath.Join(files.Dir, servingStore+"-2025-01-01-00-00-00.pem")
	for _, path := range []string{old, other} {
		if err := os.WriteFile(path, append(cert, key...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(old, filepath.Join(files.Dir, clientStore+"-current.pem")); err != nil {
		t.Fatal(err)
	}
	if err := files.keep(clientStore, cert, key); err != nil {
		t.Fatal(err)
	}
	if got := files.current(clientStore, time.Now(), MachineUser+"pc", ca); got == nil {
		t.Error("it is not the current one")
	}
	if files.current(clientStore, time.Now(), MachineUser+"other", ca) != nil || files.current(servingStore, time.Now(), MachineUser+"pc", ca) != nil {
		t.Error("another's is the current one")
	}
	successor, err := os.ReadFile(makeCA(t, "client-ca", time.Now).Cert)
	if err != nil {
		t.Fatal(err)
	}
	if files.current(clientStore, time.Now(), MachineUser+"pc", append(successor, ca...)) != nil {
		t.Error("one of the authority of before is the current one")
	}
	if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old one: %v", err)
	}
	if _, err := os.Stat(other); err != nil {
		t.Errorf("the other store's: %v", err)
	}
}

// A server whose authorities were changed is found by who knows those of before, and by who knows the present ones; whose token is another cluster's does not show it there.
func TestConnect(t *testing.T) {
	store := pki.NewStore(t.TempDir(), time.Now)
	for _, name := range []string{pki.ServerCA, pki.ClientCA, pki.RequestHeaderCA} {
		if _, err := store.CA(name); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := store.SigningKey(); err != nil {
		t.Fatal(err)
	}
	hash := func() string {
		ca, err := store.CA(pki.ServerCA)
		if err != nil {
			t.Fatal(err)
		}
		return CAHash(ca.Certificate())
	}
	before := hash()
	if err := errors.Join(store.Begin(), store.Resume(), store.Finish()); err != nil {
		t.Fatal(err)
	}
	present := hash()
	ca, err := store.CA(pki.ServerCA)
	if err != nil {
		t.Fatal(err)
	}
	u, _ := listen(t, serving(t, ca, pki.Leaf{IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}))
	for name, tc := range map[string]struct {
		known []string
		token string // the CA that it names
		still bool   // it is the server of before
		kept  bool   // the token may be shown
		want  string // part of the error
	}{
		"new":                          {token: present, kept: true},
		"new, token of before":         {token: before, kept: true},
		"new, token of another":        {token: otherHash, want: "not the server that the token is for"},
		"knows that of before":         {known: []string{before}, still: true},
		"knows both":                   {known: []string{present, before}, still: true},
		"knows the present":            {known: []string{present}, still: true},
		"has its token of before":      {known: []string{present}, token: before, still: true, kept: true},
		"has a token of another":       {known: []string{present}, token: otherHash, still: true},
		"knows another, token of here": {known: []string{otherHash}, token: present, kept: true},
		"knows another":                {known: []string{otherHash}, want: "this PC knows the CA " + otherHash[:12] + "... of its cluster, and the server's is " + present[:12] + "...: if the authorities were changed"},
		"knows another, no token fits": {known: []string{otherHash}, token: someHash, want: "the token names the CA " + someHash[:12] + "..., and the server's is " + present[:12]},
	} {
		t.Run(name, func(t *testing.T) {
			j := &joiner{Options: Options{Server: u, Say: t.Logf}}
			given := trust{known: tc.known}
			if tc.token != "" {
				given.token = &Token{CAHash: tc.token}
			}
			c, err := j.connect(t.Context(), given)
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("got %v, want %q", err, tc.want)
				}
				return
			}
			if err != nil || j.known != tc.still || (c.token != nil) != tc.kept {
				t.Fatalf("known: %v, client: %+v, %v", j.known, c, err)
			}
			if used, err := parseCerts(c.ca); err != nil || used[0].CheckSignatureFrom(used[0]) != nil {
				t.Errorf("it trusts a CA that another one has signed: %v, %v", used, err)
			}
		})
	}
}

func TestDiffers(t *testing.T) {
	files := NodeFiles(paths.Data(t.TempDir()))
	if err := files.writeCAs(authorities{[]byte("s"), []byte("c")}); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		shared map[string]string
		want   bool
	}{
		"the same":        {map[string]string{KeyServerCA: "s", KeyClientCA: "c"}, false},
		"an older server": {map[string]string{KeyClientCA: "c"}, false},
		"another server":  {map[string]string{KeyServerCA: "s2", KeyClientCA: "c"}, true},
		"another client":  {map[string]string{KeyServerCA: "s", KeyClientCA: "c2"}, true},
	} {
		if got, err := files.differs(tc.shared); err != nil || got != tc.want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
