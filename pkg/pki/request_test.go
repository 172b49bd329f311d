package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"slices"
	"strings"
	"testing"
	"time"
)

// request makes a certificate signing request, as PEM.
func request(t *testing.T, key *ecdsa.PrivateKey, r x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &r, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// A request may ask for anything: only its subject and its key get into the certificate.
func TestSignRequest(t *testing.T) {
	s, c := newStore(t)
	ca := mustCA(t, s, "client-ca")
	key := newKey(t)
	signed, err := ca.SignRequest(request(t, key, x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "pc1", Organization: []string{"machines"}},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, EmailAddresses: []string{"root@localhost"},
		ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 0x03, 0x01, 0x01, 0xff}}}, // a CA
	}))
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(signed)
	if block == nil || len(rest) > 0 {
		t.Fatalf("got %s", signed)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	late := c.now.Add(caLife - time.Hour)
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: late, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("it is no client's for as long as the authority lives: %v", err)
	}
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: c.now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err == nil {
		t.Error("it is a server's")
	}
	if !key.PublicKey.Equal(cert.PublicKey) || cert.Subject.CommonName != "pc1" || !slices.Equal(cert.Subject.Organization, []string{"machines"}) {
		t.Errorf("it is of %s", cert.Subject)
	}
	if len(cert.DNSNames)+len(cert.IPAddresses)+len(cert.EmailAddresses) > 0 || cert.IsCA || cert.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("it is for %v %v %v, authority: %v, usage %b", cert.DNSNames, cert.IPAddresses, cert.EmailAddresses, cert.IsCA, cert.KeyUsage)
	}
	again, err := ca.SignRequest(request(t, key, x509.CertificateRequest{Subject: pkix.Name{CommonName: "pc1"}}))
	if err != nil || string(again) == string(signed) {
		t.Errorf("two certificates are one: %v", err)
	}
}

func TestSignRequestRefuses(t *testing.T) {
	s, _ := newStore(t)
	ca := mustCA(t, s, "client-ca")
	good := request(t, newKey(t), x509.CertificateRequest{Subject: pkix.Name{CommonName: "pc1"}})
	block, _ := pem.Decode(good)
	forged := slices.Clone(block.Bytes)
	at := strings.Index(string(forged), "pc1")
	forged[at+2] = '2'
	for name, text := range map[string][]byte{
		"nothing":     nil,
		"no PEM":      []byte("pc1"),
		"no request":  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte("pc1")}),
		"cut":         pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: block.Bytes[:len(block.Bytes)-1]}),
		"forged name": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: forged}),
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := ca.SignRequest(text); err == nil || !strings.Contains(err.Error(), "certificate request") {
				t.Errorf("got %s, %v", got, err)
			}
		})
	}
}
