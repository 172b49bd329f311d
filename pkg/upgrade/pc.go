package upgrade

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/datastore/sqlite"
	"github.com/labk/labk/pkg/digest"
	"github.com/labk/labk/pkg/lockfile"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/process"
	"github.com/labk/labk/pkg/version"
)

// Options of an upgrade of this PC.
type Options struct {
	// Server tells that this PC is a server, not an agent.
	Server bool
	// Config is this PC's, ConfigFile where it was read; empty for the usual place.
	Config     *config.Config
	ConfigFile string
	// Program is the path of the installed program; no link. Service runs it; nil if nobody does.
	Program string
	Service Service
	// From is where the new program comes from, SHA256 what it must be; empty for anything.
	From   Source
	SHA256 string
	// Patience is Replacement's.
	Patience time.Duration
	// Restore, if set, takes back what else was changed for the new program. It is called when that did not come up.
	Restore func(ctx context.Context) error
	// Say tells a person what happens: one line, as fmt.Sprintf.
	Say func(format string, args ...any)
}

// copiesKept is how many copies of the datastore are kept.
const copiesKept = 3

// ErrSame is that the PC runs the program already.
var ErrSame = errors.New("this PC runs that program already")

// PC upgrades this PC: the new program is fetched, looked at and let look at the PC; the datastore is copied; then Replace. An error from before that has changed nothing. A *RolledBackError is that the
// program before runs again, with the data of before if the new one was of another minor version. The program returned is the new one, as far as it is known.
func PC(ctx context.Context, o Options) (Program, error) {
	lock, err := acquire()
	if err != nil {
		return Program{}, err
	}
	defer lock.Release()
	u := &upgrade{Options: o, data: paths.Data(o.Config.DataDir)}
	if err := u.fetch(ctx); err != nil {
		return u.next, err
	}
	defer removeIfThere(u.next.Path) // if it is still there it was not wanted
	if err := u.look(ctx); err != nil {
		return u.next, err
	}
	u.Say("upgrading from %s to %s", u.nowText, u.next.Text)
	return u.next, u.replace(ctx)
}

// acquire lets one upgrade at a time through.
func acquire() (*lockfile.Lock, error) {
	if err := paths.MakeRunDir(); err != nil {
		return nil, fmt.Errorf("make the run folder: %w", err)
	}
	lock, err := lockfile.AcquireLock(paths.UpgradeLock)
	if held := new(lockfile.LockedError); errors.As(err, &held) {
		return nil, fmt.Errorf("another upgrade of this PC is under way (pid %d): wait for its end", held.PID)
	}
	return lock, err
}

type upgrade struct {
	Options
	data    paths.Data
	next    Program
	nowText string // the version that runs, or is installed; empty if unknown
	byHand  int    // the process if labk runs and no service that is to be restarted
	before  string // what the data folder's version file said
}

// fetch stages the new program and makes sure that it is one.
func (u *upgrade) fetch(ctx context.Context) error {
	if info, err := os.Lstat(u.Program); err != nil || !info.Mode().IsRegular() {
		return errors.Join(err, fmt.Errorf("look at the installed program: %s is not a file: put labk there by `labk install`", u.Program))
	}
	staged, promised, err := u.From(ctx, u.Program)
	if err != nil {
		return err
	}
	if u.SHA256 != "" {
		promised = u.SHA256
	}
	u.next, err = Inspect(ctx, staged, promised)
	if err != nil {
		return errors.Join(err, removeIfThere(staged))
	}
	return nil
}

// look finds reasons why the new program must not, or need not, run here.
func (u *upgrade) look(ctx context.Context) error {
	self, err := process.Running(ctx)
	runs := err == nil
	if u.Service != nil && !u.Service.Active(ctx) {
		u.Service = nil
	}
	if runs && u.Service == nil {
		u.byHand = self.PID
	}
	installed, err := digest.OfFile(u.Program)
	if err != nil {
		return fmt.Errorf("read the installed program: %w", err)
	}
	if installed == u.next.SHA256 && (!runs || process.Runs(self.PID, u.Program)) {
		return ErrSame
	}
	if u.nowText = self.Version; !runs {
		u.nowText, _ = askVersion(ctx, u.Program) // a broken one is no reason to keep it
	}
	last, err := os.ReadFile(u.data.Version())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read the data folder's version: %w", err)
	}
	u.before = strings.TrimSpace(string(last))
	for _, now := range []string{u.nowText, u.before} {
		if err := u.checkStep(now); err != nil {
			return err
		}
	}
	if err := u.checkCluster(ctx, runs); err != nil {
		return err
	}
	return u.next.Check(ctx, u.checkArgs()...)
}

// checkArgs let the new program's `labk check` look at what this PC is.
func (o *Options) checkArgs() []string {
	args := []string{"--data-dir", o.Config.DataDir}
	if o.ConfigFile != "" {
		args = append(args, "--config", o.ConfigFile)
	}
	if !o.Server {
		args = append(args, "--agent")
	}
	return args
}

// checkStep refuses a step back, and one over more than a minor version of a server.
func (u *upgrade) checkStep(from string) error {
	now, err := version.Parse(from)
	if err != nil || now.IsDevelopment() || u.next.Version.IsDevelopment() {
		return nil // nothing can be said of it
	}
	if u.next.Version.Compare(now) < 0 {
		return fmt.Errorf("%s is older than %s, which this PC has: an upgrade goes forward only: give a newer program", u.next.Text, from)
	}
	if minors, same := u.next.Version.Minors(now); u.Server && (!same || minors > 1) {
		return fmt.Errorf("%s is %d minor versions newer than %s, and a server must not leave one out (Kubernetes' version skew policy): upgrade to the next one first", u.next.Text, minors, from)
	}
	return nil
}

// replace replaces the program, with a copy of the datastore before.
func (u *upgrade) replace(ctx context.Context) error {
	r := Replacement{Program: u.Program, New: u.next, Service: u.Service, Patience: u.Patience, Say: u.Say, Restore: u.restore}
	if u.Server {
		r.Prepare = u.prepare
	}
	if err := Replace(ctx, r); err != nil {
		return err
	}
	switch {
	case u.byHand != 0:
		u.Say("%s is in place; the labk that runs (pid %d) is the one before: stop it and start it again, pods go on", u.next.Text, u.byHand)
	case u.Service == nil:
		u.Say("%s is in place; labk does not run: it is used from the next start on", u.next.Text)
	default:
		u.Say("%s is up", u.next.Text)
	}
	return nil
}

// copies tells whether there is a datastore of labk's own.
func (u *upgrade) copies() bool {
	_, err := os.Stat(u.data.Database())
	return u.Server && u.Config.DatastoreEndpoint == "" && err == nil
}

// prepare keeps what the upgrade could spoil: the cluster in a snapshot, by the labk that runs, and SQLite's file byte for byte. That is what the program before understands for sure, whichever it is.
func (u *upgrade) prepare(ctx context.Context) error {
	if err := u.save(ctx); err != nil {
		return err
	}
	if u.copies() {
		return u.copy(ctx)
	}
	return nil
}

func (u *upgrade) copy(ctx context.Context) error {
	to := u.data.Before(u.next.Text)
	if err := sqlite.Copy(ctx, u.data.Database(), to); err != nil {
		return err
	}
	u.Say("a copy of the datastore is in %s", to)
	return sqlite.KeepNewest(u.data.Before("*"), copiesKept)
}

// restore is Replacement's: the caller's and the data folder's, whatever becomes of the former.
func (u *upgrade) restore(ctx context.Context) (fit bool, err error) {
	if u.Restore != nil {
		err = u.Restore(ctx)
	}
	data := u.restoreData(ctx)
	return data == nil, errors.Join(err, data)
}

// restoreData makes the data folder fit for the program before: the new one may have noted its version there. If that is of another minor version of Kubernetes, what it has written into the datastore the
// old one can't be trusted with, and the copy takes its place.
func (u *upgrade) restoreData(ctx context.Context) error {
	text, err := os.ReadFile(u.data.Version())
	noted := strings.TrimSpace(string(text))
	if errors.Is(err, os.ErrNotExist) || noted == u.before {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the data folder's version: %w", err)
	}
	if u.copies() && u.otherMinor(noted) {
		from, aside := u.data.Before(u.next.Text), u.data.Failed(u.next.Text)
		if err := sqlite.Restore(ctx, from, u.data.Database(), aside); err != nil {
			return err
		}
		u.Say("the datastore is that of before the upgrade again; what %s made of it is in %s", noted, aside)
	} else if u.etcd() && u.otherMinor(noted) {
		if err := u.bringBack(ctx); err != nil {
			return err
		}
	}
	if u.before == "" {
		return removeIfThere(u.data.Version())
	}
	return paths.WriteFile(u.data.Version(), []byte(u.before+"\n"), 0o644)
}

// otherMinor tells whether a version is of another minor version than the one before.
func (u *upgrade) otherMinor(noted string) bool {
	now, err := version.Parse(noted)
	if err != nil {
		return true
	}
	before, err := version.Parse(u.before)
	if err != nil {
		if before, err = version.Parse(u.nowText); err != nil {
			return true
		}
	}
	minors, same := now.Minors(before)
	return minors != 0 || !same
}
