package badhost

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/payload/manifest"
	"github.com/labk/labk/tests/e2e/cluster"
	"github.com/labk/labk/tests/images"
)

// TestDamagedPayload starts copies of labk in which a few bytes of an archive are other ones. (A program that was cut off cannot tell
// anything: it lacks what would.)
func TestDamagedPayload(t *testing.T) {
	program, err := os.ReadFile(cluster.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	const copied = "/root/damaged-labk"
	for name, place := range archives(t, program) {
		t.Run(name, func(t *testing.T) {
			damaged := bytes.Clone(program)
			clear(damaged[place.from+place.size/2:][:4096])
			c := cluster.Start(t, cluster.Options{DontStart: true}) // fresh: what is unpacked already is not read again
			path, err := c.Host.Path(copied)
			if err == nil {
				err = os.WriteFile(path, damaged, 0o755)
			}
			if err != nil {
				t.Fatal(err)
			}
			mistake{argv: []string{copied, "server"}, code: failed, want: []string{"payload", "damaged", name, "install labk again"}}.try(t, c)
		})
	}
}

type place struct{ from, size int }

// archives finds the payload's archives in the program: they are there as they are on the disk when it is built, and begin as
// all zstd files do.
func archives(t *testing.T, program []byte) map[string]place {
	t.Helper()
	m := findManifest(t, program)
	out := map[string]place{}
	magic := []byte{0x28, 0xb5, 0x2f, 0xfd}
	for at := bytes.Index(program, magic); at >= 0; {
		for name, a := range m.Archives {
			end := at + int(a.Size)
			if end > len(program) {
				continue
			}
			if sum := sha256.Sum256(program[at:end]); hex.EncodeToString(sum[:]) == a.SHA256 {
				out[name] = place{at, int(a.Size)}
			}
		}
		next := bytes.Index(program[at+1:], magic)
		if next < 0 {
			break
		}
		at += 1 + next
	}
	if len(out) != len(m.Archives) {
		t.Fatalf("found %v of the payload's archives in the program, want %v", out, m.Archives)
	}
	return out
}

func findManifest(t *testing.T, program []byte) *manifest.Manifest {
	t.Helper()
	begin := []byte("{\n  \"hash\": \"")
	for rest := program; ; {
		at := bytes.Index(rest, begin)
		if at < 0 {
			t.Fatal("the payload's manifest is not in the program")
		}
		rest = rest[at:]
		m := &manifest.Manifest{}
		if err := json.NewDecoder(bytes.NewReader(rest)).Decode(m); err == nil && m.Hash == m.Sum() {
			return m
		}
		rest = rest[1:]
	}
}

// What only a cluster that there is, or was, can suffer. The subtests run in this order.
func TestDamage(t *testing.T) {
	// without pods, so that nothing changes when labk has ended
	c := cluster.Start(t, cluster.Options{Args: []string{"--disable=coredns"}})
	t.Run("in use", func(t *testing.T) {
		pid := strings.TrimSpace(c.ReadFile(t, string(data.Lock())))
		c.Labk(t, "server").Refused(t, failed, "/var/lib/labk", "in use", "pid "+pid)
	})
	t.Run("check beside a server", func(t *testing.T) {
		if r := c.Labk(t, "check"); r.Code != 0 {
			t.Errorf("`labk check` fails with code %d:\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
	})
	t.Run("image archive", func(t *testing.T) { testImageArchive(t, c) })
	c.Server.Stop(t)
	t.Run("database", func(t *testing.T) { testDatabase(t, c) })
	t.Run("none of it stays", func(t *testing.T) {
		c.Server.Start(t, "--disable=coredns")
		c.Server.WaitUp(t)
	})
}

const data = paths.Data("/var/lib/labk")

func testImageArchive(t *testing.T, c *cluster.Cluster) {
	tar, ref, err := images.Busybox(t.Context(), os.Getenv("LABK_TEST_CACHE"))
	if err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(tar)
	if err != nil {
		t.Fatal(err)
	}
	before := c.Labk(t, "image", "list").Stdout
	for _, f := range []struct {
		name, text, want string
	}{
		{"truncated.tar", string(whole[:len(whole)*2/3]), "truncated"},
		{"without-its-end.tar", string(whole[:len(whole)-2048]), "truncated"},
		{"empty.tar", "", ""},
		{"text.tar", "no archive\n", "not an archive of images"},
	} {
		t.Run(f.name, func(t *testing.T) {
			path := "/root/" + f.name
			c.WriteFile(t, path, f.text)
			c.Labk(t, "image", "import", path).Refused(t, failed, path, f.want)
		})
	}
	c.Labk(t, "image", "import", "/root/none.tar").Refused(t, failed, "/root/none.tar", "no such file")
	if after := c.Labk(t, "image", "list").Stdout; after != before || strings.Contains(after, ref) {
		t.Errorf("images before:\n%safter:\n%s", before, after)
	}
}

// A damaged SQLite file is told and left alone, byte by byte.
func testDatabase(t *testing.T, c *cluster.Cluster) {
	path := data.Database()
	whole := []byte(c.ReadFile(t, path))
	for name, damage := range map[string]func([]byte){
		"header": func(b []byte) { copy(b, "all work and no play makes jack a dull boy") },
		"middle": func(b []byte) {
			middle := b[len(b)/4 : len(b)*3/4]
			for i := range middle {
				middle[i] = 0xa5
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			damaged := bytes.Clone(whole)
			damage(damaged)
			c.WriteFile(t, path, string(damaged))
			mistake{argv: server("--disable=coredns"), code: failed, want: []string{path, "damaged"}, began: name == "middle"}.try(t, c)
			if name == "header" { // reading all of a database is nothing for a check
				r := c.Labk(t, "check", "-o", "json")
				if all := fmt.Sprint(results(t, r)); r.Code != failed || !strings.Contains(all, path+" is damaged") {
					t.Errorf("`labk check` ends with code %d: %s", r.Code, all)
				}
			}
		})
	}
	t.Run("cut off", func(t *testing.T) {
		c.WriteFile(t, path, string(whole[:len(whole)/2]))
		mistake{argv: server("--disable=coredns"), code: failed, want: []string{path, "damaged"}}.try(t, c)
	})
	c.WriteFile(t, path, string(whole))
}
