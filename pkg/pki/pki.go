// Package pki keeps the cluster's certificate authorities and issues leaves from them. Files are PEM; keys are ECDSA P-256 in
// PKCS #8, mode 0600. Everything here may be called again at every start: what is there and still good is kept.
package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/labk/labk/pkg/paths"
)

const (
	caLife   = 10 * 365 * 24 * time.Hour
	leafLife = 365 * 24 * time.Hour
	// backdate lets certificates work on machines whose clocks are a little behind.
	backdate = 5 * time.Minute
)

// Store is a folder of authorities and leaves. Its methods must not be called concurrently for the same name.
type Store struct {
	dir string
	now func() time.Time
}

// NewStore returns the store in dir, which is made when the first certificate is. now tells the time (time.Now).
func NewStore(dir string, now func() time.Time) *Store { return &Store{dir: dir, now: now} }

// CA is a certificate authority.
type CA struct {
	paths.Pair
	store *Store
	cert  *x509.Certificate
	key   crypto.Signer
}

// Leaf describes a certificate to issue. Without SANs it is for clients only, with them also for serving.
type Leaf struct {
	// Name of the files, without ending.
	Name         string
	CommonName   string
	Organization []string
	DNSNames     []string
	IPs          []net.IP
}

// Pair names the files of a certificate of this store, whether they are there or not.
func (s *Store) Pair(name string) paths.Pair {
	return paths.Pair{Cert: filepath.Join(s.dir, name+".crt"), Key: filepath.Join(s.dir, name+".key")}
}

// CA loads the authority called name, or makes it if neither of its files is there. A half or unreadable one is an error:
// making it anew would lock out every node and client of the cluster.
func (s *Store) CA(name string) (*CA, error) {
	p := s.Pair(name)
	cert, key, err := load(p)
	switch {
	case err == nil:
		if s.now().Before(cert.NotBefore) {
			return nil, fmt.Errorf("load certificate authority %s: it begins at %s, and this machine's clock says %s: set the clock",
				p.Cert, cert.NotBefore.Format(time.RFC3339), s.now().UTC().Format(time.RFC3339))
		}
		return &CA{Pair: p, store: s, cert: cert, key: key}, nil
	case missing(p.Cert) && missing(p.Key):
	default:
		return nil, fmt.Errorf("load certificate authority %s: %w: restore both of its files from a copy", p.Cert, err)
	}
	now := s.now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: fmt.Sprintf("labk-%s@%d", name, now.Unix())},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	if err := s.issue(p, template, nil, nil); err != nil {
		return nil, fmt.Errorf("make certificate authority %s: %w", name, err)
	}
	if cert, key, err = load(p); err != nil {
		return nil, fmt.Errorf("make certificate authority %s: %w", name, err)
	}
	return &CA{Pair: p, store: s, cert: cert, key: key}, nil
}

// Issue makes sure that the leaf is there: signed by this authority, with everything that l asks for, and with at least a third of
// its life left. Otherwise it is issued anew.
func (c *CA) Issue(l Leaf) (paths.Pair, error) { return c.IssueIn(c.store.dir, l) }

// IssueIn is Issue into another folder.
func (c *CA) IssueIn(dir string, l Leaf) (paths.Pair, error) {
	p := NewStore(dir, c.store.now).Pair(l.Name)
	if cert, _, err := load(p); err == nil && c.good(cert, l) {
		return p, nil
	}
	now := c.store.now()
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: l.CommonName, Organization: l.Organization},
		NotBefore:   now.Add(-backdate),
		NotAfter:    now.Add(leafLife),
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
	if err := c.store.issue(p, template, c.cert, c.key); err != nil {
		return paths.Pair{}, fmt.Errorf("issue certificate %s: %w", l.Name, err)
	}
	return p, nil
}

// SignRequest signs a client certificate for the subject and key of a certificate signing request (PEM), for as long as the authority itself lives, and
// returns it as PEM. Whether the requester may have it is the caller's to decide.
func (c *CA) SignRequest(request []byte) ([]byte, error) {
	block, _ := pem.Decode(request)
	if block == nil {
		return nil, errors.New("sign a certificate request: no PEM in it")
	}
	r, err := x509.ParseCertificateRequest(block.Bytes)
	if err == nil {
		err = r.CheckSignature()
	}
	if err != nil {
		return nil, fmt.Errorf("sign a certificate request: %w", err)
	}
	template := &x509.Certificate{
		Subject: r.Subject, NotBefore: c.store.now().Add(-backdate), NotAfter: c.cert.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	if template.SerialNumber, err = serial(); err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, c.cert, r.PublicKey, c.key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func serial() (*big.Int, error) { return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) }

func (l Leaf) serves() bool { return len(l.DNSNames)+len(l.IPs) > 0 }

func (c *CA) good(cert *x509.Certificate, l Leaf) bool {
	now := c.store.now()
	if now.Before(cert.NotBefore) || now.After(cert.NotAfter.Add(-leafLife/3)) {
		return false
	}
	if cert.CheckSignatureFrom(c.cert) != nil || cert.Subject.CommonName != l.CommonName || !slices.Equal(cert.Subject.Organization, l.Organization) {
		return false
	}
	return slices.Equal(cert.DNSNames, l.DNSNames) && slices.EqualFunc(cert.IPAddresses, l.IPs, net.IP.Equal)
}

// issue makes a key and a certificate for it and writes both; without a parent it is self-signed.
func (s *Store) issue(p paths.Pair, template, parent *x509.Certificate, signer crypto.Signer) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if template.SerialNumber, err = serial(); err != nil {
		return err
	}
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return err
	}
	if err := writeKey(p.Key, key); err != nil {
		return err
	}
	chain := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if slices.Contains(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
		// A PC that joins knows the authority by its hash alone, and must be shown it.
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: parent.Raw})...)
	}
	return paths.WriteFile(p.Cert, chain, 0o644)
}

// SigningKey makes sure that there is a key pair for signing service-account tokens and returns its two files: Cert is the
// public key, PKIX PEM.
func (s *Store) SigningKey(name string) (paths.Pair, error) {
	p := paths.Pair{Cert: filepath.Join(s.dir, name+".pub"), Key: filepath.Join(s.dir, name+".key")}
	key, err := loadKey(p.Key)
	if errors.Is(err, fs.ErrNotExist) {
		made, genErr := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if genErr != nil {
			return paths.Pair{}, fmt.Errorf("make key %s: %w", name, genErr)
		}
		key, err = made, writeKey(p.Key, made)
	}
	if err != nil {
		return paths.Pair{}, fmt.Errorf("key %s: %w", p.Key, err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return paths.Pair{}, fmt.Errorf("key %s: %w", p.Key, err)
	}
	return p, paths.WriteFile(p.Cert, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 0o644)
}

func load(p paths.Pair) (*x509.Certificate, crypto.Signer, error) {
	data, err := os.ReadFile(p.Cert)
	if err != nil {
		return nil, nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, nil, fmt.Errorf("%s holds no certificate", p.Cert)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", p.Cert, err)
	}
	key, err := loadKey(p.Key)
	if err != nil {
		return nil, nil, err
	}
	if public, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(key.Public()) {
		return nil, nil, fmt.Errorf("%s is not the key of %s", p.Key, p.Cert)
	}
	return cert, key, nil
}

func loadKey(path string) (crypto.Signer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no key", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("%s holds a key that can't sign", path)
	}
	return signer, nil
}

func writeKey(path string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return paths.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
}

func missing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, fs.ErrNotExist)
}
