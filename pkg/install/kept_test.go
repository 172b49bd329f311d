package install

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// A file that was kept is labk's until somebody changes it.
func TestKept(t *testing.T) {
	dir := t.TempDir()
	record, config, token, gone := filepath.Join(dir, "kept.json"), filepath.Join(dir, "config.yaml"), filepath.Join(dir, "token"), filepath.Join(dir, "gone")
	if k, err := loadKept(record); k != nil || err != nil {
		t.Errorf("without a record: got %v, %v", k, err)
	}
	if err := keep(record, []string{gone}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(record); err == nil {
		t.Error("there is a record of nothing")
	}
	for _, file := range []string{config, token} {
		if err := os.WriteFile(file, []byte("as it was"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := keep(record, []string{config, gone, token}); err != nil {
		t.Fatal(err)
	}
	files := func() []string {
		t.Helper()
		k, err := loadKept(record)
		if err != nil {
			t.Fatal(err)
		}
		return k.Files()
	}
	if got, want := files(), []string{config, token}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := os.WriteFile(config, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, want := files(), []string{token}; !slices.Equal(got, want) {
		t.Errorf("after a change: got %q, want %q", got, want)
	}
	if err := os.WriteFile(record, []byte("{half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadKept(record); err == nil {
		t.Error("half a record is read without an error")
	}
}
