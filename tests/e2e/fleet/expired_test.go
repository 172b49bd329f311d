package fleet

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/labk/labk/tests/e2e/cluster"
)

const agentTLS = "/var/lib/labk/agent/tls"

// The PC was off for so long that the kubelet's certificates have ended: it is known by its machine certificate, and gets new ones without a token.
func testExpired(t *testing.T, w *world, agent *cluster.Node) {
	agent.Signal(t, syscall.SIGTERM)
	_ = agent.Wait(t)
	for link, ca := range map[string]string{"kubelet-client-current.pem": "client-ca", "kubelet-server-current.pem": "server-ca"} {
		old := agent.ReadFile(t, filepath.Join(agentTLS, strings.TrimSpace(agent.Sh(t, "readlink "+filepath.Join(agentTLS, link)+" | xargs basename"))))
		agent.WriteFile(t, filepath.Join(agentTLS, "expired-"+link), w.expired(t, old, ca))
		agent.Sh(t, "ln -sf "+filepath.Join(agentTLS, "expired-"+link)+" "+filepath.Join(agentTLS, link))
	}
	agent.Start(t, "--server", "https://first-pc:6443")
	agent.WaitUp(t)
	w.ready(t, 3)
	w.logs(t, agent.Host.Name())
	for _, link := range []string{"kubelet-client-current.pem", "kubelet-server-current.pem"} {
		if c := parse(t, agent.Sh(t, "cat "+filepath.Join(agentTLS, link))); time.Now().After(c.NotAfter) {
			t.Errorf("%s is still the expired one", link)
		}
	}
}

// expired makes a certificate like old that ended a day ago, signed by the cluster's own authority.
func (w *world) expired(t *testing.T, old, ca string) string {
	t.Helper()
	dir := "/var/lib/labk/server/tls/"
	authority := parse(t, w.ReadFile(t, dir+ca+".crt"))
	block, _ := pem.Decode([]byte(w.ReadFile(t, dir+ca+".key")))
	signer, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	was := parse(t, old)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: was.Subject.CommonName, Organization: was.Subject.Organization},
		NotBefore: time.Now().Add(-48 * time.Hour), NotAfter: time.Now().Add(-24 * time.Hour),
		KeyUsage: was.KeyUsage, ExtKeyUsage: was.ExtKeyUsage, DNSNames: was.DNSNames, IPAddresses: was.IPAddresses,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, authority, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) + string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}

func parse(t *testing.T, text string) *x509.Certificate {
	t.Helper()
	for rest := []byte(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			t.Fatalf("no certificate in %.60q", text)
		}
		if block.Type == "CERTIFICATE" {
			c, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
	}
}
