package upgrade

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/labk/labk/tests/e2e/cluster"
)

// badFile is where a bad program is in the host.
const badFile = "/root/new-labk"

// Programs that are not good: what runs, runs on, or runs again.
func TestBadPrograms(t *testing.T) {
	w := start(t, 0)
	good, err := os.ReadFile(cluster.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	before := mainPID(t, w.Server)
	for _, tc := range []struct {
		name    string
		program func(t *testing.T) []byte
		args    []string
		says    []string
	}{
		{"none", nil, nil, []string{"read the new program", "no such file"}},
		{"web page", func(*testing.T) []byte { return []byte("<html>404</html>") }, nil, []string{"not a program for Linux"}},
		{"half", func(*testing.T) []byte { return good[:len(good)/2] }, nil, []string{"a part of it is missing"}},
		{"header alone", func(*testing.T) []byte { return good[:64] }, nil, []string{"a part of it is missing"}},
		{"wrong sum", func(*testing.T) []byte { return good }, []string{"--sha256", strings.Repeat("0", 64)}, []string{"its SHA-256 is", strings.Repeat("0", 64) + " was promised"}},
		{"other architecture", func(*testing.T) []byte { return forMachine(good, elf.EM_AARCH64) }, nil, []string{"another architecture (AARCH64)", "linux-amd64"}},
		{"other program", func(t *testing.T) []byte { return readFile(t, "/bin/true") }, nil, []string{"ask the new program for its version"}},
		{"older", func(t *testing.T) []byte { return badProgram(t, "v1.37.0+labk9", "exit") }, nil, []string{"v1.37.0+labk9 is older than " + w.now}},
		{"two minors", func(t *testing.T) []byte { return badProgram(t, "v1.39.0+labk1", "exit") }, nil, []string{"2 minor versions newer", "upgrade to the next one first"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.program != nil {
				w.put(t, w.Server, tc.program(t))
			}
			upgrade(t, w.Server, append([]string{"--from", badFile}, tc.args...)...).Refused(t, 1, tc.says...)
			if mainPID(t, w.Server) != before {
				t.Error("labk was restarted")
			}
		})
	}
	t.Run("no space", func(t *testing.T) { testNoSpace(t, w) })
	if mainPID(t, w.Server) != before {
		t.Error("labk was restarted")
	}
	w.runs(t, w.Server, w.now)
	t.Run("exits at start", func(t *testing.T) { testRolledBack(t, w, "v1.37.1+labk7", "exit", "this program is broken") })
	t.Run("never ready", func(t *testing.T) {
		testRolledBack(t, w, "v1.37.1+labk7", "hang", "not ready after 5s", "--timeout", "5s")
	})
	t.Run("spoils the data", func(t *testing.T) { testRolledBack(t, w, "v1.38.0+labk1", "spoil", "this program is broken") })
	t.Run("gone back by hand", func(t *testing.T) { testBackByHand(t, w) })
	if out := w.Server.Sh(t, "ls /var/lib/labk/server/db"); !strings.Contains(out, "failed-v1.38.0+labk1.db") {
		t.Errorf("what the bad program made of the datastore is not kept: %s", out)
	}
	if r := upgrade(t, w.Server, "--from", w.nextFile); r.Code != 0 {
		t.Error("a good program is not taken after that")
	}
	w.runs(t, w.Server, w.next)
}

// The folder of programs is full.
func testNoSpace(t *testing.T, w *world) {
	w.Server.Sh(t, "cp -a /usr/local/bin /root/bin && mount -t tmpfs -o size=300m tmpfs /usr/local/bin && cp -a /root/bin/. /usr/local/bin")
	upgrade(t, w.Server, "--from", w.nextFile).Refused(t, 1, "no space in /usr/local/bin", "free space there")
	if out := w.Server.Sh(t, "ls -A /usr/local/bin"); strings.Contains(out, ".labk") {
		t.Errorf("left behind: %s", out)
	}
	w.Server.Sh(t, "mount -o remount,ro /usr/local/bin")
	upgrade(t, w.Server, "--from", badFile).Refused(t, 1, "read-only file system", "make /usr/local/bin writable")
	w.Server.Sh(t, "umount /usr/local/bin && rm -r /root/bin")
}

// testRolledBack tries a program that does not come up.
func testRolledBack(t *testing.T, w *world, version, mode, says string, args ...string) {
	w.put(t, w.Server, badProgram(t, version, mode))
	name := "kept-" + mode
	w.Kubectl(t, "create", "configmap", name)
	upgrade(t, w.Server, append([]string{"--from", badFile}, args...)...).Refused(t, 1, version+" did not come up", says, "the program before it runs again")
	w.runs(t, w.Server, w.now)
	w.Kubectl(t, "get", "configmap", name)
	if names := keysIn(t, w.Server, "/var/lib/labk/server/db/before-"+version+".db"); !strings.Contains(names, "/registry/configmaps/default/"+name) {
		t.Error("the copy of the datastore does not have the last object")
	}
}

// A power cut in the middle of an upgrade to another minor version: nobody went back, so a person does.
func testBackByHand(t *testing.T, w *world) {
	w.Kubectl(t, "create", "configmap", "kept")
	w.Server.Sh(t, `systemctl stop labk && cd /usr/local/bin && cp -a labk .labk.previous && cd /var/lib/labk && cp server/db/state.db server/db/before-v1.38.0+labk1.db && echo v1.38.0+labk1 >version`)
	w.put(t, w.Server, badProgram(t, "v1.38.0+labk1", "spoil"))
	w.Server.Sh(t, "install -m 755 "+badFile+" "+installed+"; ! "+installed+" server")
	run := func(args ...string) cluster.Result {
		return w.Server.Exec(t, nil, append([]string{previous, "upgrade", "--back"}, args...)...)
	}
	run().Refused(t, 1, "v1.38.0+labk1 is another minor version than "+w.now, "--restore", "lose all that changed")
	if r := run("--restore"); r.Code != 0 {
		t.Fatalf("%s\n%s", r.Stderr, w.Server.Journal(t))
	}
	w.runs(t, w.Server, w.now)
	w.Kubectl(t, "get", "configmap", "kept")
}

// put writes a program into the host; not executable, as a download is not.
func (w *world) put(t *testing.T, n *cluster.Node, program []byte) {
	t.Helper()
	if r := n.Exec(t, bytes.NewReader(program), "sh", "-c", "cat >"+badFile); r.Err != nil {
		t.Fatal(r.Err)
	}
}

// badProgram builds badlabk.
func badProgram(t *testing.T, version, mode string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "badlabk")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", path, "-ldflags", "-X main.version="+version+" -X main.mode="+mode, "./badlabk")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build a bad program: %v\n%s", err, out)
	}
	return readFile(t, path)
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// forMachine is a program for another machine, as its header says.
func forMachine(program []byte, m elf.Machine) []byte {
	const offset = 18 // e_machine
	other := bytes.Clone(program)
	binary.LittleEndian.PutUint16(other[offset:], uint16(m))
	return other
}
