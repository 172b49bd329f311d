package upgrade

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/process"
)

// Back puts the program from before the last upgrade in place again and restarts labk with it; the newer one is kept in its stead. From another minor version of Kubernetes a server can't go back without the
// datastore's copy, and that loses what changed since: restore tells that it may. From and SHA256 of the options are not looked at. The version returned is the one that was gone back to, as far as it is known.
func Back(ctx context.Context, o Options, restore bool) (string, error) {
	lock, err := acquire()
	if err != nil {
		return "", err
	}
	defer lock.Release()
	before, err := Inspect(ctx, paths.Previous(o.Program), "")
	if err != nil {
		return "", fmt.Errorf("go back: look at the program before (%s): %w", paths.Previous(o.Program), err)
	}
	noted, err := os.ReadFile(paths.Data(o.Config.DataDir).Version())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return before.Text, fmt.Errorf("go back: read the data folder's version: %w", err)
	}
	u := &upgrade{Options: o, data: paths.Data(o.Config.DataDir), before: before.Text}
	u.next.Text = strings.TrimSpace(string(noted)) // the copy of before it is what restore takes
	if err := u.mayGoBack(ctx, restore); err != nil {
		return before.Text, err
	}
	u.Say("going back from %s to %s", u.next.Text, before.Text)
	return before.Text, u.back(ctx, before)
}

// mayGoBack finds reasons against it.
func (u *upgrade) mayGoBack(ctx context.Context, restore bool) error {
	if self, err := process.Running(ctx); err == nil && (u.Service == nil || !u.Service.Active(ctx)) {
		return fmt.Errorf("go back: labk was started by hand (pid %d): stop it first", self.PID)
	}
	if u.next.Text == "" || !u.copies() && !u.etcd() || !u.otherMinor(u.next.Text) {
		return nil
	}
	made, err := u.madeBefore()
	switch {
	case err != nil:
		return fmt.Errorf("go back: %s is another minor version than %s, and there is no copy of the datastore from before: %w: stay with it, or a newer one", u.next.Text, u.before, err)
	case !restore:
		return fmt.Errorf("go back: %s is another minor version than %s, which does not understand its datastore: with --restore you get the copy of %s, and lose all that changed in the cluster since",
			u.next.Text, u.before, made.UTC().Format("2006-01-02 15:04 UTC"))
	}
	return nil
}

// madeBefore is when what the datastore would be restored from was made.
func (u *upgrade) madeBefore() (time.Time, error) {
	if u.etcd() {
		found, err := u.snapshotBefore()
		return found.Created, err
	}
	info, err := os.Stat(u.data.Before(u.next.Text))
	if err != nil {
		return time.Time{}, err
	}
	return info.ModTime(), nil
}

// back stops labk, exchanges the programs and starts it. Once the programs are exchanged, the end of ctx stops nothing. If the data can't be made fit for the program before, the newer one runs again.
func (u *upgrade) back(ctx context.Context, before Program) error {
	if u.Service != nil {
		stop, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if err := u.Service.Stop(stop); err != nil {
			return fmt.Errorf("go back: %w", err)
		}
	}
	ctx = context.WithoutCancel(ctx)
	err := exchange(u.Program, before.Path)
	if err == nil {
		if err = u.restoreData(ctx); err != nil {
			err = errors.Join(err, exchange(u.Program, before.Path))
		}
	}
	if err != nil {
		return fmt.Errorf("go back: %w", errors.Join(err, u.stay(ctx)))
	}
	if u.Service == nil {
		return nil
	}
	r := Replacement{Program: u.Program, Service: u.Service}
	if err := r.restart(ctx, before.Text, 0, max(u.Patience, DefaultPatience)); err != nil {
		return fmt.Errorf("go back: start %s: %w: look at %s's log", before.Text, err, u.Service.Name())
	}
	u.Say("%s is up", before.Text)
	return nil
}

// stay starts labk as it was.
func (u *upgrade) stay(ctx context.Context) error {
	if u.Service == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, max(u.Patience, DefaultPatience))
	defer cancel()
	if err := u.Service.Restart(ctx); err != nil {
		return fmt.Errorf("labk is stopped: start %s again: %w", u.Service.Name(), err)
	}
	u.Say("%s stays", u.next.Text)
	return nil
}

// exchange lets the program and the one before change places. At no moment there is no program.
func exchange(program, previous string) error {
	aside := paths.Staged(program)
	if err := removeIfThere(aside); err != nil {
		return err
	}
	if err := os.Link(program, aside); err != nil {
		return err
	}
	if err := rename(previous, program); err != nil {
		return errors.Join(err, removeIfThere(aside))
	}
	return rename(aside, previous)
}
