package controlplane

import (
	"context"
	"path/filepath"
	"time"

	"k8s.io/kubernetes/cmd/kube-controller-manager/app"
	"k8s.io/kubernetes/cmd/kube-controller-manager/app/options"
	"k8s.io/kubernetes/cmd/kube-controller-manager/names"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/lifecycle"
)

// With client-go's default rate limit the controllers take 5 s to be built, one after another, each with a token of its own.
const (
	clientQPS   = 500
	clientBurst = 1000
)

// ControllerManager is kube-controller-manager.
type ControllerManager struct {
	*lifecycle.Task
	// SigningDuration is how long certificates are good that the cluster signs.
	SigningDuration time.Duration
}

// NewControllerManager returns kube-controller-manager. It serves no port of its own: what it would serve, the API server of the same process
// does.
func NewControllerManager(o Options) (*ControllerManager, error) {
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
	return &ControllerManager{
		Task:            lifecycle.NewTask("kube-controller-manager", run, nil),
		SigningDuration: opts.CSRSigningController.ClusterSigningDuration.Duration,
	}, nil
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
	// Where nobody else's plugins are looked for: this folder is made.
	s.PersistentVolumeBinderController.VolumeConfiguration.FlexVolumePluginDir = filepath.Join(o.Data.Kubelet(), "volume-plugins")
	s.NodeIPAMController.ServiceCIDR = o.Config.ServiceCIDR
	s.SAController.ServiceAccountKeyFile = o.ServiceAccount.Key
	s.SAController.RootCAFile = o.TrustedServers

	// Certificates of nodes are pkg/join's to sign: nodes need them before this component is there. Here are the signers of the rest.
	sign := s.CSRSigningController
	for _, signer := range []struct{ cert, key *string }{
		{&sign.KubeAPIServerClientSignerConfiguration.CertFile, &sign.KubeAPIServerClientSignerConfiguration.KeyFile},
		{&sign.LegacyUnknownSignerConfiguration.CertFile, &sign.LegacyUnknownSignerConfiguration.KeyFile},
	} {
		*signer.cert, *signer.key = o.ClientCA.Cert, o.ClientCA.Key
	}
	// Beside the usual ones: expired join tokens go away.
	s.Generic.Controllers = []string{"*", names.TokenCleanerController}
}
