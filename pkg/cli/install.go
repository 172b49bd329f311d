package cli

import (
	"fmt"
	"io"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/urfave/cli/v2"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/installer"
	"github.com/labk/labk/pkg/upgrade"
)

func installCommand(stderr io.Writer) *cli.Command {
	role := func(name, usage string) *cli.Command {
		return &cli.Command{Name: name, Usage: usage, Flags: append(installFlags(), configFlags(name)...), Action: installAction(name, stderr)}
	}
	return &cli.Command{
		Name: "install", Usage: "Make labk a service of this PC, or upgrade the one that is; install.sh does it with a program from elsewhere",
		Subcommands: []*cli.Command{
			role("server", "Install a server; its flags go into /etc/labk/config.yaml"),
			role("agent", "Install an agent; its flags go into /etc/labk/config.yaml"),
		},
	}
}

func installFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "bin-dir", Usage: "`FOLDER` for the program.", Value: installer.BinDir},
		&cli.BoolFlag{Name: "skip-start", Usage: "Start nothing now."},
		&cli.BoolFlag{Name: "skip-enable", Usage: "Do not start it at boot."},
		&cli.BoolFlag{Name: "skip-packages", Usage: "Install no package of the distribution, even if one is missing."},
		&cli.BoolFlag{Name: "skip-firewall", Usage: "Do not open ufw or firewalld."},
	}
}

func installAction(role string, stderr io.Writer) cli.ActionFunc {
	return func(c *cli.Context) error {
		cfg, err := loadConfig(c, role)
		if err != nil {
			return err
		}
		bin := c.String("bin-dir")
		if !filepath.IsAbs(bin) {
			return &config.Error{Option: "bin-dir", Problem: fmt.Sprintf("%q is not an absolute path", bin), Remedy: "begin it with /"}
		}
		// It may be an upgrade; see upgradeCommand.
		signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
		show := newProgress(stderr, cfg.Debug)
		defer show.end()
		err = installer.Run(c.Context, installer.Options{
			Role: role, Sources: sources(c, role), Host: health.ThisHost(cfg, role == "server", built()), BinDir: filepath.Clean(bin),
			SkipStart: c.Bool("skip-start"), SkipEnable: c.Bool("skip-enable"), SkipPackages: c.Bool("skip-packages"), SkipFirewall: c.Bool("skip-firewall"),
			Patience: upgrade.DefaultPatience, Say: show.say, Warn: func(format string, args ...any) { show.say("warning: "+format, args...) },
		})
		if err == nil && role == "server" && !c.Bool("skip-start") {
			show.say("next: labk kubectl get nodes; for another PC: labk token create --print-join")
		}
		return err
	}
}
