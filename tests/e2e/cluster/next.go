package cluster

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// NextBinary is $LABK_NEXT, or labk-2 beside the tested program: the same with the next release number, built if it is not there or older. In a host it is beside Program.
func NextBinary(t testing.TB) string {
	t.Helper()
	if path := os.Getenv("LABK_NEXT"); path != "" {
		return path
	}
	path := filepath.Join(filepath.Dir(Binary(t)), "labk-2")
	made, err := os.Stat(path)
	tested, errTested := os.Stat(Binary(t))
	if err == nil && errTested == nil && !made.ModTime().Before(tested.ModTime()) {
		return path
	}
	build := exec.CommandContext(t.Context(), filepath.Join(Root(t), "scripts", "build.sh"))
	build.Env = append(os.Environ(), "LABK_RELEASE=2", "LABK_OUTPUT="+path)
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the next release: %v\n%s", err, out)
	}
	return path
}
