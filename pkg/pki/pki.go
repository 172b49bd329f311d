// Package pki keeps the cluster's certificate authorities and issues leaves from them. Files are PEM; keys are ECDSA P-256 in
// PKCS #8, mode 0600. Everything here may be called again and again, also beside those who use the files: what is there and still good is kept.
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
	"path/filepath"
	"time"

	"github.com/labk/labk/pkg/paths"
)

const (
	caLife   = 10 * 365 * 24 * time.Hour
	leafLife = 365 * 24 * time.Hour
	// backdate lets certificates work on machines whose clocks are a little behind.
	backdate = 5 * time.Minute

	authorityUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature | x509.KeyUsageCRLSign
)

// Store is a folder of authorities and leaves. Its methods must not be called concurrently for the same name.
type Store struct {
	// LeafLife is for how long leaves are issued: a year.
	LeafLife time.Duration

	dir string
	now func() time.Time
}

// NewStore returns the store in dir, which is made when the first certificate is. now tells the time (time.Now).
func NewStore(dir string, now func() time.Time) *Store {
	return &Store{LeafLife: leafLife, dir: dir, now: now}
}

// CA is a certificate authority.
type CA struct {
	paths.Pair
	store *Store
	cert  *x509.Certificate
	key   crypto.Signer
	// former is the authority before this one, and cross this one signed by it; nil if there is none.
	former, cross *x509.Certificate
}

// Authority names the files of an authority of this store, whether they are there or not.
func (s *Store) Authority(name string) paths.Pair {
	return paths.Pair{Cert: filepath.Join(s.dir, name+".crt"), Key: filepath.Join(s.dir, name+".key")}
}

// Certificate is the authority's own.
func (c *CA) Certificate() *x509.Certificate { return c.cert }

// CA loads the authority called name, or makes it if neither of its files is there. A half or unreadable one is an error:
// making it anew would lock out every node and client of the cluster.
func (s *Store) CA(name string) (*CA, error) {
	p := s.Authority(name)
	cert, key, err := load(p)
	switch {
	case err == nil:
		if s.now().Before(cert.NotBefore) {
			return nil, fmt.Errorf("load certificate authority %s: it begins at %s, and this machine's clock says %s: set the clock",
				p.Cert, cert.NotBefore.Format(time.RFC3339), s.now().UTC().Format(time.RFC3339))
		}
		if s.now().After(cert.NotAfter) {
			return nil, fmt.Errorf("load certificate authority %s: it ended at %s, and this machine's clock says %s: set the clock, or run `labk certificate rotate-ca`",
				p.Cert, cert.NotAfter.Format(time.RFC3339), s.now().UTC().Format(time.RFC3339))
		}
		return (&CA{Pair: p, store: s, cert: cert, key: key}).complete(name)
	case missing(p.Cert) && missing(p.Key):
	default:
		return nil, fmt.Errorf("load certificate authority %s: %w: restore both of its files from a copy", p.Cert, err)
	}
	if cert, key, err = s.newAuthority(p, name); err != nil {
		return nil, fmt.Errorf("make certificate authority %s: %w", name, err)
	}
	return (&CA{Pair: p, store: s, cert: cert, key: key}).complete(name)
}

// newAuthority makes an authority and writes its files.
func (s *Store) newAuthority(p paths.Pair, name string) (*x509.Certificate, crypto.Signer, error) {
	now := s.now()
	cert, key, err := sign(&x509.Certificate{
		Subject:               pkix.Name{CommonName: fmt.Sprintf("labk-%s@%d", name, now.Unix())},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(caLife),
		KeyUsage:              authorityUsage,
		IsCA:                  true,
		BasicConstraintsValid: true,
	}, nil, nil)
	if err != nil {
		return nil, nil, err
	}
	if err := writeKey(p.Key, key); err != nil {
		return nil, nil, err
	}
	return cert, key, paths.WriteFile(p.Cert, encode(cert), 0o644)
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
	cert, err := signKey(template, r.PublicKey, c.cert, c.key)
	if err != nil {
		return nil, fmt.Errorf("sign a certificate request: %w", err)
	}
	return encode(cert), nil
}

// SigningKey makes sure that there is a key pair for signing service accounts' tokens and returns its two files: Cert is the public key, PKIX PEM, followed during
// a rotation by the one of before.
func (s *Store) SigningKey() (paths.Pair, error) {
	p := s.SigningPair()
	key, err := loadKey(p.Key)
	if errors.Is(err, fs.ErrNotExist) {
		made, genErr := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if genErr != nil {
			return paths.Pair{}, fmt.Errorf("make key %s: %w", p.Key, genErr)
		}
		key, err = made, writeKey(p.Key, made)
	}
	if err != nil {
		return paths.Pair{}, fmt.Errorf("key %s: %w", p.Key, err)
	}
	public, err := encodePublic(key.Public())
	if err != nil {
		return paths.Pair{}, fmt.Errorf("key %s: %w", p.Key, err)
	}
	old, err := s.formerKey()
	if err != nil {
		return paths.Pair{}, err
	}
	return p, paths.WriteFile(p.Cert, append(public, old...), 0o644)
}

// SigningPair names SigningKey's files, whether they are there or not.
func (s *Store) SigningPair() paths.Pair {
	return paths.Pair{Cert: filepath.Join(s.dir, ServiceAccount+".pub"), Key: filepath.Join(s.dir, ServiceAccount+".key")}
}

// Files are those with the certificates of an authority, the present one's first and then those that are trusted beside it. They need not be there.
func (s *Store) Files(name string) []string { return []string{s.Authority(name).Cert, s.Trust(name)} }
