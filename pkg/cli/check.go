package cli

import (
	"fmt"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/join"
	"github.com/labk/labk/pkg/paths"
)

func checkCommand() *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "Look for what would keep labk from running on this machine; starts nothing",
		Flags: append(configFlags("server"), outputFlag(), &cli.BoolFlag{Name: "agent", Usage: "Look as for an agent: no control plane here."}),
		Action: func(c *cli.Context) error {
			cfg, err := loadConfig(c, "server")
			if err != nil {
				return err
			}
			if c.Bool("agent") { // the cluster's networks, once this PC knows them
				if _, err := join.Recall(&cfg, paths.Data(cfg.DataDir)); err != nil {
					return err
				}
			}
			results := health.Run(c.Context, health.ThisHost(cfg, !c.Bool("agent"), built()), health.Probes())
			err = print(c, results, func() error {
				w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
				for _, r := range results {
					fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", r.Status, r.Code, r.Title, r.Detail)
					if r.Remedy != "" {
						fmt.Fprintf(w, "\t\t\t-> %s\n", r.Remedy)
					}
				}
				return w.Flush()
			})
			if err == nil && health.Err(results) != nil {
				return cli.Exit("", codeFailed)
			}
			return err
		},
	}
}
