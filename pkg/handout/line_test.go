package handout

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// script says what it was given.
const script = "#!/bin/sh\nread -r token && echo \"$LABK_URL $LABK_SHA256 $LABK_TOKEN $token\"\n"

// The line runs the script if its sum is right, also where sha256sum is busybox's, which has no long options.
func TestLine(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == Script {
			_, _ = w.Write([]byte(script))
		}
	}))
	t.Cleanup(s.Close)
	sum := sha256.Sum256([]byte(script))
	right := hex.EncodeToString(sum[:])
	for name, tc := range map[string]struct {
		sum, want string // empty if it must not run
		busybox   bool
	}{
		"as it is":            {right, s.URL + " 1234 - secret\n", false},
		"as it is, busybox":   {right, s.URL + " 1234 - secret\n", true},
		"another":             {strings.Repeat("0", 64), "", false},
		"another, on busybox": {strings.Repeat("0", 64), "", true},
	} {
		t.Run(name, func(t *testing.T) {
			folder := t.TempDir()
			t.Setenv("TMPDIR", folder)
			if tc.busybox {
				asBusybox(t)
			}
			line := Offer{Server: s.URL, ScriptSum: tc.sum, ProgramSum: "1234"}.Line("secret")
			cmd := exec.CommandContext(t.Context(), "sh", "-c", line)
			var complaint strings.Builder
			cmd.Stderr = &complaint
			out, err := cmd.Output()
			if string(out) != tc.want || (err == nil) != (tc.want != "") {
				t.Errorf("it says %q, want %q: %v: %s", out, tc.want, err, &complaint)
			}
			if tc.want == "" && !strings.Contains(complaint.String(), "has another SHA-256") {
				t.Errorf("it does not say why: %q", &complaint)
			}
			if left, err := os.ReadDir(folder); err != nil || len(left) > 0 {
				t.Errorf("it leaves %v, %v", left, err)
			}
		})
	}
}

// asBusybox puts programs of busybox's first in PATH.
func asBusybox(t *testing.T) {
	t.Helper()
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatalf("%v: install busybox (scripts/deps.sh)", err)
	}
	bin := t.TempDir()
	for _, name := range []string{"sh", "mktemp", "rm", "sha256sum", "cut"} {
		if err := os.Symlink(busybox, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
}
