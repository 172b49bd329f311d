package payload

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/klauspost/compress/zstd"

	"github.com/labk/labk/pkg/payload/manifest"
)

func sum(data []byte) string {
	h := sha256.Sum256(data)
	return hex.EncodeToString(h[:])
}

// programs returns two programs whose content depends on seed.
func programs(seed int64) map[string][]byte {
	random := rand.New(rand.NewSource(seed))
	out := map[string][]byte{}
	for _, name := range []string{"bridge", "runc"} {
		data := make([]byte, 300<<10)
		random.Read(data)
		out[name] = data
	}
	return out
}

// testBundle makes a payload of programs(seed) and an archive of images that is just a text.
func testBundle(t *testing.T, seed int64) fstest.MapFS {
	t.Helper()
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer enc.Close()
	m := manifest.Manifest{
		Archives: map[string]manifest.Archive{},
		Images:   []manifest.Image{{Ref: "docker.io/labk/pause:1", Digest: "sha256:00"}},
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for name, data := range programs(seed) {
		m.Programs = append(m.Programs, manifest.Program{Name: name, Mode: 0o755, Size: int64(len(data)), SHA256: sum(data)})
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	fsys := fstest.MapFS{}
	for name, data := range map[string][]byte{manifest.Programs: archive.Bytes(), manifest.Images: []byte(strings.Repeat("images", 1000))} {
		packed := enc.EncodeAll(data, nil)
		m.Archives[name] = manifest.Archive{Size: int64(len(packed)), SHA256: sum(packed)}
		fsys[name] = &fstest.MapFile{Data: packed}
	}
	m.Hash = m.Sum()
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	fsys[manifest.File] = &fstest.MapFile{Data: data}
	return fsys
}

func open(t *testing.T, fsys fstest.MapFS) *Bundle {
	t.Helper()
	b, err := OpenFS(fsys)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// unpack unpacks and checks that all programs are there, and nothing else but the link and the one folder.
func unpack(t *testing.T, b *Bundle, dir string, seed int64) {
	t.Helper()
	bin, err := b.Unpack(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, "current", "bin"); bin != want {
		t.Errorf("Unpack returned %s, want %s", bin, want)
	}
	for name, want := range programs(seed) {
		got, err := os.ReadFile(filepath.Join(bin, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not what was packed", name)
		}
		if info, err := os.Stat(filepath.Join(bin, name)); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: mode %v, error %v; want 0755", name, info.Mode(), err)
		}
	}
	if got, want := names(t, dir), b.Hash()+" current"; got != want {
		t.Errorf("the folder holds %q, want %q", got, want)
	}
}

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return strings.Join(all, " ")
}

func TestMissing(t *testing.T) {
	if _, err := OpenFS(fstest.MapFS{"README": {}}); !errors.Is(err, ErrMissing) {
		t.Errorf("got %v, want ErrMissing", err)
	}
}

func TestUnpackIsIdempotent(t *testing.T) {
	b, dir := open(t, testBundle(t, 1)), filepath.Join(t.TempDir(), "data")
	unpack(t, b, dir, 1)
	file := filepath.Join(dir, b.Hash(), "bin", "runc")
	before, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	unpack(t, b, dir, 1)
	after, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) {
		t.Error("an intact program was written again")
	}
}

func TestUnpackRepairs(t *testing.T) {
	damage := map[string]func(file string) error{
		"changed": func(file string) error {
			f, err := os.OpenFile(file, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt([]byte("damage"), 1000)
			return err
		},
		"truncated":      func(file string) error { return os.Truncate(file, 10) },
		"removed":        os.Remove,
		"not executable": func(file string) error { return os.Chmod(file, 0o644) },
		"folder removed": func(file string) error { return os.RemoveAll(filepath.Dir(file)) },
		"a link": func(file string) error {
			return errors.Join(os.Remove(file), os.Symlink("/bin/true", file))
		},
	}
	for name, do := range damage {
		t.Run(name, func(t *testing.T) {
			b, dir := open(t, testBundle(t, 1)), t.TempDir()
			unpack(t, b, dir, 1)
			if err := do(filepath.Join(dir, b.Hash(), "bin", "runc")); err != nil {
				t.Fatal(err)
			}
			unpack(t, b, dir, 1)
		})
	}
}

func TestUnpackReplacesOldPayload(t *testing.T) {
	dir := t.TempDir()
	unpack(t, open(t, testBundle(t, 1)), dir, 1)
	if err := os.Mkdir(filepath.Join(dir, tempPrefix+"left-behind"), 0o755); err != nil {
		t.Fatal(err)
	}
	unpack(t, open(t, testBundle(t, 2)), dir, 2)
}

func TestUnpackKeepsWhatIsNotItsOwn(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "mine"), 0o755); err != nil {
		t.Fatal(err)
	}
	b := open(t, testBundle(t, 1))
	if _, err := b.Unpack(context.Background(), dir); err != nil {
		t.Fatal(err)
	}
	if got, want := names(t, dir), b.Hash()+" current mine"; got != want {
		t.Errorf("the folder holds %q, want %q", got, want)
	}
}

// The old payload must stay in use until the new one is whole.
func TestFailedUnpackChangesNothing(t *testing.T) {
	dir := t.TempDir()
	old := open(t, testBundle(t, 1))
	unpack(t, old, dir, 1)
	for name, spoil := range map[string]func([]byte) []byte{
		"truncated": func(b []byte) []byte { return b[:len(b)/2] },
		"changed":   func(b []byte) []byte { b[len(b)/2] ^= 0xff; return b },
		"emptied":   func([]byte) []byte { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			fsys := testBundle(t, 2)
			fsys[manifest.Programs].Data = spoil(bytes.Clone(fsys[manifest.Programs].Data))
			_, err := open(t, fsys).Unpack(context.Background(), dir)
			checkDamaged(t, err, manifest.Programs)
			unpack(t, old, dir, 1)
		})
	}
}

func TestCancelledUnpackChangesNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	dir := t.TempDir()
	if _, err := open(t, testBundle(t, 1)).Unpack(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
	if got := names(t, dir); got != "" {
		t.Errorf("the folder holds %q, want nothing", got)
	}
}

func TestCurrentInTheWay(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "current", "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := open(t, testBundle(t, 1)).Unpack(context.Background(), dir)
	if err == nil || !strings.Contains(err.Error(), "move it away") {
		t.Errorf("got %v, want an error that tells to move it away", err)
	}
}

func TestImages(t *testing.T) {
	b := open(t, testBundle(t, 1))
	r, err := b.Images()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil || string(got) != strings.Repeat("images", 1000) {
		t.Errorf("got %d bytes, error %v", len(got), err)
	}
	if refs := b.ImageRefs(); len(refs) != 1 || refs["docker.io/labk/pause:1"] != "sha256:00" {
		t.Errorf("ImageRefs: %v", refs)
	}
}

func TestDamagedImages(t *testing.T) {
	fsys := testBundle(t, 1)
	// Another valid archive of the same size: only the hash can tell.
	other := bytes.Clone(fsys[manifest.Images].Data)
	other[bytes.Index(other, []byte("images"))] = 'I'
	fsys[manifest.Images].Data = other
	r, err := open(t, fsys).Images()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	_, err = io.ReadAll(r)
	checkDamaged(t, err, manifest.Images)

	fsys[manifest.Images].Data = other[:20]
	_, err = open(t, fsys).Images()
	checkDamaged(t, err, manifest.Images)
}

func TestDamagedManifest(t *testing.T) {
	good := string(testBundle(t, 1)[manifest.File].Data)
	for name, text := range map[string]string{
		"truncated":     good[:len(good)/2],
		"empty":         "",
		"other hash":    strings.Replace(good, `"hash":"`, `"hash":"0`, 1),
		"leads outside": strings.Replace(good, `"runc"`, `"../runc"`, 1),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := OpenFS(fstest.MapFS{manifest.File: {Data: []byte(text)}})
			checkDamaged(t, err, manifest.File)
		})
	}
}

func checkDamaged(t *testing.T, err error, part string) {
	t.Helper()
	var damaged *DamagedError
	if !errors.As(err, &damaged) || damaged.Part != part {
		t.Fatalf("got %v, want a DamagedError of %s", err, part)
	}
	if !strings.Contains(err.Error(), "install labk again") {
		t.Errorf("%q names no remedy", err)
	}
}

func TestVerify(t *testing.T) {
	for name, tc := range map[string]struct {
		damage   string // which archive
		unpacked bool
		bad      bool
	}{
		"sound":                {},
		"programs":             {damage: manifest.Programs, bad: true},
		"images":               {damage: manifest.Images, bad: true},
		"verified long before": {damage: manifest.Images, unpacked: true},
	} {
		t.Run(name, func(t *testing.T) {
			fsys, dir := testBundle(t, 1), t.TempDir()
			if tc.damage != "" {
				data := bytes.Clone(fsys[tc.damage].Data)
				data[len(data)/2] ^= 1
				fsys[tc.damage].Data = data
			}
			b := open(t, fsys)
			if tc.unpacked {
				if err := os.Mkdir(filepath.Join(dir, b.Hash()), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			var damaged *DamagedError
			if err := b.Verify(dir); errors.As(err, &damaged) != tc.bad {
				t.Errorf("got %v", err)
			}
		})
	}
}
