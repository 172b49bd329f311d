package installer

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// findDataFolder corrects the configuration's data folder: a labk that runs says which it uses, and what the service's own command line or environment names is stronger than the configuration.
func (i *installation) findDataFolder(ctx context.Context) {
	own := i.manager.dataFolder(ctx, i.service.Name())
	switch {
	case own != "":
		if i.gives("data-dir") && own != i.cfg.DataDir {
			i.Warn("the data folder is %s, as the service's own environment or command line says: --data-dir does not change that", own)
		}
		i.cfg.DataDir = own
	case i.running && !i.gives("data-dir"):
		i.cfg.DataDir = i.used
	}
}

// dataFolder is the one that the service's unit, with its drop-ins and files of variables, names; empty if it names none.
func (m manager) dataFolder(ctx context.Context, service string) string {
	if m.name != systemdManager().name {
		return ""
	}
	// An error is that systemd does not run, as in an image of a PC.
	shown, _ := run(ctx, managerLimit, "systemctl", "show", "-p", "ExecStart", "-p", "Environment", "-p", "EnvironmentFiles", service)
	if !strings.Contains(shown, "ExecStart=") { // not there yet: it will have labk's own
		shown = "EnvironmentFiles=/etc/default/" + strings.TrimSuffix(service, m.suffix)
	}
	return dataFolderOf(shown, os.ReadFile)
}

// dataFolderOf reads what `systemctl show` says. The command line is stronger than files of variables, and those than other variables.
func dataFolderOf(shown string, read func(path string) ([]byte, error)) string {
	flag := regexp.MustCompile(`--data-dir[= ]+([^\s;]+)`)
	line := regexp.MustCompile(`(?m)^\s*LABK_DATA_DIR=["']?([^"'\s]+)`)
	variable := regexp.MustCompile(`(?m)(?:^|[\s"])LABK_DATA_DIR=["']?([^"'\s]+)`)
	last := func(re *regexp.Regexp, text string) string {
		all := re.FindAllStringSubmatch(text, -1)
		if len(all) == 0 {
			return ""
		}
		return all[len(all)-1][1]
	}
	var byFlag, byFile, byVariable string
	for property := range strings.Lines(shown) {
		switch name, value, _ := strings.Cut(strings.TrimSpace(property), "="); name {
		case "ExecStart":
			byFlag = last(flag, value)
		case "Environment":
			byVariable = last(variable, value)
		case "EnvironmentFiles":
			path, _, _ := strings.Cut(value, " (")
			text, _ := read(path) // systemd itself passes over one that is not there
			if dir := last(line, string(text)); dir != "" {
				byFile = dir
			}
		}
	}
	for _, dir := range []string{byFlag, byFile, byVariable} {
		if filepath.IsAbs(dir) {
			return filepath.Clean(dir)
		}
	}
	return ""
}
