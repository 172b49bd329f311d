package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/control"
	"github.com/labk/labk/pkg/datastore/snapshot"
	"github.com/labk/labk/pkg/datastore/sqlite"
	"github.com/labk/labk/pkg/join"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/pki"
	"github.com/labk/labk/pkg/process"
	"github.com/labk/labk/pkg/version"
)

func snapshotCommand(stderr io.Writer) *cli.Command {
	where := configFlags("server", "data-dir", "snapshot-dir")
	return &cli.Command{
		Name: "snapshot", Usage: "Save the whole cluster in a file, and bring it back",
		Subcommands: []*cli.Command{
			{
				Name: "save", Usage: "Make a snapshot now; on the server, while labk runs", Action: saveSnapshot,
				Flags: append(slices.Clone(where), &cli.StringFlag{Name: "name", Usage: "What the snapshot's `NAME` begins with.", Value: string(snapshot.ByHand)}, outputFlag()),
			},
			{Name: "list", Usage: "List the snapshots on this PC, the newest first", Action: listSnapshots, Flags: append(slices.Clone(where), outputFlag())},
			{
				Name: "restore", Usage: "Bring the cluster back as it is in a snapshot; what was there before is kept aside", ArgsUsage: "NAME|FILE",
				Action: func(c *cli.Context) error { return restoreSnapshot(c, stderr) },
				Flags:  configFlags("server", "data-dir", "snapshot-dir", "token-file"),
			},
			{Name: "delete", Usage: "Delete snapshots", ArgsUsage: "NAME...", Action: deleteSnapshots, Flags: where},
		},
	}
}

// shelf is where this PC's snapshots are.
type shelf struct {
	cfg    config.Config
	data   paths.Data
	folder snapshot.Folder
	// runs tells that labk runs here; report is what it says as a server, nil if it is none.
	runs   bool
	report *snapshot.Report
}

// folders are all that may hold snapshots: the server's, and those that a node keeps for its server.
func (s *shelf) folders() []snapshot.Folder {
	return []snapshot.Folder{s.folder, snapshot.Folder(s.data.Copies())}
}

func newShelf(c *cli.Context) (*shelf, error) {
	cfg, err := config.Load(sources(c, "server"))
	if err == nil {
		err = cfg.Validate()
	}
	if err != nil {
		return nil, err
	}
	s := &shelf{cfg: cfg}
	self, err := process.Running(c.Context)
	switch {
	case errors.Is(err, control.ErrNotRunning):
	case err != nil:
		return nil, err
	case c.IsSet("data-dir") && cfg.DataDir != self.DataDir: // another one, which does not run
	default:
		s.runs, s.cfg.DataDir = true, self.DataDir // whatever it was started with
		report := new(snapshot.Report)
		if control.Call(c.Context, paths.ControlSocket, http.MethodGet, snapshot.Route, nil, report) == nil {
			s.report = report
		}
	}
	s.data, s.folder = paths.Data(s.cfg.DataDir), snapshot.Folder(s.cfg.SnapshotFolder())
	if s.report != nil && !c.IsSet("snapshot-dir") {
		s.folder = s.report.Folder
	}
	return s, nil
}

func saveSnapshot(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	name := c.String("name")
	if err := snapshot.CheckName(name); err != nil {
		return usageError{fmt.Errorf("--name: %w", err)}
	}
	s, err := newShelf(c)
	if err != nil {
		return err
	}
	switch {
	case s.runs && s.report == nil:
		return errors.New("make a snapshot: this PC is an agent: run this on the server")
	case !s.runs:
		return errors.New("make a snapshot: labk does not run here, and only the labk of the server can make one: start it (systemctl start labk, or labk server)")
	}
	found, err := askForSnapshot(c.Context, snapshot.Wish{Reason: snapshot.ByHand, Prefix: name})
	if err != nil {
		return err
	}
	return print(c, found, func() error {
		fmt.Fprintf(c.App.Writer, "%s: %d objects, %s, in %s\n", found.Name, found.Objects, size(found.Bytes), found.File)
		return nil
	})
}

// saveLimit is how long a snapshot may take: a large datastore on a slow disk.
const saveLimit = 15 * time.Minute

func askForSnapshot(ctx context.Context, w snapshot.Wish) (found snapshot.Found, err error) {
	ctx, cancel := context.WithTimeout(ctx, saveLimit)
	defer cancel()
	err = control.Call(ctx, paths.ControlSocket, http.MethodPost, snapshot.Route, w, &found)
	return found, err
}

func size(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%d KiB", (n+1023)>>10)
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

func listSnapshots(c *cli.Context) error {
	if err := noArguments(c); err != nil {
		return err
	}
	s, err := newShelf(c)
	if err != nil {
		return err
	}
	all := []snapshot.Found{}
	for _, folder := range s.folders() {
		some, err := folder.List()
		if err != nil {
			if errors.Is(err, os.ErrPermission) {
				err = fmt.Errorf("%w: run this as root", err)
			}
			return err
		}
		all = append(all, some...)
	}
	return print(c, all, func() error {
		w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "NAME\tCREATED\tWHY\tOBJECTS\tSIZE\tVERSION\tALSO ON\tFILE")
		for _, f := range all {
			also := "-"
			if s.report != nil && s.report.Copied == f.Name {
				also = s.report.Holder
			}
			why, objects := string(f.Reason), fmt.Sprint(f.Objects)
			if f.Problem != "" {
				why, objects = f.Problem, "-"
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", f.Name, day(f.Created), why, objects, size(f.Bytes), dash(f.Version), also, f.File)
		}
		return w.Flush()
	})
}

func deleteSnapshots(c *cli.Context) error {
	if !c.Args().Present() {
		return usageError{errors.New("which snapshots? name them as `labk snapshot list` does")}
	}
	s, err := newShelf(c)
	if err != nil {
		return err
	}
	var files []string
	for _, name := range c.Args().Slice() { // all are looked for before one is deleted
		file, err := snapshot.Named(name, s.folders()...)
		if err != nil {
			return err
		}
		files = append(files, file)
	}
	for i, name := range c.Args().Slice() {
		if err := os.Remove(files[i]); err != nil {
			return fmt.Errorf("delete a snapshot: %w", err)
		}
		fmt.Fprintln(c.App.Writer, "deleted:", name)
	}
	return nil
}

func restoreSnapshot(c *cli.Context, stderr io.Writer) error {
	if err := lateFlags(c); err != nil {
		return err
	}
	s, err := newShelf(c)
	if err != nil {
		return err
	}
	if s.cfg.DatastoreEndpoint != "" || s.report != nil && s.report.Elsewhere { // whichever way labk was told
		return &config.Error{Option: "datastore-endpoint", Problem: "the datastore is a database elsewhere, which labk does not replace",
			Remedy: "restore that database with its own tools, or leave the option out: the snapshot is restored into a datastore on this PC then"}
	}
	file, err := snapshot.Find(c.Args().First(), s.folders()...)
	if err != nil {
		return err
	}
	found, err := snapshot.Look(file)
	if err == nil && found.Problem != "" {
		err = &snapshot.FormatError{Path: file, Detail: found.Problem}
	}
	if err != nil {
		return err
	}
	secret, err := s.secret(found.Cluster)
	if err != nil {
		return err
	}
	clusters, err := join.CAHashes(pki.NewStore(s.data.ServerTLS(), time.Now).Files(pki.ServerCA)...)
	if err != nil {
		return err
	}
	show := newProgress(stderr, false)
	defer show.end()
	o := snapshot.RestoreOptions{
		Data: s.data, File: file, Secret: secret, Clusters: clusters, Version: version.Version, Why: snapshot.Replaced,
		Cause: "labk snapshot restore", Build: sqlite.Build, Now: time.Now(),
	}
	plan, err := s.restore(c.Context, o, show)
	if err != nil {
		return err
	}
	s.tell(c.App.Writer, plan)
	return nil
}

// lateFlags heeds flags that come after the snapshot, as people write them.
func lateFlags(c *cli.Context) error {
	if !c.Args().Present() {
		return usageError{errors.New("which snapshot? give a name of `labk snapshot list`, or a file")}
	}
	rest := c.Args().Tail()
	for len(rest) > 0 {
		name, value, whole := strings.Cut(strings.TrimLeft(rest[0], "-"), "=")
		rest = rest[1:]
		if !whole && len(rest) > 0 {
			value, rest = rest[0], rest[1:]
		}
		if err := c.Set(name, value); err != nil || value == "" {
			return usageError{fmt.Errorf("%q is no flag with a value: see `labk snapshot restore --help`", name)}
		}
	}
	return nil
}

// secret is that of the token that was given, or of this server's.
func (s *shelf) secret(cluster string) (string, error) {
	text, err := s.cfg.ReadToken()
	if err != nil {
		return "", err
	}
	if text == "" {
		own, err := os.ReadFile(s.data.Token())
		if errors.Is(err, os.ErrNotExist) {
			return "", usageError{errors.New("the snapshot is encrypted with the token of its server, and there is none on this PC: put that into a file and name it with --token-file (on the server it was server/token of the data folder)")}
		}
		if err != nil {
			return "", fmt.Errorf("read the token: %w: run this as root", err)
		}
		text = strings.TrimSpace(string(own))
	}
	token, err := join.ParseToken(text)
	if err != nil { // a passphrase, or the part of the token that is the API's
		token, err = join.TokenOf(text, cluster)
	}
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	return token.Bootstrap(), nil
}

// restore brings the snapshot back: at once where labk does not run, else by a fresh start of it.
func (s *shelf) restore(ctx context.Context, o snapshot.RestoreOptions, show *progress) (plan *snapshot.Plan, err error) {
	if !s.runs {
		if err := os.MkdirAll(string(s.data), 0o755); err != nil {
			return nil, fmt.Errorf("make the data folder: %w", err)
		}
		err := atRest(s.data, func() error {
			if _, err := snapshot.Stage(ctx, o); err != nil {
				return err
			}
			plan, err = snapshot.Apply(s.data)
			return err
		})
		return plan, err
	}
	if s.report == nil {
		return nil, errors.New("restore a snapshot: this PC runs as an agent of another server: stop that first (labk uninstall, or systemctl disable --now labk-agent); it becomes the server then")
	}
	if err := snapshot.Fits(o); err != nil { // before anything is made for it
		return nil, err
	}
	// What is there now can be had back by name, too.
	if before, err := askForSnapshot(ctx, snapshot.Wish{Reason: snapshot.ByHand, Prefix: "before-restore"}); err != nil {
		show.say("no snapshot could be made of what is there now, but its files are kept: %v", err)
	} else {
		show.say("what is there now is in the snapshot %s", before.Name)
	}
	if plan, err = snapshot.Stage(ctx, o); err != nil {
		return nil, err
	}
	if err := control.Call(ctx, paths.ControlSocket, http.MethodPost, snapshot.RestoreRoute, nil, nil); err != nil {
		return nil, err
	}
	show.say("labk starts anew with it; pods go on")
	return plan, s.awaitRestored(ctx)
}

// restoreLimit is how long a start may take.
const restoreLimit = 5 * time.Minute

func (s *shelf) awaitRestored(ctx context.Context) error {
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, restoreLimit, true, func(ctx context.Context) (bool, error) {
		if snapshot.Pending(s.data) {
			return false, nil
		}
		self, err := process.Running(ctx)
		return err == nil && self.Up, nil
	})
	if err != nil {
		return fmt.Errorf("wait for labk to be up with the snapshot: %w: see `labk status`", err)
	}
	return nil
}

// tell says what was done, and what is to be done.
func (s *shelf) tell(out io.Writer, plan *snapshot.Plan) {
	fmt.Fprintf(out, "restored: %s of %s, %d objects\n", plan.Name, plan.Created.Format("2006-01-02 15:04 UTC"), plan.Objects)
	if last, err := snapshot.LastRestore(s.data); err == nil && last != nil && last.Aside != "" {
		fmt.Fprintf(out, "what was there before is kept in %s\n", last.Aside)
	}
	if s.runs {
		return
	}
	args := []string{"labk server"}
	if plan.Fresh && s.cfg.NodeName != plan.Node {
		args = append(args, "--node-name "+plan.Node)
	}
	for _, name := range slices.Sorted(maps.Keys(plan.Options)) {
		args = append(args, fmt.Sprintf("--%s=%s", name, plan.Options[name]))
	}
	fmt.Fprintf(out, "start it with `%s` and the other options that the server had\n", strings.Join(args, " "))
	if plan.Fresh {
		fmt.Fprintln(out, "agents come back by themselves if this PC has the address that they know; else give them the new one with --server")
	}
}
