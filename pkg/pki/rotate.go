package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/labk/labk/pkg/paths"
)

// The cluster's authorities, and the key that signs service accounts' tokens.
const (
	ServerCA        = "server-ca"
	ClientCA        = "client-ca"
	RequestHeaderCA = "request-header-ca"
	ServiceAccount  = "service-account"
)

// What a rotation keeps in the store's folder:
//
//	making/         new authorities that are not complete: removed at the next start
//	next/           complete ones, which Resume puts in their places; a power cut in the middle of that makes it begin again
//	rotation.json   there while the authorities of before are trusted beside the present ones; Resume writes it
//	former/         those of before (NAME.crt), the present ones signed by those of before (NAME-cross.crt), and the public key of before
//	trust/          what is trusted: NAME.crt, the present one first
const (
	making       = "making"
	next         = "next"
	rotationFile = "rotation.json"
	former       = "former"
	trust        = "trust"
)

// ErrRotating is that one rotation is not finished.
var ErrRotating = errors.New("the authorities of before are still trusted beside the present ones: finish that first (labk certificate rotate-ca --finish)")

// ErrNotRotating is that there is nothing to finish.
var ErrNotRotating = errors.New("no authorities of before are trusted: there is nothing to finish")

// Rotation is a change of the authorities that is under way: new ones issue everything, and those of before are still trusted.
type Rotation struct {
	// Began is when the new ones were put in their places, which may be long after somebody asked for them.
	Began time.Time `json:"began"`
}

// Rotation returns the one that is under way, nil if there is none.
func (s *Store) Rotation() (*Rotation, error) {
	data, err := os.ReadFile(filepath.Join(s.dir, rotationFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	r := new(Rotation)
	if err == nil {
		err = json.Unmarshal(data, r)
	}
	if err != nil {
		return nil, fmt.Errorf("read how the change of authorities stands: %w", err)
	}
	return r, nil
}

// Begin makes new authorities and a new key for service accounts' tokens. They count from the next Resume on; nothing that is in use changes before.
func (s *Store) Begin() error {
	if r, err := s.Rotation(); err != nil {
		return err
	} else if r != nil || !missing(filepath.Join(s.dir, next)) {
		return ErrRotating
	}
	dir := filepath.Join(s.dir, making)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	for _, name := range []string{ServerCA, ClientCA, RequestHeaderCA} {
		if err := s.succeed(NewStore(dir, s.now), name); err != nil {
			return fmt.Errorf("make a new certificate authority %s: %w", name, err)
		}
	}
	if err := s.succeedKey(dir); err != nil {
		return fmt.Errorf("make a new key for service accounts' tokens: %w", err)
	}
	return paths.Rename(dir, filepath.Join(s.dir, next))
}

// Change does what a person wants while no labk runs. Without one nobody knows which nodes have followed, so that Finish needs Force.
func (s *Store) Change(c Change) error {
	if !c.Finish {
		return s.Begin()
	}
	r, err := s.Rotation()
	switch {
	case err != nil:
		return err
	case r == nil:
		return ErrNotRotating
	case !c.Force:
		return errors.New("finish the change of authorities: labk does not run, so it is not known which nodes have followed: start it first, or add --force")
	}
	return s.Finish()
}

// succeed makes the successor of an authority in another store.
func (s *Store) succeed(to *Store, name string) error {
	old, oldKey, err := load(s.Authority(name))
	if err != nil {
		return fmt.Errorf("%w: restore both of its files from a copy", err)
	}
	cert, _, err := to.newAuthority(to.Authority(name), name)
	if err != nil {
		return err
	}
	if err := paths.WriteFile(to.former(name), encode(old), 0o644); err != nil {
		return err
	}
	cross := &x509.Certificate{
		Subject: cert.Subject, NotBefore: cert.NotBefore, NotAfter: cert.NotAfter, SubjectKeyId: cert.SubjectKeyId,
		KeyUsage: authorityUsage, IsCA: true, BasicConstraintsValid: true,
	}
	if cross.NotAfter.After(old.NotAfter) {
		cross.NotAfter = old.NotAfter
	}
	if cross, err = signKey(cross, cert.PublicKey, old, oldKey); err != nil {
		return err
	}
	return paths.WriteFile(to.cross(name), encode(cross), 0o644)
}

func (s *Store) succeedKey(dir string) error {
	old, err := loadKey(filepath.Join(s.dir, ServiceAccount+".key"))
	if err != nil {
		return err
	}
	public, err := encodePublic(old.Public())
	if err != nil {
		return err
	}
	if err := paths.WriteFile(filepath.Join(dir, former, ServiceAccount+".pub"), public, 0o644); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	return writeKey(filepath.Join(dir, ServiceAccount+".key"), key)
}

// Resume brings a rotation forward: it puts new authorities in their places, and removes what is not needed any more. Call it before anybody uses the store.
func (s *Store) Resume() error {
	if err := os.RemoveAll(filepath.Join(s.dir, making)); err != nil {
		return err
	}
	if from := filepath.Join(s.dir, next); !missing(from) {
		if err := s.putRotation(Rotation{Began: s.now().UTC()}); err != nil { // first: with any of the new ones, those of before are trusted beside them
			return err
		}
		err := filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			return copyFile(path, filepath.Join(s.dir, path[len(from):]))
		})
		if err != nil {
			return fmt.Errorf("put new certificate authorities in their places: %w", err)
		}
		if err := os.RemoveAll(from); err != nil {
			return err
		}
	}
	return s.clear()
}

func (s *Store) putRotation(r Rotation) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return paths.WriteFile(filepath.Join(s.dir, rotationFile), data, 0o600)
}

// clear removes authorities of before that have ended and, when no rotation is under way, the key of before.
func (s *Store) clear() error {
	r, err := s.Rotation()
	if err != nil || r != nil {
		return err
	}
	remove := []string{filepath.Join(s.dir, former, ServiceAccount+".pub")}
	for _, name := range []string{ServerCA, ClientCA, RequestHeaderCA} {
		if certs, err := loadCerts(s.former(name)); err == nil && s.now().After(certs[0].NotAfter) {
			remove = append(remove, s.former(name), s.cross(name))
		}
	}
	for _, path := range remove {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Finish ends a rotation: from the next start on the authorities of before are not trusted any more.
func (s *Store) Finish() error {
	if err := os.Remove(filepath.Join(s.dir, rotationFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("finish the change of authorities: %w", err)
	}
	return nil
}

func (s *Store) former(name string) string { return filepath.Join(s.dir, former, name+".crt") }
func (s *Store) cross(name string) string  { return filepath.Join(s.dir, former, name+"-cross.crt") }

// Trust is the file of what is trusted beside an authority's name: itself first, and during a rotation the one of before. CA writes it.
func (s *Store) Trust(name string) string { return filepath.Join(s.dir, trust, name+".crt") }

// complete writes what is trusted, and finds by what those who only know the authority of before come to trust this one.
func (c *CA) complete(name string) (*CA, error) {
	s := c.store
	trusted := []*x509.Certificate{c.cert}
	old, err := loadCerts(s.former(name))
	if err == nil {
		var cross []*x509.Certificate
		if cross, err = loadCerts(s.cross(name)); err == nil {
			c.cross, c.former = cross[0], old[0]
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	r, err := s.Rotation()
	if err != nil {
		return nil, err
	}
	if r != nil && c.former != nil {
		trusted = append(trusted, c.former)
	}
	return c, paths.WriteFile(s.Trust(name), encode(trusted...), 0o644)
}

// Former is the authority of before, nil if there is none.
func (c *CA) Former() *x509.Certificate { return c.former }

// formerKey is the public key of before as PEM, during a rotation.
func (s *Store) formerKey() ([]byte, error) {
	data, err := os.ReadFile(filepath.Join(s.dir, former, ServiceAccount+".pub"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

func copyFile(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return paths.WriteFile(to, data, info.Mode().Perm())
}

func encodePublic(key crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	return encodeBlock("PUBLIC KEY", der), nil
}
