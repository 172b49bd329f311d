package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/labk/labk/pkg/lab"
	"github.com/labk/labk/pkg/lab/cluster"
)

// labInit is the command by which the program starts itself as a lab host's init.
const labInit = "lab-init"

const (
	labUpLimit     = 5 * time.Minute
	labChangeLimit = time.Minute
)

func labCommand(stderr io.Writer) *cli.Command {
	host := func(name, usage string, do func(*cli.Context, *cluster.Node) error) *cli.Command {
		return &cli.Command{Name: name, Usage: usage, ArgsUsage: "HOST", Flags: labFlags(), Action: func(c *cli.Context) error {
			if c.Args().Len() != 1 {
				return usageError{fmt.Errorf("which host? see `labk lab %s --help`", name)}
			}
			return withNode(c, do)
		}}
	}
	change := func(do func(*cluster.Node, context.Context) error) func(*cli.Context, *cluster.Node) error {
		return func(c *cli.Context, n *cluster.Node) error {
			ctx, cancel := context.WithTimeout(c.Context, labChangeLimit)
			defer cancel()
			return do(n, ctx)
		}
	}
	return &cli.Command{
		Name: "lab", Usage: "Try a whole lab on this PC: hosts made of namespaces, with a server and agents", Flags: labFlags(),
		Action: func(c *cli.Context) error {
			if name := c.Args().First(); name != "" {
				return usageError{fmt.Errorf("no command %q: see `labk lab --help`", name)}
			}
			return cli.ShowSubcommandHelp(c)
		},
		Subcommands: []*cli.Command{
			{Name: "up", Usage: "Make the hosts, start labk in them and wait until all nodes are Ready", Action: func(c *cli.Context) error { return labUp(c, stderr) },
				Flags: append(labFlags(), &cli.IntFlag{Name: "agents", Usage: "How many agents join the server, `N` hosts more.", Value: 2})},
			{Name: "status", Usage: "Show hosts, cables, labk's processes and nodes", Flags: append(labFlags(), outputFlag()), Action: labStatus},
			{Name: "kubectl", Usage: "kubectl for the lab's cluster, with this PC's files and terminal", ArgsUsage: "ARGS...", SkipFlagParsing: true, Action: labKubectl},
			{Name: "exec", Usage: "Run a command in a host, with its exit code", ArgsUsage: "HOST -- CMD...", Flags: labFlags(), Action: labExec},
			host("kill", "Cut a host's power; its disk stays", change(func(n *cluster.Node, ctx context.Context) error { return n.Host.Kill(ctx) })),
			host("boot", "Give a host power, and start labk in it if it is not running", change((*cluster.Node).Start)),
			host("cut", "Unplug a host's network cable", change(func(n *cluster.Node, ctx context.Context) error { return n.Host.Cut(ctx) })),
			host("mend", "Plug the cable in again", change(func(n *cluster.Node, ctx context.Context) error { return n.Host.Mend(ctx) })),
			{Name: "down", Usage: "End the lab and leave nothing of it", Flags: labFlags(), Action: func(c *cli.Context) error { return labDown(c, stderr) }},
		},
	}
}

// labFlags are understood before and after the name of a subcommand.
func labFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "name", Usage: "`NAME` of the lab, where there are several. [$LABK_LAB_NAME]", DefaultText: "lab"},
		&cli.StringFlag{Name: "data-dir", Usage: "`FOLDER` of the hosts' disks, on a real file system. [$LABK_LAB_DATA_DIR]",
			DefaultText: lab.DefaultDir("NAME")},
	}
}

// labFlag is the flag's value, wherever it stands, or that of the environment.
func labFlag(c *cli.Context, name, env, otherwise string) string {
	for _, level := range c.Lineage() {
		if level.IsSet(name) {
			return level.String(name)
		}
	}
	return cmp.Or(os.Getenv(env), otherwise)
}

// labPlace is the lab's name and folder.
func labPlace(c *cli.Context) (name, dir string, err error) {
	if os.Geteuid() != 0 {
		return "", "", errors.New("a lab needs root: run this with sudo")
	}
	name = labFlag(c, "name", "LABK_LAB_NAME", "lab")
	return name, labFlag(c, "data-dir", "LABK_LAB_DATA_DIR", lab.DefaultDir(name)), nil
}

func openLab(c *cli.Context) (*cluster.Cluster, error) {
	name, dir, err := labPlace(c)
	if err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	opened, err := cluster.Open(dir, program)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no lab %q in %s: bring it up with `labk lab up`: %w", name, dir, fs.ErrNotExist)
	}
	return opened, err
}

// withNode does something to the host that is the first argument.
func withNode(c *cli.Context, do func(*cli.Context, *cluster.Node) error) error {
	opened, err := openLab(c)
	if err != nil {
		return err
	}
	node, err := opened.Node(c.Args().First())
	if err != nil {
		return usageError{err}
	}
	return do(c, node)
}

func labUp(c *cli.Context, stderr io.Writer) error {
	if err := noArguments(c); err != nil {
		return err
	}
	if c.Int("agents") < 0 {
		return usageError{fmt.Errorf("%d agents: give 0 or more", c.Int("agents"))}
	}
	name, dir, err := labPlace(c)
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context, labUpLimit)
	defer cancel()
	progress := newProgress(stderr, false)
	defer progress.end()
	up, err := cluster.Up(ctx, cluster.Options{
		Name: name, Dir: dir, Agents: c.Int("agents"), Program: program, InitCommand: []string{"/proc/self/exe", labInit}, Observe: progress.observe,
	})
	if errors.Is(err, lab.ErrExists) {
		return fmt.Errorf("%w: `labk lab down` does", err)
	}
	if err != nil {
		return err
	}
	var nodes []string
	for _, n := range up.Nodes() {
		nodes = append(nodes, n.Host.Name())
	}
	progress.labUp(nodes)
	return nil
}

func labDown(c *cli.Context, stderr io.Writer) error {
	opened, err := openLab(c)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context, labChangeLimit)
	defer cancel()
	if err := opened.Lab().Down(ctx); err != nil {
		return err
	}
	fmt.Fprintf(stderr, "lab %s is down\n", opened.Lab().Name())
	return nil
}

func labStatus(c *cli.Context) error {
	opened, err := openLab(c)
	if err != nil {
		return err
	}
	all := opened.Status(c.Context)
	return print(c, all, func() error {
		w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "HOST\tROLE\tADDRESS\tPOWER\tCABLE\tLABK\tNODE")
		for _, s := range all {
			power, cable, process := "off", "unplugged", "not running"
			if s.Running {
				power = "on"
			}
			if s.Cable {
				cable = "plugged in"
			}
			if s.PID != 0 {
				process = fmt.Sprintf("pid %d", s.PID)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Host, s.Role, s.Address, power, cable, process, s.Node)
		}
		return w.Flush()
	})
}

// runLabInit is the whole of `labk lab-init`. It only returns on failure.
func runLabInit() int {
	fmt.Fprintln(os.Stderr, "labk:", lab.InitMain())
	return codeFailed
}
