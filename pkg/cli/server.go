package cli

import (
	"io"

	"github.com/urfave/cli/v2"

	"github.com/labk/labk/pkg/server"
)

func serverCommand(stderr io.Writer) *cli.Command {
	return &cli.Command{
		Name: "server", Usage: "Run a server: the control plane and a node on this PC",
		Flags:  configFlags("server"),
		Action: nodeAction("server", stderr, server.Run),
	}
}
