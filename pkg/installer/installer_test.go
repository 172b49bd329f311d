package installer

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/install"
)

func TestFilesAreRestored(t *testing.T) {
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	put := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := errors.Join(os.WriteFile(in(name), []byte(text), mode), os.Chmod(in(name), mode)); err != nil {
			t.Fatal(err)
		}
	}
	is := func(name, text string, mode os.FileMode) {
		t.Helper()
		data, err := os.ReadFile(in(name))
		info, statErr := os.Stat(in(name))
		if err != nil || statErr != nil || string(data) != text || info.Mode().Perm() != mode {
			t.Errorf("%s is %q (%v), %v", name, data, info.Mode(), errors.Join(err, statErr))
		}
	}
	put("same", "1", 0o600)
	put("other", "1", 0o644)
	var f files
	if err := f.write(in("same"), []byte("1"), 0o600); err != nil || f.changed() {
		t.Errorf("a file with its own content counts as changed: %v, %v", f, err)
	}
	err := errors.Join(f.write(in("other"), []byte("2"), 0o600), f.write(in("new"), []byte("2"), 0o600))
	if err != nil || !f.changed() {
		t.Errorf("got %v, %v", f, err)
	}
	is("other", "2", 0o600)
	is("new", "2", 0o600)
	if err := errors.Join(f.restore(), f.restore()); err != nil {
		t.Error(err)
	}
	is("same", "1", 0o600)
	is("other", "1", 0o644)
	if _, err := os.Stat(in("new")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("new is still there: %v", err)
	}
}

// What is noted when an installation is taken back: an uninstallation must still find the firewall's rules.
func TestLeft(t *testing.T) {
	rules := []install.Rule{{Firewall: "ufw", Add: []string{"ufw", "allow"}, Remove: []string{"ufw", "delete", "allow"}}}
	made := &install.Record{Role: "server", Version: "2", Program: "/labk", Config: []string{"/config"}, Service: &install.Service{Name: "new"}}
	opened := *made
	opened.Firewall = rules
	before := &install.Record{Role: "server", Version: "1", Program: "/labk", Service: &install.Service{Name: "old"}}
	stays := *before
	stays.Firewall = rules
	for name, tc := range map[string]struct{ before, record, want *install.Record }{
		"first":             {nil, made, nil},
		"first, opened":     {nil, &opened, &install.Record{Role: "server", Version: "2", Program: "/labk", Firewall: rules}},
		"installed":         {before, made, before},
		"installed, opened": {before, &opened, &stays},
	} {
		if got := (&installation{before: tc.before, record: tc.record}).left(); !reflect.DeepEqual(got, tc.want) {
			t.Errorf("%s: got %+v, want %+v", name, got, tc.want)
		}
	}
}

func TestSameContent(t *testing.T) {
	dir := t.TempDir()
	large := strings.Repeat("labk", 600_000)
	for name, tc := range map[string]struct {
		a, b string
		want bool
	}{
		"empty":            {"", "", true},
		"same":             {large, large, true},
		"shorter":          {large, large[1:], false},
		"another last one": {large, large[1:] + "x", false},
		"exactly a piece":  {large[:1<<20], large[:1<<20], true},
	} {
		a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
		if err := errors.Join(os.WriteFile(a, []byte(tc.a), 0o600), os.WriteFile(b, []byte(tc.b), 0o600)); err != nil {
			t.Fatal(err)
		}
		if got, err := sameContent(a, b); got != tc.want || err != nil {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	if got, err := sameContent(filepath.Join(dir, "a"), filepath.Join(dir, "none")); got || err != nil {
		t.Errorf("without the other file: got %v, %v", got, err)
	}
}

func TestMissing(t *testing.T) {
	for name, tc := range map[string]struct {
		results []health.Result
		want    []need
	}{
		"nothing":              {[]health.Result{{Code: "LABK013", Status: health.Pass}, {Code: "LABK041", Status: health.Fail}}, nil},
		"no filter, no mount":  {[]health.Result{{Code: "LABK004", Status: health.Fail}, {Code: "LABK013", Status: health.Fail}}, []need{mount, filter}},
		"no protocols":         {[]health.Result{{Code: "LABK014", Status: health.Fail, Detail: "/etc/protocols does not name tcp and udp"}}, []need{protocols}},
		"iptables has to do":   {[]health.Result{{Code: "LABK014", Status: health.Warn, Detail: "/etc/protocols does not name tcp and udp"}}, nil},
		"the kernel's refusal": {[]health.Result{{Code: "LABK014", Status: health.Fail, Detail: "nft: Operation not supported"}}, nil},
	} {
		if got := missing(tc.results); !slices.Equal(got, tc.want) {
			t.Errorf("%s: got %v, want %v", name, got, tc.want)
		}
	}
}

// A package manager is a program that is found first in PATH; these only say with what they were called.
func TestPackages(t *testing.T) {
	for name, tc := range map[string]struct {
		programs map[string]string // name to exit code
		want     string            // calls, in order
		fails    string
	}{
		"Debian":          {map[string]string{"apt-get": "0"}, "apt-get install -y -q --no-install-recommends nftables netbase\n", ""},
		"Debian, offline": {map[string]string{"apt-get": "1"}, "apt-get install -y -q --no-install-recommends nftables netbase\napt-get update -q\n", "apt-get install -y -q --no-install-recommends nftables netbase"},
		"Fedora":          {map[string]string{"dnf": "0"}, "dnf install -y -q nftables setup\n", ""},
		"openSUSE":        {map[string]string{"zypper": "0"}, "zypper --non-interactive --quiet install nftables netcfg\n", ""},
		"Arch":            {map[string]string{"pacman": "0"}, "pacman -S --noconfirm --needed nftables iana-etc\n", ""},
		"Alpine":          {map[string]string{"apk": "0"}, "apk add --no-progress nftables alpine-baselayout-data\n", ""},
		"none":            {nil, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			bin, calls := t.TempDir(), filepath.Join(t.TempDir(), "calls")
			for program, code := range tc.programs {
				text := "#!/bin/sh\necho " + program + ` "$@" >>` + calls + "\nexit " + code + "\n"
				if err := os.WriteFile(filepath.Join(bin, program), []byte(text), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
			i := &installation{Options: Options{Say: func(string, ...any) {}, Host: health.Host{LookPath: func(name string) (string, error) {
				return filepath.Join(bin, name), errors.Join(map[bool]error{false: errors.New("not in PATH")}[tc.programs[name] != ""])
			}}}}
			err := i.installPackages(context.Background(), []need{filter, protocols})
			if (err != nil) != (tc.fails != "") || err != nil && !strings.Contains(err.Error(), tc.fails) {
				t.Errorf("got %v, want %q", err, tc.fails)
			}
			got, _ := os.ReadFile(calls)
			if string(got) != tc.want {
				t.Errorf("called\n%swant\n%s", got, tc.want)
			}
		})
	}
}
