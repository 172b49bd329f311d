package server

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/controlplane"
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

	credentials    controlplane.Credentials
	kubelet        string // kubeconfig of the node
	kubeletServing paths.Pair
}

func newIdentity(cfg *config.Config, data paths.Data, node net.IP) *identity {
	s := pki.NewStore(data.ServerTLS(), time.Now)
	agent := pki.NewStore(data.AgentTLS(), time.Now)
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
		kubelet:        filepath.Join(data.AgentTLS(), "kubelet.kubeconfig"),
		kubeletServing: agent.Pair("kubelet-serving"),
	}
}

// ensure makes what is missing or near its end.
func (i *identity) ensure() error {
	serverCA, err := i.store.CA("server-ca")
	if err != nil {
		return err
	}
	clientCA, err := i.store.CA("client-ca")
	if err != nil {
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
	if _, err := clientCA.Issue(pki.Leaf{Name: "kube-apiserver-kubelet", CommonName: "labk:kube-apiserver"}); err != nil {
		return err
	}
	if err := i.ensureServing(serverCA); err != nil {
		return err
	}
	if err := i.ensureClients(clientCA); err != nil {
		return err
	}
	if err := controlplane.EnsureEncryption(i.data.Encryption()); err != nil {
		return fmt.Errorf("make the key for Secrets: %w", err)
	}
	return i.ensureToken()
}

func (i *identity) ensureServing(ca *pki.CA) error {
	api := pki.Leaf{
		Name: "kube-apiserver", CommonName: "kube-apiserver",
		DNSNames: []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + i.cfg.ClusterDomain, "localhost", i.cfg.NodeName},
		IPs:      []net.IP{net.IPv4(127, 0, 0, 1), i.cfg.APIServiceIP(), i.node},
	}
	for _, san := range append([]string{i.cfg.AdvertiseAddress, i.cfg.BindAddress}, i.cfg.TLSSANs...) {
		switch ip := net.ParseIP(san); {
		case san == "", ip != nil && (ip.IsUnspecified() || ip.Equal(i.node)):
		case ip != nil:
			api.IPs = append(api.IPs, ip)
		default:
			api.DNSNames = append(api.DNSNames, san)
		}
	}
	if _, err := ca.Issue(api); err != nil {
		return err
	}
	_, err := ca.IssueIn(i.data.AgentTLS(), pki.Leaf{
		Name: "kubelet-serving", CommonName: "system:node:" + i.cfg.NodeName, Organization: []string{"system:nodes"},
		DNSNames: []string{i.cfg.NodeName}, IPs: []net.IP{i.node},
	})
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
		{pki.Leaf{Name: "kubelet", CommonName: "system:node:" + i.cfg.NodeName, Organization: []string{"system:nodes"}}, i.data.AgentTLS(), i.kubelet, 0o600},
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

// ensureToken writes the secret that nodes join with: the configured one, else the one that is there, else a new one.
func (i *identity) ensureToken() error {
	path, token := i.data.Token(), i.cfg.Token
	if i.cfg.TokenFile != "" {
		data, err := os.ReadFile(i.cfg.TokenFile)
		if err != nil {
			return &config.Error{Option: "token-file", Problem: err.Error(), Remedy: "name a file that is there"}
		}
		token = string(data)
	}
	if token == "" {
		_, err := os.Stat(path)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		var secret [24]byte
		if _, err := rand.Read(secret[:]); err != nil {
			return err
		}
		token = hex.EncodeToString(secret[:]) + "\n"
	}
	return paths.WriteFile(path, []byte(token), 0o600)
}
