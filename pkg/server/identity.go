package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"k8s.io/client-go/transport"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/controlplane"
	"github.com/labk/labk/pkg/join"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/pki"
)

// identity is every name by which this server's parts know each other: certificates, keys and kubeconfigs. Where they lie is known
// before they are made, so that the components can be configured, and mistakes found, before anything is written.
type identity struct {
	cfg   *config.Config
	data  paths.Data
	node  net.IP
	store *pki.Store

	credentials controlplane.Credentials
	clientCA    *pki.CA    // from ensure on
	token       join.Token // from ensure on

	issuing sync.Mutex // held by whoever uses the store
}

func newIdentity(cfg *config.Config, data paths.Data, node net.IP) (*identity, error) {
	s := pki.NewStore(data.ServerTLS(), time.Now)
	if err := shortenLife(s); err != nil {
		return nil, err
	}
	etc := data.ServerEtc()
	return &identity{
		cfg: cfg, data: data, node: node, store: s,
		credentials: controlplane.Credentials{
			ServerCA: s.Authority(pki.ServerCA), ClientCA: s.Authority(pki.ClientCA),
			TrustedServers: s.Trust(pki.ServerCA), TrustedClients: s.Trust(pki.ClientCA), TrustedProxies: s.Trust(pki.RequestHeaderCA),
			Serving: s.Leaf("kube-apiserver"), Kubelet: s.Leaf("kube-apiserver-kubelet"), Proxy: s.Leaf("kube-apiserver-proxy"),
			ServiceAccount:    s.SigningPair(),
			ControllerManager: filepath.Join(etc, "kube-controller-manager.kubeconfig"),
			Scheduler:         filepath.Join(etc, "kube-scheduler.kubeconfig"),
			System:            filepath.Join(etc, "system.kubeconfig"),
		},
	}, nil
}

// shortenLife makes leaves live for $LABK_TEST_LEAF_LIFE: no test can wait eight months for a renewal. Upstream's clients look for a new certificate every five
// minutes, which has to be sooner then.
func shortenLife(s *pki.Store) error {
	text := os.Getenv("LABK_TEST_LEAF_LIFE")
	if text == "" {
		return nil
	}
	life, err := time.ParseDuration(text)
	if err != nil {
		return fmt.Errorf("read LABK_TEST_LEAF_LIFE: %w", err)
	}
	s.LeafLife = life
	transport.CertCallbackRefreshDuration = min(transport.CertCallbackRefreshDuration, life/20)
	return nil
}

// ensure makes what is missing or due for renewal, and goes on with a change of authorities. Commands that come before it is done wait.
func (i *identity) ensure() (err error) {
	i.issuing.Lock()
	defer i.issuing.Unlock()
	if err := i.store.Resume(); err != nil {
		return err
	}
	if i.clientCA, err = i.store.CA(pki.ClientCA); err != nil {
		return err
	}
	if _, err := i.store.SigningKey(); err != nil {
		return err
	}
	if _, err := i.issue(false, true); err != nil {
		return err
	}
	if err := controlplane.EnsureEncryption(i.data.Encryption()); err != nil {
		return fmt.Errorf("make the key for Secrets: %w", err)
	}
	return i.ensureToken()
}

// apiNames and apiAddresses are what the API's certificate is for.
func (i *identity) apiNames() []string {
	names := []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + i.cfg.ClusterDomain, "localhost", i.cfg.NodeName}
	for _, san := range append([]string{i.cfg.AdvertiseAddress, i.cfg.BindAddress}, i.cfg.TLSSANs...) {
		if san != "" && net.ParseIP(san) == nil && !slices.Contains(names, san) {
			names = append(names, san)
		}
	}
	return names
}

func (i *identity) apiAddresses() []net.IP {
	ips := []net.IP{net.IPv4(127, 0, 0, 1)}
	for _, san := range append([]string{i.node.String(), i.cfg.AdvertiseAddress, i.cfg.BindAddress}, i.cfg.TLSSANs...) {
		if ip := net.ParseIP(san); ip != nil && !ip.IsUnspecified() && !slices.ContainsFunc(ips, ip.Equal) {
			ips = append(ips, ip)
		}
	}
	return append(ips, i.cfg.APIServiceIP()) // last: of no use to people who read which addresses there are
}

// ensureToken makes sure that there is a token for ever: the configured one, else the one that is there, else a new one. It is kept whole, to be given to
// other PCs as it is.
func (i *identity) ensureToken() error {
	path := i.data.Token()
	ca, err := i.store.CA(pki.ServerCA)
	if err != nil {
		return err
	}
	hash := join.CAHash(ca.Certificate())
	var former []string
	if ca.Former() != nil {
		former = append(former, join.CAHash(ca.Former()))
	}
	configured, err := i.cfg.ReadToken()
	if err != nil {
		return err
	}
	if configured == "" {
		data, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		configured = string(data)
	}
	if configured == "" {
		i.token, err = join.NewToken(hash)
	} else if i.token, err = join.TokenOf(configured, hash, former...); err != nil {
		return &config.Error{Option: "token", Problem: err.Error(), Remedy: "give another, or none; the one in use is in " + path}
	}
	if err != nil {
		return err
	}
	return paths.WriteFile(path, []byte(i.token.String()+"\n"), 0o600)
}
