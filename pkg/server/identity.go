package server

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/controlplane"
	"github.com/labk/labk/pkg/join"
	"github.com/labk/labk/pkg/kubeconfig"
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
}

func newIdentity(cfg *config.Config, data paths.Data, node net.IP) *identity {
	s := pki.NewStore(data.ServerTLS(), time.Now)
	etc := data.ServerEtc()
	serviceAccount := s.Pair("service-account")
	serviceAccount.Cert = filepath.Join(data.ServerTLS(), "service-account.pub")
	return &identity{
		cfg: cfg, data: data, node: node, store: s,
		credentials: controlplane.Credentials{
			ServerCA: s.Pair("server-ca"), ClientCA: s.Pair("client-ca"), RequestHeaderCA: s.Pair("request-header-ca"),
			Serving: s.Pair("kube-apiserver"), Kubelet: s.Pair("kube-apiserver-kubelet"), Proxy: s.Pair("kube-apiserver-proxy"),
			ServiceAccount:    serviceAccount,
			ControllerManager: filepath.Join(etc, "kube-controller-manager.kubeconfig"),
			Scheduler:         filepath.Join(etc, "kube-scheduler.kubeconfig"),
			System:            filepath.Join(etc, "system.kubeconfig"),
		},
	}
}

// ensure makes what is missing or near its end.
func (i *identity) ensure() error {
	serverCA, err := i.store.CA("server-ca")
	if err != nil {
		return err
	}
	if i.clientCA, err = i.store.CA("client-ca"); err != nil {
		return err
	}
	proxyCA, err := i.store.CA("request-header-ca")
	if err != nil {
		return err
	}
	if _, err := i.store.SigningKey("service-account"); err != nil {
		return err
	}
	if _, err := proxyCA.Issue(pki.Leaf{Name: "kube-apiserver-proxy", CommonName: controlplane.ProxyClientName}); err != nil {
		return err
	}
	if _, err := i.clientCA.Issue(pki.Leaf{Name: "kube-apiserver-kubelet", CommonName: "labk:kube-apiserver"}); err != nil {
		return err
	}
	if err := i.ensureServing(serverCA); err != nil {
		return err
	}
	if err := i.ensureClients(i.clientCA); err != nil {
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

func (i *identity) ensureServing(ca *pki.CA) error {
	_, err := ca.Issue(pki.Leaf{Name: "kube-apiserver", CommonName: "kube-apiserver", DNSNames: i.apiNames(), IPs: i.apiAddresses()})
	return err
}

func (i *identity) ensureClients(ca *pki.CA) error {
	mode, err := strconv.ParseUint(i.cfg.WriteKubeconfigMode, 8, 32)
	if err != nil {
		return err
	}
	tls := i.data.ServerTLS()
	for _, c := range []struct {
		leaf pki.Leaf
		dir  string
		path string
		mode fs.FileMode
	}{
		{pki.Leaf{Name: "kube-controller-manager", CommonName: "system:kube-controller-manager"}, tls, i.credentials.ControllerManager, 0o600},
		{pki.Leaf{Name: "kube-scheduler", CommonName: "system:kube-scheduler"}, tls, i.credentials.Scheduler, 0o600},
		{pki.Leaf{Name: "system", CommonName: "labk:system", Organization: []string{"system:masters"}}, tls, i.credentials.System, 0o600},
		// Not system:masters: a right that is bound can also be taken away again.
		{pki.Leaf{Name: "admin", CommonName: "admin", Organization: []string{"labk:cluster-admins"}}, tls, i.cfg.WriteKubeconfig, fs.FileMode(mode)},
	} {
		pair, err := ca.IssueIn(c.dir, c.leaf)
		if err != nil {
			return err
		}
		o := kubeconfig.Options{Server: controlplane.URL(i.cfg), CA: i.credentials.ServerCA.Cert, Cert: pair.Cert, Key: pair.Key, Mode: c.mode}
		if err := kubeconfig.Write(c.path, o); err != nil {
			return err
		}
	}
	return nil
}

// ensureToken makes sure that there is a token for ever: the configured one, else the one that is there, else a new one. It is kept whole, to be given to
// other PCs as it is.
func (i *identity) ensureToken() error {
	path := i.data.Token()
	ca, err := os.ReadFile(i.credentials.ServerCA.Cert)
	if err != nil {
		return err
	}
	hash, err := join.CAHashPEM(ca)
	if err != nil {
		return fmt.Errorf("read %s: %w", i.credentials.ServerCA.Cert, err)
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
	} else if i.token, err = join.TokenOf(configured, hash); err != nil {
		return &config.Error{Option: "token", Problem: err.Error(), Remedy: "give another, or none; the one in use is in " + path}
	}
	if err != nil {
		return err
	}
	return paths.WriteFile(path, []byte(i.token.String()+"\n"), 0o600)
}
