package sysctl

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestRestore(t *testing.T) {
	kernel, file := t.TempDir(), filepath.Join(t.TempDir(), "sysctl.json")
	set := func(name, value string) {
		t.Helper()
		path := filepath.Join(kernel, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(value+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if changed, err := restore(kernel, file, nil); err != nil || changed != nil {
		t.Fatalf("with nothing remembered: %v, %v", changed, err)
	}
	before := map[string]string{"kernel/panic": "0", "kernel/panic_on_oops": "0", "net/ipv4/ip_forward": "0", "vm/overcommit_memory": "1", "vm/panic_on_oom": "1"}
	for name, value := range before {
		set(name, value)
	}
	if err := remember(kernel, file); err != nil {
		t.Fatal(err)
	}
	for name := range before {
		set(name, Changed()[name])
	}
	if err := remember(kernel, file); err != nil { // a second start
		t.Fatal(err)
	}
	set("kernel/panic", "30") // by the owner, meanwhile
	changed, err := restore(kernel, file, []string{"vm/panic_on_oom"})
	if want := []string{"kernel.panic_on_oops=0", "net.ipv4.ip_forward=0"}; err != nil || !slices.Equal(changed, want) {
		t.Errorf("changed %v, %v; want %v", changed, err, want)
	}
	for name, want := range map[string]string{"kernel/panic": "30\n", "net/ipv4/ip_forward": "0", "vm/overcommit_memory": "1\n", "vm/panic_on_oom": "0\n"} {
		if got, _ := os.ReadFile(filepath.Join(kernel, name)); string(got) != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}
