package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

// ServerTLS and AgentTLS are where labk keeps certificates.
const (
	ServerTLS = "/var/lib/labk/server/tls/"
	AgentTLS  = "/var/lib/labk/agent/tls/"
)

// Certificate is the first one in PEM text.
func Certificate(t testing.TB, text string) *x509.Certificate {
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

// Expired makes a certificate like old that ended a day ago, signed by the authority of the server that is called ca, and returns it with its key, as PEM.
func (c *Cluster) Expired(t testing.TB, old, ca string) string {
	t.Helper()
	authority := Certificate(t, c.ReadFile(t, ServerTLS+ca+".crt"))
	block, _ := pem.Decode([]byte(c.ReadFile(t, ServerTLS+ca+".key")))
	signer, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	was := Certificate(t, old)
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
