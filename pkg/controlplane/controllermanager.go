package controlplane

import (
	"context"

	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app/options"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/lifecycle"
)

// With client-go's default rate limit the controllers take 5 s to be built, one after another, each with a token of its own.
const (
	clientQPS   = 500
	clientBurst = 1000
)

// NewControllerManager returns kube-controller-manager. It serves no port of its own: what it would serve, the API server of the same process
// does.
func NewControllerManager(o Options) (lifecycle.Component, error) {
	opts, err := options.NewKubeControllerManagerOptions()
	if err != nil {
		return nil, err
	}
	known, disabled, aliases := app.KnownControllers(), app.ControllersDisabledByDefault(), app.ControllerAliases()
	flags := opts.Flags(known, disabled, aliases)
	opts.ParsedFlags = &flags
	setControllerManager(opts, o) // after the flags: some put their default into the struct
	if err := config.ApplyArgs(flagSet(flags), "kube-controller-manager-arg", o.Config.KubeControllerManagerArgs); err != nil {
		return nil, err
	}
	run := func(ctx context.Context) error {
		c, err := opts.Config(ctx, known, disabled, aliases)
		if err != nil {
			return err
		}
		return app.Run(ctx, c.Complete())
	}
	return lifecycle.NewTask("kube-controller-manager", run, nil), nil
}

func setControllerManager(s *options.KubeControllerManagerOptions, o Options) {
	s.Generic.ClientConnection.Kubeconfig = o.ControllerManager
	s.Generic.ClientConnection.QPS = clientQPS
	s.Generic.ClientConnection.Burst = clientBurst
	// One server: nobody to elect against, and no lease to write every two seconds.
	s.Generic.LeaderElection.LeaderElect = false
	s.SecureServing.BindPort = 0

	s.KubeCloudShared.UseServiceAccountCredentials = true
	s.KubeCloudShared.AllocateNodeCIDRs = o.Config.FlannelBackend != "none"
	s.KubeCloudShared.ClusterCIDR = o.Config.ClusterCIDR
	s.NodeIPAMController.ServiceCIDR = o.Config.ServiceCIDR
	s.SAController.ServiceAccountKeyFile = o.ServiceAccount.Key
	s.SAController.RootCAFile = o.ServerCA.Cert

	sign := s.CSRSigningController
	for _, signer := range []struct{ cert, key *string }{
		{&sign.KubeletClientSignerConfiguration.CertFile, &sign.KubeletClientSignerConfiguration.KeyFile},
		{&sign.KubeAPIServerClientSignerConfiguration.CertFile, &sign.KubeAPIServerClientSignerConfiguration.KeyFile},
		{&sign.LegacyUnknownSignerConfiguration.CertFile, &sign.LegacyUnknownSignerConfiguration.KeyFile},
	} {
		*signer.cert, *signer.key = o.ClientCA.Cert, o.ClientCA.Key
	}
	sign.KubeletServingSignerConfiguration.CertFile = o.ServerCA.Cert
	sign.KubeletServingSignerConfiguration.KeyFile = o.ServerCA.Key
}
