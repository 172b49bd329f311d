package join

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/certificate"

	"github.com/labk/labk/pkg/kubeconfig"
	"github.com/labk/labk/pkg/paths"
)

// Files are a node's credentials. The kubelet's two are in its own form: links to the newest, certificate and key in one file.
type Files struct {
	// Dir is the folder of all of them, and the kubelet's certificate folder.
	Dir string
	// Kubeconfig is the node's; ServerCA and ClientCA are the cluster's.
	Kubeconfig, ServerCA, ClientCA string
	machine                        paths.Pair
	identity                       string // the machine that all this was issued to
}

// Names of the kubelet's certificates, as it looks for them.
const (
	clientStore  = "kubelet-client"
	servingStore = "kubelet-server"
)

// NodeFiles names the files of the node in this data folder.
func NodeFiles(d paths.Data) Files {
	in := func(name string) string { return filepath.Join(d.AgentTLS(), name) }
	return Files{
		Dir: d.AgentTLS(), Kubeconfig: in("kubelet.kubeconfig"), ServerCA: in("server-ca.crt"), ClientCA: in("client-ca.crt"),
		machine: paths.Pair{Cert: in("machine.crt"), Key: in("machine.key")}, identity: in("machine.json"),
	}
}

// joinedAs is the name of the node that the machine certificate is for; empty if there is none, or it has ended.
func (f Files) joinedAs(now time.Time) string {
	pair, err := tls.LoadX509KeyPair(f.machine.Cert, f.machine.Key)
	if err != nil || pair.Leaf == nil || now.After(pair.Leaf.NotAfter) {
		return ""
	}
	return strings.TrimPrefix(pair.Leaf.Subject.CommonName, MachineUser)
}

// sameMachine tells whether the credentials were issued to this PC, not to one whose disk was copied.
func (f Files) sameMachine(m Machine) bool {
	var issued Machine
	data, err := os.ReadFile(f.identity)
	if err != nil || json.Unmarshal(data, &issued) != nil {
		return false
	}
	return issued.Same(m)
}

// writeMachine writes what a PC gets with its machine certificate.
func (f Files) writeMachine(cas authorities, cert, key []byte, m Machine) error {
	identity, err := json.Marshal(m)
	if err != nil {
		return err
	}
	if err := f.writeCAs(cas); err != nil {
		return err
	}
	if err := paths.WriteFile(f.machine.Key, key, 0o600); err != nil {
		return err
	}
	if err := paths.WriteFile(f.identity, append(identity, '\n'), 0o600); err != nil {
		return err
	}
	return paths.WriteFile(f.machine.Cert, cert, 0o644) // last: it is what counts
}

// forget removes every credential.
func (f Files) forget() error {
	entries, err := os.ReadDir(f.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		err = errors.Join(err, os.Remove(filepath.Join(f.Dir, e.Name())))
	}
	return err
}

// ForgetKubelet removes the kubelet's two certificates; the PC asks for new ones at its next start, with its machine certificate. Call it when labk does not run here, or is about to
// start anew. It names what it has removed.
func (f Files) ForgetKubelet() (names []string, err error) {
	for _, name := range []string{clientStore, servingStore} {
		files, _ := filepath.Glob(filepath.Join(f.Dir, name+"-*.pem")) // an error is only one of the pattern
		for _, file := range files {
			err = errors.Join(err, os.Remove(file))
		}
		if len(files) > 0 {
			names = append(names, name)
		}
	}
	return names, err
}

// authorities are the cluster's CAs, as PEM: the one that signs now first, and while they are being changed the ones of before after it.
type authorities struct{ server, client []byte }

func (f Files) writeCAs(a authorities) error {
	if err := paths.WriteFile(f.ServerCA, a.server, 0o644); err != nil {
		return err
	}
	return paths.WriteFile(f.ClientCA, a.client, 0o644)
}

// machineKey is the machine certificate with its key.
func (f Files) machineKey() (*x509.Certificate, crypto.Signer, error) {
	pair, err := tls.LoadX509KeyPair(f.machine.Cert, f.machine.Key)
	if err != nil {
		return nil, nil, err
	}
	signer, ok := pair.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, nil, fmt.Errorf("%s holds a key that can't sign", f.machine.Key)
	}
	return pair.Leaf, signer, nil
}

// store is the kubelet's own way to keep one of its certificates.
func (f Files) store(name string) (certificate.FileStore, error) {
	if err := os.MkdirAll(f.Dir, 0o700); err != nil {
		return nil, err
	}
	return certificate.NewFileStore(name, f.Dir, f.Dir, "", "")
}

// keep makes a certificate the current one of a store, and removes those before it.
func (f Files) keep(name string, cert, key []byte) error {
	s, err := f.store(name)
	if err != nil {
		return err
	}
	if _, err := s.Update(cert, key); err != nil {
		return err
	}
	current, err := os.Readlink(s.CurrentPath())
	if err != nil {
		return err
	}
	all, err := filepath.Glob(filepath.Join(f.Dir, name+"-[0-9]*.pem"))
	for _, path := range all {
		if filepath.Base(path) != filepath.Base(current) {
			err = errors.Join(err, os.Remove(path))
		}
	}
	return err
}

// current is the newest certificate of a store, nil if there is none for the user that is valid now and for a little longer, and of the first of the authorities.
func (f Files) current(name string, now time.Time, user string, authorities []byte) *x509.Certificate {
	s, err := f.store(name)
	if err != nil {
		return nil
	}
	c, err := s.Current()
	if err != nil || c.Leaf == nil || c.Leaf.Subject.CommonName != user || now.Before(c.Leaf.NotBefore) || now.Add(time.Minute).After(c.Leaf.NotAfter) {
		return nil
	}
	if !signedByFirst(c.Leaf, authorities) {
		return nil
	}
	return c.Leaf
}

// signedByFirst tells whether a certificate is of the first of the authorities, which is the one that signs now.
func signedByFirst(c *x509.Certificate, authorities []byte) bool {
	all, err := parseCerts(authorities)
	return err == nil && c.CheckSignatureFrom(all[0]) == nil
}

// writeKubeconfig names the kubelet's certificate by its link, so that whoever uses the kubeconfig follows its rotation.
func (f Files) writeKubeconfig(server string) error {
	link := filepath.Join(f.Dir, clientStore+"-current.pem")
	return kubeconfig.Write(f.Kubeconfig, kubeconfig.Options{Server: server, CA: f.ServerCA, Cert: link, Key: link, ByPath: true})
}

// clients makes clients of the API, each with another proof of who asks.
type clients struct {
	server string
	ca     []byte
	files  Files
	token  *Token
}

// requestTimeout bounds a request to the API that is not a watch.
const requestTimeout = 10 * time.Second

func (c *clients) base() *rest.Config {
	return &rest.Config{Host: c.server, QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAData: c.ca}, Timeout: requestTimeout}
}

func (c *clients) asMachine() (*rest.Config, error) {
	cfg := c.base()
	cfg.CertFile, cfg.KeyFile = c.files.machine.Cert, c.files.machine.Key
	return cfg, nil
}

func (c *clients) asToken() (*rest.Config, error) {
	if c.token == nil {
		return nil, errors.New("this PC's credentials are gone: give it a token (run `labk token create` on the server)")
	}
	cfg := c.base()
	cfg.BearerToken = c.token.Bootstrap()
	return cfg, nil
}

// client is a client of a configuration.
func client(with func() (*rest.Config, error)) (kubernetes.Interface, error) {
	cfg, err := with()
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(cfg)
}
