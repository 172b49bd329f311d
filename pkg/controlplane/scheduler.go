package controlplane

import (
	"context"
	"strconv"

	"k8s.io/kubernetes/cmd/kube-scheduler/app"
	"k8s.io/kubernetes/cmd/kube-scheduler/app/options"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/lifecycle"
)

// NewScheduler returns kube-scheduler, without a port of its own like the controller manager.
func NewScheduler(o Options) (lifecycle.Component, error) {
	opts := options.NewOptions()
	opts.SecureServing.BindPort = 0
	fs := flagSet(*opts.Flags)
	// Setup loads a default configuration over the struct; only its flags are kept.
	own := []string{
		"kubeconfig=" + o.Scheduler,
		"leader-elect=false",
		"kube-api-qps=" + strconv.Itoa(clientQPS),
		"kube-api-burst=" + strconv.Itoa(clientBurst),
	}
	if err := config.ApplyArgs(fs, "kube-scheduler-arg", append(own, o.Config.KubeSchedulerArgs...)); err != nil {
		return nil, err
	}
	run := func(ctx context.Context) error {
		c, scheduler, err := app.Setup(ctx, opts)
		if err != nil {
			return err
		}
		return app.Run(ctx, c, scheduler)
	}
	return lifecycle.NewTask("kube-scheduler", run, nil), nil
}
