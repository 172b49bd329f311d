package cli

import (
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/handout"
	"github.com/labk/labk/pkg/join"
	"github.com/labk/labk/pkg/join/registrar"
	"github.com/labk/labk/pkg/paths"
)

func tokenCommand() *cli.Command {
	kubeconfig := &cli.StringFlag{Name: "kubeconfig", Usage: "The administrator's kubeconfig `FILE`.", EnvVars: []string{"KUBECONFIG"}, Value: config.Default().WriteKubeconfig}
	return &cli.Command{
		Name: "token", Usage: "Let other PCs join this cluster",
		Subcommands: []*cli.Command{
			{
				Name: "create", Usage: "Make a token for `labk agent --token`, and print it", Action: createToken,
				Flags: []cli.Flag{
					kubeconfig,
					&cli.DurationFlag{Name: "ttl", Usage: "How long it is good; 0 for ever.", Value: 24 * time.Hour},
					&cli.StringFlag{Name: "description", Usage: "What it is for, for people."},
					&cli.IntFlag{Name: "uses", Usage: "How many PCs may join with it; 0 for any number."},
					&cli.BoolFlag{Name: "print-join", Usage: "Print a line that installs labk on another PC, with the program from this server, and joins it."},
					&cli.StringFlag{Name: "replace", Usage: "The PC with this token takes the `NODE` over, even with other hardware, once the old PC is off."},
				},
			},
			{Name: "list", Usage: "List the tokens, without their secrets", Action: listTokens, Flags: []cli.Flag{kubeconfig, outputFlag()}},
			{Name: "delete", Usage: "Delete tokens; PCs that joined with them stay", ArgsUsage: "ID...", Action: deleteTokens, Flags: []cli.Flag{kubeconfig}},
		},
	}
}

// administrator is the client of the kubeconfig, and the hash of its cluster's CA.
func administrator(c *cli.Context) (client kubernetes.Interface, caHash string, err error) {
	path := c.String("kubeconfig")
	if _, err := os.Stat(path); err != nil {
		return nil, "", fmt.Errorf("read the kubeconfig: %w: run this on the server as root, or name one with --kubeconfig", err)
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, "", fmt.Errorf("read the kubeconfig %s: %w", path, err)
	}
	cfg.Timeout = 10 * time.Second
	ca := cfg.CAData
	if len(ca) == 0 {
		if ca, err = os.ReadFile(cfg.CAFile); err != nil {
			return nil, "", fmt.Errorf("read the cluster's CA: %w", err)
		}
	}
	if caHash, err = join.CAHashPEM(ca); err != nil {
		return nil, "", fmt.Errorf("read the cluster's CA in %s: %w", path, err)
	}
	client, err = kubernetes.NewForConfig(cfg)
	return client, caHash, err
}

func createToken(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	o := registrar.TokenOptions{TTL: c.Duration("ttl"), Description: c.String("description"), Uses: c.Int("uses"), Replace: c.String("replace")}
	if o.TTL < 0 || o.Uses < 0 {
		return usageError{fmt.Errorf("--ttl and --uses can't be negative: leave them out, or use 0 for no limit")}
	}
	if o.Replace != "" {
		if msgs := validation.IsDNS1123Subdomain(o.Replace); len(msgs) > 0 {
			return usageError{fmt.Errorf("--replace: %q can't be a node's name: use one that `labk kubectl get nodes` shows", o.Replace)}
		}
		if o.Uses == 0 {
			o.Uses = 1
		}
	}
	client, hash, err := administrator(c)
	if err != nil {
		return err
	}
	var offer handout.Offer
	if c.Bool("print-join") { // before there is a token that nobody gets to see
		if offer, err = handout.Ask(c.Context, client); err != nil {
			return err
		}
	}
	t, err := join.NewToken(hash)
	if err != nil {
		return err
	}
	if err := registrar.CreateToken(c.Context, client, t, o); err != nil {
		return err
	}
	if c.Bool("print-join") {
		fmt.Fprintln(c.App.Writer, offer.Line(t.String()))
	} else {
		fmt.Fprintln(c.App.Writer, t)
	}
	return nil
}

func listTokens(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	client, _, err := administrator(c)
	if err != nil {
		return err
	}
	list, err := registrar.ListTokens(c.Context, client)
	if err != nil {
		return err
	}
	return print(c, list, func() error {
		w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "ID\tEXPIRES\tUSES LEFT\tREPLACES\tDESCRIPTION")
		for _, t := range list {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", t.ID, expiry(t), usesLeft(t), dash(t.Replaces), dash(t.Description))
		}
		return w.Flush()
	})
}

func expiry(t registrar.TokenInfo) string {
	switch {
	case t.Expires == nil:
		return "never"
	case time.Now().After(*t.Expires):
		return "expired"
	}
	return "in " + time.Until(*t.Expires).Round(time.Second).String()
}

func usesLeft(t registrar.TokenInfo) string {
	if t.UsesLeft == nil {
		return "any"
	}
	return fmt.Sprint(*t.UsesLeft)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func deleteTokens(c *cli.Context) error {
	if !c.Args().Present() {
		return usageError{fmt.Errorf("which token? give an ID of `labk token list`")}
	}
	client, _, err := administrator(c)
	if err != nil {
		return err
	}
	for _, id := range c.Args().Slice() {
		if t, err := join.ParseToken(id); err == nil { // the whole token will do
			id = t.ID
		}
		deleted, err := registrar.DeleteToken(c.Context, client, id)
		if err != nil {
			return err
		}
		fmt.Fprintf(c.App.Writer, "token %s deleted\n", id)
		if deleted.Permanent {
			fmt.Fprintf(c.App.ErrWriter, "labk: warning: this was the server's own token, which its next start makes known again: "+
				"to have another one made then, remove %s (in its data folder) before, or configure another\n", paths.Data(config.Default().DataDir).Token())
		}
	}
	return nil
}
