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
			role := "server"
			if c.Bool("agent") {
				role = "agent"
			}
			host, err := hostAs(c, role)
			if err != nil {
				return err
			}
			results := health.Run(c.Context, host, health.Probes())
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

// hostAs is this machine as a server or an agent is configured to run on it.
func hostAs(c *cli.Context, role string) (health.Host, error) {
	cfg, err := loadConfig(c, role)
	if err != nil {
		return health.Host{}, err
	}
	if role == "agent" { // the cluster's networks, once this PC knows them
		if _, err := join.Recall(&cfg, paths.Data(cfg.DataDir)); err != nil {
			return health.Host{}, err
		}
	}
	return health.ThisHost(cfg, role == "server", built()), nil
}
