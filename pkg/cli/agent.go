package cli

import (
	"context"
	"io"
	"net"

	"github.com/urfave/cli/v2"

	"github.com/labk/labk/pkg/agent"
	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/process"
)

func agentCommand(stderr io.Writer) *cli.Command {
	return &cli.Command{
		Name: "agent", Usage: "Run an agent: join this PC to a server's cluster as a node",
		Flags: configFlags("agent"),
		Action: nodeAction("agent", stderr, func(ctx context.Context, cfg *config.Config, p process.Options, show *progress) error {
			host := health.ThisHost(*cfg, false, built())
			host.Starting = true
			return agent.Run(ctx, agent.RunOptions{
				Config: cfg, Host: host, Process: p, Say: show.say,
				Up: func(node net.IP) { show.agentUp(node, cfg.NodeName, cfg.Server) },
			})
		}),
	}
}
