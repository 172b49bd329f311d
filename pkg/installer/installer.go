// Package installer makes labk a service of this PC: `labk install`. The program puts itself in place, writes its configuration and its unit, opens the firewall, starts and
// waits until the PC's node is Ready. Run again it upgrades; when what is new does not come up, what was there before runs again.
package installer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/install"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/process"
	"github.com/labk/labk/pkg/upgrade"
)

// BinDir is where the program is put when nothing else is said.
const BinDir = "/usr/local/bin"

// Options of an installation.
type Options struct {
	// Role is "server" or "agent".
	Role string
	// Sources is where the configuration comes from. What the command line and the environment give is written into paths.ConfigFile.
	Sources config.Sources
	// Host is this machine, with the configuration in it as the service will have it.
	Host health.Host
	// BinDir is the folder of the program.
	BinDir string
	// SkipStart starts and restarts nothing, SkipEnable leaves it to the owner of the PC to start labk at boot.
	SkipStart, SkipEnable bool
	// SkipPackages installs nothing of the distribution's, SkipFirewall opens no firewall.
	SkipPackages, SkipFirewall bool
	// Patience is for how long a start is waited for.
	Patience time.Duration
	// Say tells a person what happens, Warn what is unwise: one line, as fmt.Sprintf.
	Say, Warn func(format string, args ...any)
}

// installation is what the steps share.
type installation struct {
	Options
	cfg     config.Config
	given   []config.Setting
	before  *install.Record // nil if labk was not installed
	record  *install.Record // as it is to be
	program string
	manager manager
	service upgrade.Service
	// running tells that labk runs now, as the service, pid as which process, used with which data folder, and up that it is ready.
	running, up bool
	pid         int
	used        string
	token       string
	files       files
	// known tells that the cluster's networks are known: an agent learns them when it joins.
	known, opened bool
}

// Run installs labk, or upgrades it. A mistake in the configuration is a *config.Error, a fault of the machine a *health.Error, and nothing of labk has been changed then. After any other error a labk that was up before
// runs again as it did, or the error says that it does not.
func Run(ctx context.Context, o Options) error {
	i := &installation{Options: o, cfg: o.Host.Config, program: filepath.Join(o.BinDir, "labk")}
	for _, look := range []func(context.Context) error{i.lookAtPC, i.lookAtConfig, i.lookAtMachine} {
		if err := look(ctx); err != nil {
			return err
		}
	}
	staged, err := i.stage(ctx)
	if err != nil {
		return err
	}
	if err := i.writeFiles(ctx); err != nil {
		return errors.Join(err, i.restore(ctx), staged.discard())
	}
	if i.known || i.SkipStart {
		i.openFirewall(ctx)
	}
	if err := i.bringUp(ctx, staged); err != nil {
		return err
	}
	if err := i.makeLinks(); err != nil {
		return err
	}
	i.openFirewall(ctx) // unless it was opened before: only now an agent knows its cluster's networks
	return nil
}

// bringUp puts the program in place and starts it. With an old one to go back to, a new one that does not come up is taken out again.
func (i *installation) bringUp(ctx context.Context, staged *staged) error {
	switch {
	case i.SkipStart:
		if err := i.replace(ctx, staged); err != nil {
			return err
		}
		i.Say("%s is installed and not started", i.service.Name())
		return nil
	case !i.running:
		if err := i.replace(ctx, staged); err != nil {
			return err
		}
		return i.start(ctx)
	case staged != nil:
		return i.upgrade(ctx, staged, i.service)
	case !i.up: // there is nothing that it would be good to go back to
		return i.start(ctx)
	case i.files.changed() || !process.Runs(i.pid, i.program):
		return i.restart(ctx)
	}
	i.Say("%s runs already, with the same program and configuration: nothing to do", i.service.Name())
	return nil
}

// replace puts the program in place and starts nothing. One that was installed is upgraded, also while it is stopped: the datastore is copied, and no version left out.
func (i *installation) replace(ctx context.Context, staged *staged) error {
	if info, err := os.Lstat(i.program); staged != nil && i.before != nil && err == nil && info.Mode().IsRegular() {
		return i.upgrade(ctx, staged, nil)
	}
	return staged.putInPlace(ctx, i)
}

// upgrade replaces an installed program; the service is restarted with it, unless it is nil.
func (i *installation) upgrade(ctx context.Context, staged *staged, service upgrade.Service) error {
	_, err := upgrade.PC(ctx, upgrade.Options{
		Server: i.Role == "server", Config: &i.cfg, Program: i.program, Service: service, Patience: i.Patience, Restore: i.restore, Say: i.Say,
		From: func(context.Context, string) (path, sum string, err error) { return staged.Path, "", nil },
	})
	if err != nil && !errors.As(err, new(*upgrade.RolledBackError)) {
		return errors.Join(err, i.restore(context.WithoutCancel(ctx))) // it did not get so far, or has done so already
	}
	return err
}

// restart restarts a labk that is up, for a new configuration.
func (i *installation) restart(ctx context.Context) error {
	err := i.start(ctx)
	if err == nil {
		return nil
	}
	i.Say("going back to the configuration before")
	ctx = context.WithoutCancel(ctx)
	if back := errors.Join(i.restore(ctx), i.start(ctx)); back != nil {
		return fmt.Errorf("%w; and going back failed: %w", err, back)
	}
	return fmt.Errorf("%w; %s runs again with the configuration before", err, i.service.Name())
}

// start starts or restarts the service and waits until labk is up.
func (i *installation) start(ctx context.Context) error {
	began := time.Now()
	i.Say("starting %s", i.service.Name())
	ctx, cancel := context.WithTimeoutCause(ctx, i.Patience, fmt.Errorf("it is not ready after %v", i.Patience))
	defer cancel()
	err := i.service.Restart(ctx)
	if err == nil {
		err = waitUp(ctx)
	}
	if err == nil {
		i.Say("the node %s is Ready", i.cfg.NodeName)
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if words := i.service.LastWords(context.WithoutCancel(ctx), began); words != "" {
		err = errors.New(words) // it knows better than who started it
	}
	return fmt.Errorf("start %s: %w: correct what it says and run this again; its log has more (%s)", i.service.Name(), err, i.manager.log(i.service.Name()))
}

// restore takes back what was written, for what was there before.
func (i *installation) restore(ctx context.Context) error {
	err := errors.Join(i.files.restore(), i.manager.reload(ctx))
	if left := i.left(); left != nil {
		return errors.Join(err, left.Save())
	}
	if gone := os.Remove(paths.InstallRecord); !errors.Is(gone, fs.ErrNotExist) {
		err = errors.Join(err, gone)
	}
	return err
}

// left is the record of what is there when what was written has been taken back: what was before, and rules of the firewall, which stay; nil for nothing.
func (i *installation) left() *install.Record {
	r := *i.record
	if i.before != nil {
		r.Version, r.Service, r.Config = i.before.Version, i.before.Service, i.before.Config
		return &r
	}
	if len(r.Firewall) == 0 {
		return nil
	}
	return &install.Record{Role: r.Role, Version: r.Version, Program: r.Program, Firewall: r.Firewall}
}

// configFile is what the configuration is made from.
func (i *installation) configFile() string {
	if i.Sources.Explicit {
		return i.Sources.File
	}
	return paths.ConfigFile
}
