package installer

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/labk/labk/pkg/agent"
	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/control"
	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/install"
	"github.com/labk/labk/pkg/join"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/process"
	"github.com/labk/labk/pkg/upgrade"
	"github.com/labk/labk/pkg/version"
)

// lookAtPC finds out what is installed, who starts services here and whether labk runs.
func (i *installation) lookAtPC(ctx context.Context) error {
	if i.Host.UID != 0 {
		return errors.New("install labk: not root: run it as root, for example with sudo")
	}
	var err error
	if i.before, err = install.Load(); err != nil {
		return err
	}
	i.record = &install.Record{}
	if before := i.before; before != nil {
		switch {
		case before.Role != i.Role:
			return &config.Error{Option: i.Role, Problem: "labk is installed here as " + before.Role, Remedy: "run `labk uninstall` first, or install it as " + before.Role}
		case before.Program != i.program:
			return &config.Error{Option: "bin-dir", Problem: "labk is installed as " + before.Program, Remedy: "give --bin-dir " + filepath.Dir(before.Program) + ", or run `labk uninstall` first"}
		}
		*i.record = *before
	}
	if i.manager, err = findManager(i.SkipStart); err != nil {
		return err
	}
	if i.service, err = upgrade.NewService(i.manager.name, i.manager.unit(i.Role)); err != nil {
		return err
	}
	self, err := process.Running(ctx)
	switch {
	case err == nil && !i.service.Active(ctx):
		return fmt.Errorf("install labk: labk runs already (pid %d), but not as %s: stop it first; its pods go on", self.PID, i.service.Name())
	case err != nil && !errors.Is(err, control.ErrNotRunning):
		return err
	}
	i.running, i.up, i.pid, i.used = err == nil, self.Up, self.PID, self.DataDir
	i.record.Role, i.record.Version, i.record.Program = i.Role, version.Version, i.program
	return nil
}

// lookAtConfig makes sure that the service will understand its configuration.
func (i *installation) lookAtConfig(ctx context.Context) error {
	var err error
	if i.given, err = i.Sources.Given(); err != nil {
		return err
	}
	i.findDataFolder(ctx)
	if err := i.readToken(); err != nil {
		return err
	}
	if i.Role == "server" {
		i.known = true
		return nil
	}
	server, err := agent.Server(&i.cfg)
	if err != nil {
		return err
	}
	machine, err := join.ThisMachine("/")
	if err != nil {
		return err
	}
	data := paths.Data(i.cfg.DataDir)
	if i.known, err = join.Recall(&i.cfg, data); err != nil {
		return err
	}
	return join.Check(join.Options{
		Config: &i.cfg, Data: data, Server: server, Token: func() (string, error) { return i.token, nil }, Machine: machine, Version: version.Version,
	})
}

// readToken reads the token from wherever it is. One that is given now replaces that of before, however that was given.
func (i *installation) readToken() error {
	c := i.cfg
	given, file := i.gives("token"), i.gives("token-file")
	if given && !file {
		c.TokenFile = ""
	} else if file && !given {
		c.Token = ""
	}
	var err error
	i.token, err = c.ReadToken()
	return err
}

// gives tells whether the command line or the environment gives an option.
func (i *installation) gives(name string) bool {
	return slices.ContainsFunc(i.given, func(s config.Setting) bool { return s.Name == name })
}

// lookAtMachine runs the probes of `labk check`, and installs packages that are missing.
func (i *installation) lookAtMachine(ctx context.Context) error {
	i.Host.Config, i.Host.Starting = i.cfg, !i.running
	results := health.Run(ctx, i.Host, health.Probes())
	for range 3 { // one that was missing may have hidden another
		lack := missing(results)
		if len(lack) == 0 || i.SkipPackages {
			break
		}
		if err := i.installPackages(ctx, lack); err != nil {
			return errors.Join(health.Err(results), err)
		}
		results = health.Run(ctx, i.Host, health.Probes())
	}
	if err := health.Err(results); err != nil {
		return err
	}
	for _, r := range results {
		if r.Status == health.Warn && (i.SkipFirewall || !isFirewall(r.Code)) {
			i.warn(r)
		}
	}
	return nil
}

func (i *installation) warn(r health.Result) {
	i.Warn("check %s: %s: %s (%s)", r.Title, r.Detail, r.Remedy, r.Code)
}

// waitUp waits until labk says itself that everything is ready: under OpenRC nobody else does.
func waitUp(ctx context.Context) error {
	return wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		self, err := process.Running(ctx)
		return err == nil && self.Up, nil
	})
}
