package images

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const (
	// rootRecipe counts the changes of how roots are made here.
	rootRecipe = 1
	// Debian 12: its systemd still runs where the machine has cgroup v1.
	rootSuite  = "bookworm"
	rootMirror = "http://deb.debian.org/debian"
)

// BareHost are the packages of a PC with systemd that has neither nft nor iptables.
func BareHost() []string {
	return []string{"systemd", "systemd-sysv", "dbus", "curl", "ca-certificates", "iproute2", "netbase", "procps", "sudo"}
}

// PlainHost are the packages of a PC with systemd that has all that labk needs.
func PlainHost() []string { return append(BareHost(), "nftables", "iptables") }

// HostRoot makes a folder with a Debian root file system of these packages and all that is essential, for lab.Options.Root. dir is the folder for downloads
// and results, by default ~/.cache/labk-tests; what is there is used again. Needs root and debootstrap.
func HostRoot(ctx context.Context, dir string, packages ...string) (root string, err error) {
	if dir, err = cacheDir(dir); err != nil {
		return "", err
	}
	unlock, err := lock(dir)
	if err != nil {
		return "", err
	}
	defer unlock()
	packages = slices.Clone(packages)
	slices.Sort(packages)
	recipe := fmt.Sprintln(rootRecipe, rootSuite, rootMirror, packages)
	root = filepath.Join(dir, fmt.Sprintf("root-%x", sha256.Sum256([]byte(recipe)))[:17])
	if _, err := os.Stat(root); !errors.Is(err, fs.ErrNotExist) {
		return root, err
	}
	next := root + ".next" // one that was cut short does not count
	if err := bootstrap(ctx, filepath.Join(dir, "debs", "roots"), next, packages); err != nil {
		return "", fmt.Errorf("make a root file system with %s for the tests: %w", strings.Join(packages, " "), err)
	}
	return root, os.Rename(next, root)
}

func bootstrap(ctx context.Context, debs, root string, packages []string) error {
	if err := os.RemoveAll(root); err != nil {
		return err
	}
	if err := os.MkdirAll(debs, 0o755); err != nil {
		return err
	}
	if _, err := output(ctx, "debootstrap", "--variant=minbase", "--cache-dir="+debs, "--include="+strings.Join(packages, ","), rootSuite, root, rootMirror); err != nil {
		return err
	}
	for _, pattern := range []string{"var/cache/apt/archives/*.deb", "var/lib/apt/lists/*_*", "var/log/*.log"} { // each host has a copy of /var/lib
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return err
		}
		for _, f := range files {
			if err := os.Remove(f); err != nil {
				return err
			}
		}
	}
	return nil
}
