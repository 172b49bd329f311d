package install

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "labk", "install.json")
	if r, err := load(path); r != nil || err != nil {
		t.Errorf("without a record: got %+v, %v", r, err)
	}
	want := &Record{
		Role: "agent", Version: "v1.37.1+labk1", Program: "/usr/local/bin/labk", Links: []string{"/usr/local/bin/ctr"}, Config: []string{"/etc/labk/token"},
		Service:  &Service{Manager: "systemd", Name: "labk-agent.service", Files: []File{{Path: "/etc/systemd/system/labk-agent.service", SHA256: "00"}}},
		Firewall: []Rule{{Firewall: "ufw", Add: []string{"ufw", "allow", "6443"}, Remove: []string{"ufw", "delete", "allow", "6443"}}},
	}
	if err := want.save(path); err != nil {
		t.Fatal(err)
	}
	if r, err := load(path); err != nil || !reflect.DeepEqual(r, want) {
		t.Errorf("got %+v, %v; want %+v", r, err, want)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v", info, err)
	}
	if err := os.WriteFile(path, []byte("{half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if r, err := load(path); r != nil || err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("half a record: got %+v, %v", r, err)
	}
}
