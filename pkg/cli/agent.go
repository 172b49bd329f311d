package cli

import (
	"io"

	"github.com/urfave/cli/v2"

	"github.com/labk/labk/pkg/agent"
)

func agentCommand(stderr io.Writer) *cli.Command {
	return &cli.Command{
		Name: "agent", Usage: "Run an agent: join this PC to a server's cluster as a node",
		Flags:  configFlags("agent"),
		Action: nodeAction("agent", stderr, agent.Run),
	}
}
