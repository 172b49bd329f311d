package cli

import (
	"context"
	"io"
	"net"

	"github.com/urfave/cli/v2"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/process"
	"github.com/labk/labk/pkg/server"
)

func serverCommand(stderr io.Writer) *cli.Command {
	return &cli.Command{
		Name: "server", Usage: "Run a server: the control plane and a node on this PC",
		Flags: configFlags("server"),
		Action: nodeAction("server", stderr, func(ctx context.Context, cfg *config.Config, p process.Options, show *progress) error {
			host := health.ThisHost(*cfg, true, built())
			host.Starting = true
			return server.Run(ctx, server.Options{
				Config: cfg, Host: host, Process: p, Say: show.say,
				Up: func(node net.IP) { show.serverUp(node, cfg.HTTPSListenPort, cfg.WriteKubeconfig) },
			})
		}),
	}
}
