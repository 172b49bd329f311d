package installer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/labk/labk/package/openrc"
	"github.com/labk/labk/package/systemd"
	"github.com/labk/labk/pkg/digest"
	"github.com/labk/labk/pkg/install"
)

// manager is who runs services on this PC.
type manager struct {
	name string // as install.Service has it
	// files has labk's unit or script of each role, folder is where they go.
	files  fs.FS
	folder string
	mode   fs.FileMode
	suffix string
}

func systemdManager() manager {
	return manager{name: "systemd", files: systemd.FS, folder: "/etc/systemd/system", mode: 0o644, suffix: ".service"}
}

func openRCManager() manager {
	return manager{name: "openrc", files: openrc.FS, folder: "/etc/init.d", mode: 0o755}
}

// findManager finds the one that runs; offline, as when an image of a PC is made, one that is installed will do.
func findManager(offline bool) (manager, error) {
	for _, m := range []struct {
		manager
		running, program string
	}{{systemdManager(), "/run/systemd/system", "systemctl"}, {openRCManager(), "/run/openrc", "rc-update"}} {
		_, runs := os.Stat(m.running)
		_, installed := exec.LookPath(m.program)
		if installed == nil && (runs == nil || offline) {
			return m.manager, nil
		}
	}
	return manager{}, errors.New("install labk: neither systemd nor OpenRC runs on this PC, so nobody would start labk: run it yourself with `labk server` or `labk agent`, which needs no installation")
}

// unit is what the manager calls the role's service, and the name of its file.
func (m manager) unit(role string) string {
	if role == "agent" {
		return "labk-agent" + m.suffix
	}
	return "labk" + m.suffix
}

// text is the unit or script of a role for the program.
func (m manager) text(role, program string) ([]byte, error) {
	data, err := fs.ReadFile(m.files, m.unit(role))
	return []byte(strings.ReplaceAll(string(data), BinDir+"/labk", program)), err
}

// managerLimit bounds a command of a manager that starts nothing.
const managerLimit = time.Minute

// reload has the manager read its files again.
func (m manager) reload(ctx context.Context) error {
	if _, err := os.Stat("/run/systemd/system"); m.name != systemdManager().name || err != nil {
		return nil
	}
	_, err := run(ctx, managerLimit, "systemctl", "daemon-reload")
	return err
}

// enable has the service started at boot.
func (m manager) enable(ctx context.Context, service string) error {
	argv := []string{"systemctl", "enable", "--quiet", service}
	if m.name == openRCManager().name {
		argv = []string{"rc-update", "-q", "add", service, "default"}
	}
	if _, err := run(ctx, managerLimit, argv...); err != nil {
		return fmt.Errorf("start %s at boot: %w", service, err)
	}
	return nil
}

// log is the command that shows a service's log.
func (m manager) log(service string) string {
	if m.name == openRCManager().name {
		return "tail /var/log/" + service + ".log"
	}
	return "journalctl -u " + service
}

// writeUnit writes the unit, unless somebody has changed it by hand: then it is kept as it is.
func (i *installation) writeUnit() error {
	path := i.manager.folder + "/" + i.manager.unit(i.Role)
	text, err := i.manager.text(i.Role, i.program)
	if err != nil {
		return err
	}
	own := install.File{Path: path, SHA256: digest.Of(text)}
	old, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && digest.Of(old) != own.SHA256 && !i.wrote(path, digest.Of(old)) {
		i.Warn("%s was changed by hand and is kept as it is: to have labk's own, remove it and run this again", path)
		return nil // whoever installs the next time, or uninstalls, still sees that
	}
	i.record.Service = &install.Service{Manager: i.manager.name, Name: i.manager.unit(i.Role), Files: []install.File{own}}
	if err := i.record.Save(); err != nil {
		return err
	}
	return i.files.write(path, text, i.manager.mode)
}

// wrote tells whether a file with this content was written by an installation before.
func (i *installation) wrote(path, sum string) bool {
	if i.before == nil || i.before.Service == nil {
		return false
	}
	for _, f := range i.before.Service.Files {
		if f.Path == path && f.SHA256 == sum {
			return true
		}
	}
	return false
}
