package snapshot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/labk/labk/pkg/datastore/dump"
	"github.com/labk/labk/pkg/datastore/sqlite"
	"github.com/labk/labk/pkg/paths"
)

const (
	secret  = "abcdef.0123456789abcdef"
	cluster = "0123456789abcdef0123456789abcdef"
)

var noon = time.Date(2020, 11, 23, 12, 0, 0, 0, time.UTC)

// source is a cluster with some objects, of which one is larger than a page.
func source(t *testing.T) Source {
	t.Helper()
	var content bytes.Buffer
	w := dump.NewWriter(&content, 70)
	for i := range 50 {
		if err := w.Write(dump.Record{Key: fmt.Appendf(nil, "/registry/a/%02d", i), Value: bytes.Repeat([]byte{byte(i)}, 300), CreateRevision: 10, ModRevision: int64(20 + i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return Source{
		Folder: Folder(filepath.Join(t.TempDir(), "snapshots")), Scratch: t.TempDir(), Secret: secret,
		Header: Header{Cluster: cluster, Node: "pc1", Version: "v1.37.1+labk1", Datastore: "sqlite", Options: map[string]string{"service-cidr": "10.99.0.0/16"}},
		Files: []File{
			{Path: "server/tls/server-ca.crt", Mode: 0o644, Data: []byte("the certificate")}, {Path: "server/tls/server-ca.key", Mode: 0o600, Data: []byte("the key")},
			{Path: "server/token", Mode: 0o600, Data: []byte("the token")}, {Path: "server/etc/encryption.yaml", Mode: 0o600, Data: []byte("of the snapshot")},
		},
		Dump: func(_ context.Context, w io.Writer) (dump.Info, error) {
			_, err := w.Write(content.Bytes())
			return dump.Info{Revision: 70, Objects: 50}, err
		},
		Size: func() int64 { return 1 << 20 },
	}
}

func save(t *testing.T, s Source, reason Reason, at time.Time) Found {
	t.Helper()
	found, err := s.Save(t.Context(), reason, string(reason), at)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestSave(t *testing.T) {
	s := source(t)
	found := save(t, s, ByHand, noon)
	if found.Name != "hand-pc1-20201123-120000" || found.Objects != 50 || found.Revision != 70 || found.Problem != "" {
		t.Errorf("%+v", found)
	}
	info, err := os.Stat(found.File)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if again := save(t, s, ByHand, noon); again.Name == found.Name {
		t.Error("two have one name")
	}
	if left, err := os.ReadDir(s.Scratch); err != nil || len(left) > 0 {
		t.Errorf("left in the scratch folder: %v, %v", left, err)
	}
	if h, err := Verify(found.File, secret); err != nil || h.Options["service-cidr"] != "10.99.0.0/16" {
		t.Errorf("%+v, %v", h, err)
	}
	if _, err := Verify(found.File, "abcdef.0123456789abcdeX"); !errors.Is(err, ErrToken) {
		t.Errorf("with another token: %v", err)
	}
}

// What can't be made leaves nothing.
func TestSaveFails(t *testing.T) {
	for name, change := range map[string]func(*Source){
		"the datastore does not answer": func(s *Source) {
			s.Dump = func(context.Context, io.Writer) (dump.Info, error) { return dump.Info{}, errors.New("away") }
		},
		"the datastore says something else": func(s *Source) {
			dumped := s.Dump
			s.Dump = func(ctx context.Context, w io.Writer) (dump.Info, error) {
				info, err := dumped(ctx, w)
				info.Objects++
				return info, err
			}
		},
		"no room": func(s *Source) { s.Size = func() int64 { return 1 << 60 } },
	} {
		s := source(t)
		change(&s)
		_, err := s.Save(t.Context(), ByHand, "x", noon)
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		if full := new(SpaceError); name == "no room" && !errors.As(err, &full) {
			t.Errorf("%s: %v", name, err)
		}
		if left, err := os.ReadDir(string(s.Folder)); err != nil || len(left) > 0 {
			t.Errorf("%s: it left %v, %v", name, left, err)
		}
	}
	s := source(t)
	if _, err := s.Save(t.Context(), ByHand, "../x", noon); err == nil {
		t.Error("a name that is a path was taken")
	}
}

// Wherever a snapshot is changed or cut off, it is refused.
func TestDamagedSnapshot(t *testing.T) {
	s := source(t)
	good, err := os.ReadFile(save(t, s, ByHand, noon).File)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "bad")
	check := func(what string, data []byte) {
		t.Helper()
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Verify(file, secret)
		if bad := new(FormatError); !errors.As(err, &bad) && !errors.Is(err, ErrToken) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// Each try costs scrypt's tenth of a second, but for the first line.
	head := bytes.IndexByte(good, '\n')
	for i := 0; i < len(good); i += max(1, (len(good)-head)/20) {
		check(fmt.Sprintf("cut off after %d of %d", i, len(good)), good[:i])
		bad := bytes.Clone(good)
		bad[i] ^= 4
		check(fmt.Sprintf("byte %d of %d changed", i, len(good)), bad)
	}
	check("another header", bytes.Replace(good, []byte(`"node":"pc1"`), []byte(`"node":"pc2"`), 1))
	check("another cluster in the header", bytes.Replace(good, []byte(cluster), []byte(strings.Repeat("f", len(cluster))), 1))
	check("something after the end", append(bytes.Clone(good), 'x'))
	newer := bytes.Replace(good, []byte(`{"labkSnapshot":1`), []byte(`{"labkSnapshot":2`), 1)
	check("newer", newer)
	if _, err := Verify(file, secret); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("of a newer format: %v", err)
	}
}

func TestKeep(t *testing.T) {
	s := source(t)
	var hands []string
	for i := range 3 {
		save(t, s, Scheduled, noon.Add(time.Duration(i)*time.Hour))
		hands = append(hands, save(t, s, ByHand, noon.Add(-time.Duration(i)*time.Hour)).Name)
	}
	if err := os.WriteFile(s.Folder.File("strange"), []byte("no snapshot"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Folder.Keep(Scheduled, cluster, 2); err != nil {
		t.Fatal(err)
	}
	all, err := s.Folder.List()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, found := range all {
		names = append(names, found.Name)
		if (found.Name == "strange") != (found.Problem != "") {
			t.Errorf("%+v", found)
		}
	}
	want := slices.Concat([]string{"strange", "schedule-pc1-20201123-140000", "schedule-pc1-20201123-130000"}, hands)
	slices.Sort(names)
	slices.Sort(want)
	if !slices.Equal(names, want) {
		t.Errorf("got %q, want %q", names, want)
	}
}

// A snapshot that was made while the clock was a year ahead does not push out those that are made when it is right again, nor count as the newest.
func TestSnapshotFromTheFuture(t *testing.T) {
	s := source(t)
	now := time.Now()
	future := save(t, s, Scheduled, now.AddDate(1, 0, 0)).Name
	newest := save(t, s, Scheduled, now).Name
	if all, err := s.Folder.List(); err != nil || len(all) != 2 || all[0].Name != newest {
		t.Errorf("%+v, %v", all, err)
	}
	if err := s.Folder.Keep(Scheduled, cluster, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(s.Folder.File(newest)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(s.Folder.File(future)); err == nil {
		t.Error("the one from the future was kept")
	}
}

// Two clusters may have one folder.
func TestKeepLeavesOtherClustersAlone(t *testing.T) {
	s := source(t)
	other := s
	other.Header.Cluster, other.Header.Node = strings.Repeat("e", 64), "pc9"
	theirs := save(t, other, Scheduled, noon.Add(-time.Hour))
	save(t, s, Scheduled, noon)
	if err := s.Folder.Keep(Scheduled, cluster, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(theirs.File); err != nil {
		t.Error(err)
	}
	k := NewKeeper(KeeperOptions{Folder: s.Folder, Cluster: func() (string, error) { return theirs.Cluster, nil }})
	if err := k.look(); err != nil || k.State().Newest == nil || k.State().Newest.Name != theirs.Name {
		t.Errorf("their newest is %+v, %v", k.State().Newest, err)
	}
}

// A file that the disk gives back no more is a snapshot with a problem: it does not hide the others.
func TestLookAtWhatCannotBeRead(t *testing.T) {
	if found, err := Look("/proc/self/mem"); err != nil || !strings.Contains(found.Problem, "input/output error") {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestNamed(t *testing.T) {
	s := source(t)
	found := save(t, s, ByHand, noon)
	for _, name := range []string{found.Name, found.Name + suffix} {
		if file, err := Named(name, Folder(t.TempDir()), s.Folder); err != nil || file != found.File {
			t.Errorf("%q: %s, %v", name, file, err)
		}
	}
	for _, name := range []string{"other", "../snapshots/" + found.Name, found.File, "..", ""} {
		if file, err := Named(name, s.Folder); err == nil {
			t.Errorf("%q is %s", name, file)
		}
	}
}

// server is a data folder with a cluster, and a datastore of which the content does not matter.
func server(t *testing.T) paths.Data {
	t.Helper()
	data := paths.Data(t.TempDir())
	for path, text := range map[string]string{
		data.Database(): "the datastore before", data.Database() + "-wal": "its log", data.Before("v1"): "a copy", data.Token(): "its token", data.Encryption(): "of before",
	} {
		if err := paths.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return data
}

func options(data paths.Data, file string, clusters ...string) RestoreOptions {
	return RestoreOptions{Data: data, File: file, Secret: secret, Clusters: clusters, Version: "v1.37.1+labk1", Why: Replaced, Build: sqlite.Build, Now: noon}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// revision is that of the restored file, which must be a whole one.
func check(t *testing.T, data paths.Data) {
	t.Helper()
	if err := sqlite.Check(t.Context(), data.Database()); err != nil {
		t.Error(err)
	}
	if text := read(t, data.Database()); !strings.HasPrefix(text, "SQLite") || !strings.Contains(text, "/registry/a/49") {
		t.Errorf("%d bytes are not the restored datastore", len(text))
	}
}

func TestRestoreOverTheSameCluster(t *testing.T) {
	found := save(t, source(t), ByHand, noon)
	data := server(t)
	plan, err := Stage(t.Context(), options(data, found.File, cluster))
	if err != nil {
		t.Fatal(err)
	}
	if plan.NewRevision != 70+bump || plan.Fresh || !Pending(data) {
		t.Errorf("%+v", plan)
	}
	if read(t, data.Database()) != "the datastore before" {
		t.Error("it was touched before its time")
	}
	if plan, err = Apply(data); err != nil {
		t.Fatal(err)
	}
	check(t, data)
	for path, want := range map[string]string{
		filepath.Join(plan.Aside, "state.db"): "the datastore before", filepath.Join(plan.Aside, "state.db-wal"): "its log", filepath.Join(plan.Aside, "encryption.yaml"): "of before",
		data.Encryption(): "of the snapshot", data.Token(): "its token", data.Before("v1"): "a copy",
	} {
		if got := read(t, path); got != want {
			t.Errorf("%s is %q, want %q", path, got, want)
		}
	}
	if _, err := os.Stat(data.Database() + "-wal"); err == nil {
		t.Error("the log of the former datastore is beside the restored one")
	}
	if Pending(data) {
		t.Error("it is not done")
	}
	if again, err := Apply(data); again != nil || err != nil {
		t.Errorf("a second time: %+v, %v", again, err)
	}
	// The same once more: no revision is given out twice.
	o := options(data, found.File, cluster)
	o.Now = noon.Add(time.Hour)
	if plan, err = Stage(t.Context(), o); err != nil || plan.NewRevision != 70+2*bump {
		t.Errorf("%+v, %v", plan, err)
	}
}

// What was set aside stays, when two restores follow one another within a second, too, and whatever the data folder is called.
func TestWhatWasThereIsKept(t *testing.T) {
	found := save(t, source(t), ByHand, noon)
	data := paths.Data(filepath.Join(t.TempDir(), "disk [1]*"))
	for _, text := range []string{"first", "second"} {
		for _, path := range []string{data.Database(), data.Database() + "-wal", data.EtcdFile()} {
			if err := paths.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Stage(t.Context(), options(data, found.File, cluster)); err != nil {
			t.Fatal(err)
		}
		if _, err := Apply(data); err != nil {
			t.Fatal(err)
		}
		check(t, data)
	}
	for folder, want := range map[string]string{"replaced-20201123-120000": "first", "replaced-20201123-120000-2": "second"} {
		for _, file := range []string{"db.%s/state.db", "db.%s/state.db-wal", "etcd.%s/member/snap/db"} {
			if got := read(t, filepath.Join(data.Server(), fmt.Sprintf(file, folder))); got != want {
				t.Errorf(file+" is %.20q, want %q", folder, got, want)
			}
		}
	}
}

func TestRestoreOnAnEmptyPC(t *testing.T) {
	found := save(t, source(t), ByHand, noon)
	data := paths.Data(filepath.Join(t.TempDir(), "labk"))
	if _, err := Stage(t.Context(), options(data, found.File)); err != nil {
		t.Fatal(err)
	}
	plan, err := Apply(data)
	if err != nil || !plan.Fresh || plan.Aside != "" {
		t.Fatalf("%+v, %v", plan, err)
	}
	check(t, data)
	for path, want := range map[string]string{data.Token(): "the token", data.Encryption(): "of the snapshot", data.ServerTLS() + "/server-ca.key": "the key"} {
		if got := read(t, path); got != want {
			t.Errorf("%s is %q", path, got)
		}
	}
	if info, err := os.Stat(data.ServerTLS() + "/server-ca.key"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := Settled(data); err != nil {
		t.Fatal(err)
	}
	if last, err := LastRestore(data); err != nil || last.Fresh || last.Name != found.Name {
		t.Errorf("%+v, %v", last, err)
	}
}

// Whatever can't be restored changes nothing.
func TestRestoreRefuses(t *testing.T) {
	s := source(t)
	found := save(t, s, ByHand, noon)
	good := []byte(read(t, found.File))
	put := func(name string, data []byte) string {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	s.Header.Version = "v1.38.0+labk1"
	newer := save(t, s, ByHand, noon.Add(time.Hour)).File
	s.Header.Version = "v1.37.9+labk3"
	patch := save(t, s, ByHand, noon.Add(2*time.Hour)).File
	for name, tc := range map[string]struct {
		change func(o *RestoreOptions)
		says   string // empty if it is good
	}{
		"good":                  {func(*RestoreOptions) {}, ""},
		"a newer patch":         {func(o *RestoreOptions) { o.File = patch }, ""},
		"a newer minor":         {func(o *RestoreOptions) { o.File = newer }, "use v1.38.0+labk1 or a newer one"},
		"truncated":             {func(o *RestoreOptions) { o.File = put("x", good[:len(good)-100]) }, "cut off"},
		"another cluster's":     {func(o *RestoreOptions) { o.Clusters = []string{strings.Repeat("e", 64)} }, "cluster eeeeeeeeeeee"},
		"of a former authority": {func(o *RestoreOptions) { o.Clusters = []string{strings.Repeat("e", 64), cluster} }, ""},
		"wrong token":           {func(o *RestoreOptions) { o.Secret = "abcdef.fedcba9876543210" }, "token"},
		"none":                  {func(o *RestoreOptions) { o.File = "/nonexistent" }, "no such file"},
		"the disk fills up": {func(o *RestoreOptions) {
			o.Build = func(context.Context, string, *dump.Reader, int64) error { return errors.New("no space") }
		}, "no space"},
		"another cluster's name": {func(o *RestoreOptions) { o.Clusters = []string{strings.Repeat("e", 64)} }, "mv "},
	} {
		t.Run(name, func(t *testing.T) {
			data := server(t)
			before := tree(t, data)
			o := options(data, found.File, cluster)
			tc.change(&o)
			fits := Fits(o)
			_, err := Stage(t.Context(), o)
			if tc.says == "" {
				if err := errors.Join(fits, err); err != nil {
					t.Error(err)
				}
				return
			}
			if fits == nil && tc.says != "no space" {
				t.Error("it fits, and can't be restored")
			}
			if err == nil || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%v", err)
			}
			if after := tree(t, data); after != before {
				t.Errorf("it left\n%s", after)
			}
		})
	}
}

// tree is all files of a folder, with their contents.
func tree(t *testing.T, data paths.Data) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(string(data), func(path string, e os.DirEntry, err error) error {
		fmt.Fprintln(&all, path)
		if err == nil && !e.IsDir() {
			fmt.Fprintln(&all, read(t, path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// Apply that is cut off anywhere is finished by the next one: each place is made by copying what a power cut could have left.
func TestApplyGoesOn(t *testing.T) {
	found := save(t, source(t), ByHand, noon)
	for step := range 4 {
		t.Run(fmt.Sprint(step), func(t *testing.T) {
			data := server(t)
			if err := paths.WriteFile(data.EtcdFile(), []byte("a member"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := paths.WriteFile(data.Moving(), []byte("{}"), 0o600); err != nil {
				t.Fatal(err)
			}
			plan, err := Stage(t.Context(), options(data, found.File, cluster))
			if err != nil {
				t.Fatal(err)
			}
			staged := filepath.Join(data.Restore(), stageDB, "state.db")
			for i, do := range []func() error{
				func() error { return plan.keep(data, data.Encryption(), []byte("of the snapshot")) },
				func() error { return paths.WriteFile(data.Encryption(), []byte("of the snapshot"), 0o600) },
				func() error {
					return move(data.Database(), filepath.Join(plan.aside(data.DatabaseFolder()), "state.db"))
				},
				func() error {
					return errors.Join(move(data.Database()+"-wal", filepath.Join(plan.aside(data.DatabaseFolder()), "state.db-wal")),
						move(data.Etcd(), plan.aside(data.Etcd())), move(staged, data.Database()))
				},
			} {
				if i <= step {
					if err := do(); err != nil {
						t.Fatal(err)
					}
				}
			}
			if _, err := Apply(data); err != nil {
				t.Fatal(err)
			}
			check(t, data)
			for path, want := range map[string]string{
				filepath.Join(plan.aside(data.DatabaseFolder()), "state.db"):        "the datastore before",
				filepath.Join(plan.aside(data.DatabaseFolder()), "state.db-wal"):    "its log",
				filepath.Join(plan.aside(data.DatabaseFolder()), "encryption.yaml"): "of before",
				filepath.Join(plan.aside(data.Etcd()), "member", "snap", "db"):      "a member",
			} {
				if got := read(t, path); got != want {
					t.Errorf("%s is %q", path, got)
				}
			}
			if _, err := os.Stat(data.Etcd()); err == nil {
				t.Error("both datastores are there")
			}
		})
	}
}

// What commands print of a snapshot has all that its header has.
func TestFoundAsJSON(t *testing.T) {
	text, err := json.Marshal(save(t, source(t), Upgrade, noon))
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []string{`"name":"upgrade-pc1-`, `"reason":"upgrade"`, `"objects":50`, `"bytes":`, `"file":`} {
		if !strings.Contains(string(text), word) {
			t.Errorf("%s is not in %s", word, text)
		}
	}
}
