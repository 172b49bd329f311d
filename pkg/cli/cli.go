// Package cli is labk's command line: one file a command, each turning flags into configuration, output and an exit code.
package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/version"
)

// The exit codes.
const (
	codeDone   = 0
	codeFailed = 1
	codeUsage  = 2
)

// usageError is a mistake in the command line.
type usageError struct{ error }

// Run runs the command line args (the program's name first) and returns the exit code. Called by the name kubectl or ctr, it is that program.
func Run(args []string, stdout, stderr io.Writer) int {
	if code, ok := multicall(args); ok {
		return code
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	app := newApp(stdout, stderr)
	err := app.RunContext(ctx, args)
	if err == nil {
		return codeDone
	}
	var coded cli.ExitCoder
	if errors.As(err, &coded) && err.Error() == "" {
		return coded.ExitCode() // the command has said everything
	}
	fmt.Fprintln(stderr, "labk:", err)
	var usage usageError
	var mistake *config.Error
	if errors.As(err, &usage) || errors.As(err, &mistake) {
		return codeUsage
	}
	return codeFailed
}

func newApp(stdout, stderr io.Writer) *cli.App {
	onUsage := func(c *cli.Context, err error, _ bool) error {
		return usageError{fmt.Errorf("%w: see `%s --help`", err, cmp.Or(c.Command.HelpName, c.App.Name))}
	}
	app := &cli.App{
		Name:                      "labk",
		Usage:                     "Kubernetes for the PCs of a lab, in one program",
		Version:                   version.Version,
		HideVersion:               true,
		Writer:                    stdout,
		ErrWriter:                 stderr,
		ExitErrHandler:            func(*cli.Context, error) {},
		OnUsageError:              onUsage,
		DisableSliceFlagSeparator: true,
		CommandNotFound:           nil,
		Action: func(c *cli.Context) error {
			if name := c.Args().First(); name != "" {
				return usageError{fmt.Errorf("no command %q: see `labk --help`", name)}
			}
			return cli.ShowAppHelp(c)
		},
		Commands: []*cli.Command{
			serverCommand(stderr), agentCommand(stderr), tokenCommand(), certificateCommand(), kubectlCommand(), ctrCommand(), checkCommand(), statusCommand(), imageCommand(), snapshotCommand(stderr),
			labCommand(stderr), installCommand(stderr), upgradeCommand(stderr), uninstallCommand(), versionCommand(),
			completionCommand(), manCommand(), hiddenCompleteCommand(), examineCommand(),
		},
	}
	for _, c := range app.Commands {
		c.OnUsageError = onUsage
		if len(c.Subcommands) > 0 {
			c.Action = group
		}
		for _, sub := range c.Subcommands {
			sub.OnUsageError = onUsage
		}
	}
	return app
}

// group is what a command does that only has others.
func group(c *cli.Context) error {
	if name := c.Args().First(); name != "" {
		return usageError{fmt.Errorf("no command %q: see `%s --help`", name, c.Command.HelpName)}
	}
	return cli.ShowSubcommandHelp(c)
}

// configFlags makes the flags of a role out of the configuration's options: of all, or of those that are named.
func configFlags(role string, only ...string) []cli.Flag {
	flags := []cli.Flag{&cli.StringFlag{Name: "config", Aliases: []string{"c"}, Usage: "Configuration `FILE`.", Value: paths.ConfigFile, EnvVars: []string{"LABK_CONFIG"}}}
	for _, o := range config.Options() {
		if !o.For(role) || len(only) > 0 && !slices.Contains(only, o.Name) {
			continue
		}
		usage := o.Usage + " [$" + o.Env() + "]"
		switch {
		case o.IsBool():
			flags = append(flags, &cli.BoolFlag{Name: o.Name, Usage: usage})
		case o.IsList():
			flags = append(flags, &cli.StringSliceFlag{Name: o.Name, Usage: usage})
		default:
			flags = append(flags, &cli.StringFlag{Name: o.Name, Usage: usage, DefaultText: o.Default})
		}
	}
	return flags
}

// loadConfig fills the configuration of a command that has the configFlags of a role, all or some.
func loadConfig(c *cli.Context, role string) (config.Config, error) {
	if c.Args().Present() {
		return config.Config{}, usageError{fmt.Errorf("%q is no flag: see `%s --help`", c.Args().First(), c.Command.HelpName)}
	}
	cfg, err := config.Load(sources(c, role))
	if err != nil {
		return cfg, err
	}
	return cfg, cfg.Validate()
}

// sources is where a command that has configFlags finds its configuration.
func sources(c *cli.Context, role string) config.Sources {
	s := config.Sources{
		File: c.String("config"), Folder: paths.ConfigFolder, Explicit: c.IsSet("config"),
		Env: os.LookupEnv, Flags: map[string][]string{}, Role: role,
		Warn: func(sentence string) { fmt.Fprintln(c.App.ErrWriter, "labk: warning:", sentence) },
	}
	for _, o := range config.Options() {
		if !o.For(role) || !c.IsSet(o.Name) {
			continue
		}
		switch {
		case o.IsBool():
			s.Flags[o.Name] = []string{fmt.Sprint(c.Bool(o.Name))}
		case o.IsList():
			s.Flags[o.Name] = c.StringSlice(o.Name)
		default:
			s.Flags[o.Name] = []string{c.String(o.Name)}
		}
	}
	return s
}

// noArguments refuses arguments of a command that takes none.
func noArguments(c *cli.Context) error {
	if c.Args().Present() {
		return usageError{fmt.Errorf("%q is no flag: see `%s --help`", c.Args().First(), c.Command.HelpName)}
	}
	return nil
}

// multicall runs kubectl, ctr or a lab host's init when the program is called by that name, or with it as the first argument.
func multicall(args []string) (code int, ok bool) {
	name, rest := filepath.Base(args[0]), args
	if name != "kubectl" && name != "ctr" && len(args) > 1 {
		name, rest = args[1], args[1:]
	}
	switch name {
	case "kubectl":
		return kubectl(rest), true
	case "ctr":
		return ctr(rest), true
	case labInit:
		return runLabInit(), true
	}
	return 0, false
}
