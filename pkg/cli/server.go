package cli

import (
	"fmt"
	"io"
	"net"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/logging"
	"github.com/labk/labk/pkg/server"
	"github.com/labk/labk/pkg/systemd"
	"github.com/labk/labk/pkg/version"
)

func serverCommand(stderr io.Writer) *cli.Command {
	return &cli.Command{
		Name: "server", Usage: "Run a server: the control plane and a node on this PC",
		Flags: configFlags("server"),
		Action: func(c *cli.Context) error {
			cfg, err := loadConfig(c, "server")
			if err != nil {
				return err
			}
			notifier := systemd.Take()
			sink := logging.NewSink(stderr, cfg.Debug)
			sink.Capture()
			host := health.ThisHost(cfg, true, built())
			host.Starting = true
			progress := newProgress(stderr, cfg.Debug)
			progress.say("labk %s, server on %s", version.Version, cfg.NodeName)
			err = server.Run(c.Context, server.Options{
				Config: &cfg, Host: host, Systemd: notifier, Fatal: sink.Fatal(), Observe: progress.observe,
				Up: func(node net.IP) { progress.up(node, cfg.WriteKubeconfig) },
			})
			progress.end()
			if err != nil {
				for _, line := range sink.Held() {
					fmt.Fprint(stderr, line)
				}
			}
			return err
		},
	}
}

// built is when this program was built, zero if it does not know.
func built() time.Time {
	t, err := time.Parse(time.RFC3339, version.BuildDate)
	if err != nil || t.Unix() == 0 {
		return time.Time{}
	}
	return t
}
