package cli

import (
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"github.com/labk/labk/pkg/datastore/etcd"
	"github.com/labk/labk/pkg/server"
)

// examineCommand is for `labk server`, which must not die of a damaged file.
func examineCommand() *cli.Command {
	return &cli.Command{
		Name: server.ExamineCommand, Hidden: true, Usage: "Look at etcd's file", ArgsUsage: "FILE",
		Action: func(c *cli.Context) error {
			err := etcd.Examine(c.Args().First())
			if bad := new(etcd.DamagedError); errors.As(err, &bad) {
				fmt.Fprintln(c.App.ErrWriter, bad.Detail)
				return cli.Exit("", server.ExaminedDamage)
			}
			return err
		},
	}
}

func serverCommand(stderr io.Writer) *cli.Command {
	return &cli.Command{
		Name: "server", Usage: "Run a server: the control plane and a node on this PC",
		Flags:  configFlags("server"),
		Action: nodeAction("server", stderr, server.Run),
	}
}
