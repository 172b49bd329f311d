package controlplane

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/egressselector"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/controlplane/holder"
	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/paths"
)

// issuer of service-account tokens, the name that Kubernetes' own tools use.
const issuer = "https://kubernetes.default.svc"

// authentication lets anonymous requests see nothing but whether the server is well.
const authentication = `apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous:
  enabled: true
  conditions:
  - path: /livez
  - path: /readyz
  - path: /healthz
`

// NewAPIServer returns kube-apiserver; it is ready when it serves and only its bootstrap hooks are outstanding (see Bootstrap). A mistake in the user's extra arguments is a *config.Error.
func NewAPIServer(o Options) (lifecycle.Component, error) {
	opts := options.NewServerRunOptions()
	authnFile := filepath.Join(o.Data.ServerEtc(), "authentication.yaml")
	flags := flagSet(opts.Flags()) // before the struct is filled: some flags put their default into it
	setAPIServer(opts, o, authnFile)
	if err := config.ApplyArgs(flags, "kube-apiserver-arg", o.Config.KubeAPIServerArgs); err != nil {
		return nil, err
	}
	run := func(ctx context.Context) error {
		if err := paths.WriteFile(authnFile, []byte(authentication), 0o600); err != nil {
			return err
		}
		if err := opts.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
			return fmt.Errorf("set feature gates: %w", err)
		}
		// The API server's warnings to its own loopback clients are of no use to anyone.
		rest.SetDefaultWarningHandler(rest.NoWarnings{})
		completed, err := opts.Complete(ctx)
		if err != nil {
			return err
		}
		if err := joinErrors("kube-apiserver", completed.Validate()); err != nil {
			return err
		}
		return o.serve(ctx, completed)
	}
	ready := func(ctx context.Context) error { return WaitReady(ctx, o.System, bootstrapHooks[:]...) }
	return lifecycle.NewTask("kube-apiserver", run, ready), nil
}

// serve is upstream's app.Run with Options.Open before everything else.
func (o Options) serve(ctx context.Context, opts options.CompletedOptions) error {
	names, err := cache.NewInformerName("kube-apiserver")
	if err != nil {
		return err
	}
	opts.InformerName = names
	cfg, err := app.NewConfig(opts)
	if err != nil {
		return err
	}
	front := cfg.Aggregator.GenericConfig        // of the server that has the port
	proxies := opts.Authentication.RequestHeader // kube-apiserver-arg may have changed them
	front.Authentication.Authenticator = holder.New(front.Authentication.Authenticator, slices.Concat(proxies.UsernameHeaders, proxies.UIDHeaders, proxies.GroupHeaders, proxies.ExtraHeaderPrefixes)...)
	if o.Open != nil {
		o.openTo(ctx, front)
	}
	completed, err := cfg.Complete()
	if err != nil {
		return err
	}
	chain, err := app.CreateServerChain(completed)
	if err != nil {
		return err
	}
	prepared, err := chain.PrepareRun()
	if err != nil {
		return err
	}
	return prepared.Run(ctx)
}

// openTo puts Options.Open around the handlers of the server that has the port.
func (o Options) openTo(ctx context.Context, cfg *genericapiserver.RecommendedConfig) {
	open, build := o.Open(ctx), cfg.BuildHandlerChainFunc
	cfg.BuildHandlerChainFunc = func(api http.Handler, c *genericapiserver.Config) http.Handler {
		chain := build(api, c)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasPrefix(r.URL.Path, o.OpenPrefix) {
				open.ServeHTTP(w, r)
				return
			}
			chain.ServeHTTP(w, r)
		})
	}
}

func setAPIServer(s *options.ServerRunOptions, o Options, authnFile string) {
	s.Etcd.StorageConfig.Transport.ServerList = o.Datastore
	s.Etcd.StorageConfig.Transport.TrustedCAFile = o.DatastoreTLS.TrustedCAFile
	s.Etcd.StorageConfig.Transport.CertFile, s.Etcd.StorageConfig.Transport.KeyFile = o.DatastoreTLS.CertFile, o.DatastoreTLS.KeyFile
	if dial := o.DatastoreDial; dial != nil {
		s.Etcd.StorageConfig.Transport.EgressLookup = func(egressselector.NetworkContext) (utilnet.DialFunc, error) { return dial, nil }
	}
	s.Etcd.EncryptionProviderConfigFilepath = o.Data.Encryption()

	s.SecureServing.BindPort = o.Config.HTTPSListenPort
	if ip := net.ParseIP(o.Config.BindAddress); ip != nil {
		s.SecureServing.BindAddress = ip
	}
	s.SecureServing.ServerCert.CertKey.CertFile = o.Serving.Cert
	s.SecureServing.ServerCert.CertKey.KeyFile = o.Serving.Key
	s.SecureServing.MinTLSVersion = "VersionTLS12"
	s.GenericServerRunOptions.AdvertiseAddress = o.Advertise
	// Ends watches at a stop. Without it the server waits a minute for its clients to hang up.
	s.GenericServerRunOptions.ShutdownWatchTerminationGracePeriod = 500 * time.Millisecond

	s.Authentication.AuthenticationConfigFile = authnFile
	s.Authentication.BootstrapToken.Enable = true
	s.Authentication.ClientCert.ClientCA = o.TrustedClients
	s.Authentication.RequestHeader.ClientCAFile = o.TrustedProxies
	s.Authentication.RequestHeader.AllowedNames = []string{ProxyClientName}
	s.Authentication.RequestHeader.UsernameHeaders = []string{"X-Remote-User"}
	s.Authentication.RequestHeader.GroupHeaders = []string{"X-Remote-Group"}
	s.Authentication.RequestHeader.ExtraHeaderPrefixes = []string{"X-Remote-Extra-"}
	s.Authentication.ServiceAccounts.Issuers = []string{issuer}
	s.Authentication.ServiceAccounts.KeyFiles = []string{o.ServiceAccount.Cert}
	s.ServiceAccountSigningKeyFile = o.ServiceAccount.Key
	s.Authorization.Modes = []string{"Node", "RBAC"}
	s.Admission.GenericAdmission.EnablePlugins = []string{"NodeRestriction"}

	s.ProxyClientCertFile = o.Proxy.Cert
	s.ProxyClientKeyFile = o.Proxy.Key
	s.KubeletConfig.TLSClientConfig.CertFile = o.Kubelet.Cert
	s.KubeletConfig.TLSClientConfig.KeyFile = o.Kubelet.Key
	s.KubeletConfig.TLSClientConfig.CAFile = o.TrustedServers
	// A lab has no DNS for its PCs' names: ask kubelets by address first.
	s.KubeletConfig.PreferredAddressTypes = []string{"InternalIP", "ExternalIP", "Hostname"}

	s.AllowPrivileged = true
	s.ServiceClusterIPRanges = o.Config.ServiceCIDR
	s.Features.EnableProfiling = false
}

// ProxyClientName is the common name by which aggregated API servers know this one (Credentials.Proxy).
const ProxyClientName = "system:auth-proxy"
