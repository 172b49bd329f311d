package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/digest"
	"github.com/labk/labk/pkg/install"
	"github.com/labk/labk/pkg/join"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/process"
	"github.com/labk/labk/pkg/upgrade"
	"github.com/labk/labk/pkg/upgrade/request"
)

func upgradeCommand(stderr io.Writer) *cli.Command {
	return &cli.Command{
		Name: "upgrade", Usage: "Replace the labk of this PC, or of the whole cluster, by a newer one; pods go on, and a bad one is taken back",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "from", Usage: "The new program: a `FILE`, or, on an agent, server for the one that its server runs."},
			&cli.StringFlag{Name: "sha256", Usage: "What the new program's `SHA-256` must be."},
			&cli.BoolFlag{Name: "all", Usage: "On the server: upgrade it first, if --from names a file, and then one agent after another to what the server runs."},
			&cli.BoolFlag{Name: "drain", Usage: "With --all: move the pods of each PC away first.", Value: true},
			&cli.BoolFlag{Name: "back", Usage: "Go back to the program from before the last upgrade of this PC."},
			&cli.BoolFlag{Name: "restore", Usage: "With --back from another minor version, on a server: take the copy of the datastore from before the upgrade; all that changed since is lost."},
			&cli.DurationFlag{Name: "timeout", Usage: "How long a new program may take until it is up.", Value: upgrade.DefaultPatience},
			&cli.StringFlag{Name: "config", Aliases: []string{"c"}, Usage: "Configuration `FILE`.", Value: paths.ConfigFile, EnvVars: []string{"LABK_CONFIG"}},
			&cli.StringFlag{Name: "request", Hidden: true}, // of the server, by the agent's own doing
		},
		Action: func(c *cli.Context) error {
			show := newProgress(stderr, false)
			defer show.end()
			// Half an upgrade is worse than one that nobody watches: the terminal may go.
			signal.Ignore(syscall.SIGHUP, syscall.SIGPIPE)
			err := runUpgrade(c, show)
			if err != nil && c.String("request") != "" {
				fmt.Fprintln(c.App.Writer, err) // for the agent, which reports it if that could not be done here
			}
			return err
		},
	}
}

func runUpgrade(c *cli.Context, show *progress) error {
	u, err := newUpgrader(c, show)
	if err != nil {
		return err
	}
	if c.Bool("back") {
		return u.back(c.Context, c.Bool("restore"))
	}
	if text := c.String("request"); text != "" {
		return u.follow(c.Context, text)
	}
	if c.String("from") != "" {
		if err := u.pc(c.Context, c.String("sha256")); err != nil {
			return err
		}
	}
	if c.Bool("all") {
		return u.fleet(c.Context, c.Bool("drain"))
	}
	return nil
}

// upgrader is what the parts of the command share.
type upgrader struct {
	cfg    config.Config
	record *install.Record
	pcs    upgrade.Options
	show   *progress
}

func newUpgrader(c *cli.Context, show *progress) (*upgrader, error) {
	from := c.String("from")
	switch back := c.Bool("back"); {
	case from == "" && !c.Bool("all") && !back:
		return nil, usageError{errors.New("which program? give --from FILE, --from server on an agent, --all on the server, or --back")}
	case back && (from != "" || c.Bool("all")), c.Bool("restore") && !back:
		return nil, usageError{errors.New("--back goes with --restore alone: the program is the one from before the last upgrade")}
	}
	record, err := install.Load()
	if err != nil {
		return nil, err
	}
	if record == nil {
		return nil, errors.New("upgrade this PC: labk was not installed here, it is only run by hand: put the new program in the place of the old one and start it again (pods go on), or run `labk install`")
	}
	server := record.Role == "server"
	switch {
	case !server && c.Bool("all"):
		return nil, usageError{errors.New("--all is for the server, and this PC is an agent")}
	case server && from == "server":
		return nil, usageError{errors.New("--from server is for agents, and this PC is the server: give a file")}
	}
	cfg, err := loadConfig(c, record.Role)
	if err != nil {
		return nil, err
	}
	if self, err := process.Running(c.Context); err == nil {
		cfg.DataDir = self.DataDir // whatever it was started with
		if last, err := process.ReadRecord(paths.Data(cfg.DataDir)); err == nil && last != nil {
			cfg.NodeName = last.Node
		}
	}
	u := &upgrader{cfg: cfg, record: record, show: show}
	u.pcs = upgrade.Options{Server: server, Config: &u.cfg, From: upgrade.FromFile(from), Patience: c.Duration("timeout"), Say: show.say}
	if from == "server" {
		u.pcs.From = upgrade.FromServer(join.NodeFiles(paths.Data(cfg.DataDir)).Kubeconfig)
	}
	if u.pcs.Program, err = filepath.EvalSymlinks(record.Program); err != nil {
		return nil, fmt.Errorf("find the installed program: %w: run `labk install` again", err)
	}
	if record.Service != nil {
		if u.pcs.Service, err = upgrade.NewService(record.Service.Manager, record.Service.Name); err != nil {
			return nil, err
		}
	}
	if c.IsSet("config") {
		u.pcs.ConfigFile = c.String("config")
	}
	return u, nil
}

// pc upgrades this PC.
func (u *upgrader) pc(ctx context.Context, sha256 string) error {
	u.pcs.SHA256 = sha256
	program, err := upgrade.PC(ctx, u.pcs)
	if errors.Is(err, upgrade.ErrSame) {
		u.show.say("this PC runs %s already", program.Text)
		return nil
	}
	if err != nil {
		return err
	}
	return u.note(program.Text)
}

// note writes down which version is installed from now on.
func (u *upgrader) note(version string) error {
	u.record.Version = version
	return u.record.Save()
}

// back goes back to the program from before the last upgrade.
func (u *upgrader) back(ctx context.Context, restore bool) error {
	version, err := upgrade.Back(ctx, u.pcs, restore)
	if err != nil {
		return err
	}
	return u.note(version)
}

// follow does what the server has asked this agent for, and reports on it.
func (u *upgrader) follow(ctx context.Context, text string) error {
	r, err := request.Parse(text)
	if err != nil {
		return usageError{err}
	}
	u.report(ctx, r, request.State{ID: r.ID, Outcome: request.Running})
	err = u.pc(ctx, r.SHA256)
	state := request.State{ID: r.ID, Outcome: request.Done}
	if err != nil {
		state.Outcome, state.Reason = request.Failed, err.Error()
	}
	u.report(context.WithoutCancel(ctx), r, state)
	return err
}

const (
	// reportLimit is how long a PC tries to report: its server may be off for a while. requestLimit bounds one attempt.
	reportLimit  = 2 * time.Minute
	requestLimit = 10 * time.Second
)

func (u *upgrader) report(ctx context.Context, r request.Request, s request.State) {
	var last error
	err := wait.PollUntilContextTimeout(ctx, time.Second, reportLimit, true, func(ctx context.Context) (bool, error) {
		var client kubernetes.Interface
		if client, last = upgrade.Client(join.NodeFiles(paths.Data(u.cfg.DataDir)).Kubeconfig, requestLimit); last == nil {
			last = request.Report(ctx, client, u.cfg.NodeName, r, s)
		}
		return last == nil, nil
	})
	if err != nil {
		u.show.say("the server can't be told: %v", last)
	}
}

// fleet upgrades the agents to what runs here.
func (u *upgrader) fleet(ctx context.Context, drain bool) error {
	self, err := process.Running(ctx)
	if err != nil {
		return err
	}
	// What it hands out is what it runs, whatever lies on the disk.
	sum, err := digest.OfFile(fmt.Sprintf("/proc/%d/exe", self.PID))
	if err != nil {
		return fmt.Errorf("read the program that runs: %w", err)
	}
	client, err := upgrade.Client(u.cfg.WriteKubeconfig, 0)
	if err != nil {
		return fmt.Errorf("read the kubeconfig: %w", err)
	}
	return upgrade.Fleet(ctx, upgrade.FleetOptions{
		Client: client, Version: self.Version, SHA256: sum, Own: u.cfg.NodeName, Drain: drain, Patience: u.pcs.Patience, Say: u.show.say,
	})
}
