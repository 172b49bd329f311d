package cli

import (
	"fmt"
	"os"

	"github.com/urfave/cli/v2"
	"golang.org/x/term"

	"github.com/labk/labk/pkg/uninstall"
)

func uninstallCommand() *cli.Command {
	return &cli.Command{
		Name: "uninstall", Usage: "Remove labk from this PC, with its pods and the cluster's data",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "keep-data", Usage: "Keep the data folder and the configuration: a later installation goes on with the same cluster."},
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "Do it; needed on a terminal only."},
			&cli.BoolFlag{Name: "force", Usage: "Also end a labk that was started by hand."},
			&cli.StringFlag{Name: "data-dir", Usage: "Data `FOLDER`, if not that of the configuration.", EnvVars: []string{"LABK_DATA_DIR"}},
		},
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			if term.IsTerminal(int(os.Stdin.Fd())) && !c.Bool("yes") {
				return usageError{fmt.Errorf("this ends all pods of this PC and deletes labk's data here: run it again with --yes, and with --keep-data if the data are to stay")}
			}
			return uninstall.Run(c.Context, uninstall.Options{
				Data: c.String("data-dir"), KeepData: c.Bool("keep-data"), Force: c.Bool("force"),
				Say: func(format string, args ...any) { fmt.Fprintf(c.App.Writer, format+"\n", args...) },
			})
		},
	}
}
