package digest

import (
	"os"
	"path/filepath"
	"testing"
)

func TestSums(t *testing.T) {
	const want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" // of FIPS 180-2's example
	if got := Of([]byte("abc")); got != want {
		t.Errorf("got %s", got)
	}
	path := filepath.Join(t.TempDir(), "abc")
	if err := os.WriteFile(path, []byte("abc"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := OfFile(path); got != want || err != nil {
		t.Errorf("got %s, %v", got, err)
	}
	for _, path := range []string{filepath.Dir(path), path + "d", "/dev/null"} {
		if got, err := OfFile(path); err == nil {
			t.Errorf("%s: got %s", path, got)
		}
	}
}
