package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/labk/labk/pkg/paths"
)

// Leaf describes a certificate to issue. Without SANs it is for clients only, with them for serving only.
type Leaf struct {
	// Name of the file, without ending.
	Name         string
	CommonName   string
	Organization []string
	DNSNames     []string
	IPs          []net.IP
}

// Leaf names the file of a leaf of this store, whether it is there or not. Its key and its certificate are in one file, so that nobody ever reads the one of before
// with the other of now.
func (s *Store) Leaf(name string) paths.Pair {
	file := filepath.Join(s.dir, name+".pem")
	return paths.Pair{Cert: file, Key: file}
}

// Issue makes sure that the leaf is there: signed by this authority, with everything that l asks for, and not yet due for renewal. Otherwise, or if anew says so, it
// is issued with a new key; issued tells that.
func (c *CA) Issue(l Leaf, anew bool) (p paths.Pair, issued bool, err error) {
	p = c.store.Leaf(l.Name)
	if cert, _, err := load(p); err == nil && !anew && c.good(cert, l) {
		return p, false, nil
	}
	now := c.store.now()
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: l.CommonName, Organization: l.Organization},
		NotBefore:   now.Add(-backdate),
		NotAfter:    now.Add(c.store.LeafLife),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		DNSNames:    l.DNSNames,
		IPAddresses: l.IPs,
	}
	if l.serves() {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	if template.NotAfter.After(c.cert.NotAfter) {
		template.NotAfter = c.cert.NotAfter
	}
	if err := c.write(l, p.Cert, template); err != nil {
		return p, false, fmt.Errorf("issue certificate %s: %w", l.Name, err)
	}
	return p, true, c.store.forgetTwoFiles(l.Name)
}

// write signs a leaf and writes its file: certificate, what others need to trust it, key.
func (c *CA) write(l Leaf, file string, template *x509.Certificate) error {
	cert, key, err := sign(template, c.cert, c.key)
	if err != nil {
		return err
	}
	text := encode(cert)
	if c.former != nil && c.store.now().Before(c.former.NotAfter) {
		// So those trust it who only know the authority of before: a pod that read it at its start, a kubelet that was not told yet, a PC that was off.
		text = append(text, encode(c.cross)...)
		if l.serves() {
			text = append(text, encode(c.former)...)
		}
	}
	if l.serves() {
		// A PC that joins knows the authority by its hash alone, and must be shown it. Last: OpenSSL takes the first issuer that fits, and from this one no way leads to that of before.
		text = append(text, encode(c.cert)...)
	}
	private, err := encodeKey(key)
	if err != nil {
		return err
	}
	return paths.WriteFile(file, append(text, private...), 0o600)
}

// Forget removes every leaf of the store, which its authorities issue anew when they are asked the next time. It names what it has removed.
func (s *Store) Forget() (names []string, err error) {
	files, _ := filepath.Glob(filepath.Join(s.dir, "*.pem")) // an error is only one of the pattern
	for _, file := range files {
		err = errors.Join(err, os.Remove(file))
		names = append(names, strings.TrimSuffix(filepath.Base(file), ".pem"))
	}
	return names, err
}

// forgetTwoFiles removes a leaf as older versions of labk wrote it.
func (s *Store) forgetTwoFiles(name string) error {
	for _, ending := range []string{".crt", ".key"} {
		if err := os.Remove(filepath.Join(s.dir, name+ending)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (l Leaf) serves() bool { return len(l.DNSNames)+len(l.IPs) > 0 }

func (c *CA) good(cert *x509.Certificate, l Leaf) bool {
	now := c.store.now()
	if now.Before(cert.NotBefore) || now.After(cert.NotAfter) {
		return false
	}
	if now.After(RenewAt(cert)) && cert.NotAfter.Before(c.cert.NotAfter) { // one that ends with its authority can't be had with a longer life
		return false
	}
	if cert.CheckSignatureFrom(c.cert) != nil || cert.Subject.CommonName != l.CommonName || !slices.Equal(cert.Subject.Organization, l.Organization) {
		return false
	}
	return slices.Equal(cert.DNSNames, l.DNSNames) && slices.EqualFunc(cert.IPAddresses, l.IPs, net.IP.Equal)
}

// RenewAt is when two thirds of a certificate's life are over.
func RenewAt(cert *x509.Certificate) time.Time {
	return cert.NotAfter.Add(-cert.NotAfter.Sub(cert.NotBefore) / 3)
}

// sign makes a key and a certificate for it; without a parent it is self-signed.
func sign(template, parent *x509.Certificate, signer crypto.Signer) (*x509.Certificate, crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	if parent == nil {
		parent, signer = template, key
	}
	cert, err := signKey(template, key.Public(), parent, signer)
	return cert, key, err
}

// signKey makes a certificate for a key.
func signKey(template *x509.Certificate, key crypto.PublicKey, parent *x509.Certificate, signer crypto.Signer) (cert *x509.Certificate, err error) {
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
