// Package sysctl remembers what a PC's kernel settings were before labk's parts changed them, so that they can be put back.
package sysctl

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/labk/labk/pkg/paths"
)

// root is where the kernel shows its settings.
const root = "/proc/sys"

// Changed are the settings that labk's parts change on a PC, by their path below /proc/sys, and to what: the kubelet those of vm and kernel, CNI plugins and
// kube-proxy those of net.
func Changed() map[string]string {
	return map[string]string{
		"vm/overcommit_memory": "1", "vm/panic_on_oom": "0", "kernel/panic": "10", "kernel/panic_on_oops": "1",
		"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
		"net/ipv4/ip_forward": "1", "net/ipv4/conf/all/route_localnet": "1",
	}
}

// Remember writes to file how those settings are now. A file that is there stays as it is: it is of an earlier start, and in a folder that is empty after a boot,
// as the settings are the kernel's own again then.
func Remember(file string) error { return remember(root, file) }

func remember(root, file string) error {
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	was := map[string]string{}
	for name := range Changed() {
		if value, err := os.ReadFile(filepath.Join(root, name)); err == nil { // not all kernels have all
			was[name] = strings.TrimSpace(string(value))
		}
	}
	data, err := json.Marshal(was)
	if err == nil {
		err = paths.WriteFile(file, append(data, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("note the kernel's settings: %w", err)
	}
	return nil
}

// Restore puts back what Remember wrote to file, and returns which settings it changed. One that has another value than labk's parts gave it by now is somebody else's,
// and one that keep names is left alone. Without the file it does nothing.
func Restore(file string, keep ...string) (changed []string, err error) {
	return restore(root, file, keep)
}

func restore(root, file string, keep []string) (changed []string, err error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read how the kernel's settings were: %w", err)
	}
	was := map[string]string{}
	if err := json.Unmarshal(data, &was); err != nil {
		return nil, fmt.Errorf("read how the kernel's settings were: %s: %w", file, err)
	}
	ours := Changed()
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(was)) {
		path := filepath.Join(root, name)
		now, err := os.ReadFile(path)
		value := strings.TrimSpace(string(now))
		if err != nil || value == was[name] || value != ours[name] || slices.Contains(keep, name) {
			continue
		}
		if err := os.WriteFile(path, []byte(was[name]), 0o644); err != nil {
			errs = append(errs, fmt.Errorf("put the kernel's setting back: %w", err))
			continue
		}
		changed = append(changed, strings.ReplaceAll(name, "/", ".")+"="+was[name])
	}
	return changed, errors.Join(errs...)
}
