// Command bench measures labk on this machine: how long it takes to start, to run a pod, to join, to stop, what it needs while idle, and how fast
// pods on different nodes talk.
// It prints a table and writes JSON. No figure makes it fail. Needs root; LABK_BINARY names the program (default dist/labk).
//
// Everything happens in lab hosts; the cluster is watched from outside through one watch each of nodes and pods, so that
// looking costs little of the two cores that many such PCs have.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/labk/labk/pkg/lab"
)

// options are the command line.
type options struct {
	binary string
	next   string // a newer labk, for the upgrade
	out    string
	runs   int
	quick  bool
	only   bool // the installation

	store   bool   // the datastore only
	parts   string // of it
	loads   int    // in a row
	server  string // more of the server's command line, for the datastore
	profile string // folder for profiles of the loads
}

func main() {
	err := lab.MaybeInit()
	if err == nil {
		err = run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	o := options{binary: os.Getenv("LABK_BINARY")}
	if o.binary == "" {
		o.binary = "dist/labk"
	}
	flag.StringVar(&o.next, "next", os.Getenv("LABK_NEXT"), "a newer labk, a `file` in the same folder, to measure an upgrade with")
	flag.IntVar(&o.runs, "runs", 3, "how often to repeat the start with a fresh data folder, and the restart")
	flag.BoolVar(&o.only, "install", false, "measure installation, upgrade and removal only")
	flag.BoolVar(&o.store, "store", false, "measure the datastore only")
	flag.StringVar(&o.parts, "parts", storeParts, "with -store: the `parts` to measure")
	flag.IntVar(&o.loads, "loads", 10, "with -store: how many loads in a row")
	flag.StringVar(&o.server, "server", "", "with -store: more `arguments` for the server, such as \"--datastore etcd\"")
	flag.StringVar(&o.profile, "profile", "", "with -store: write CPU profiles of the server into this `folder`")
	flag.BoolVar(&o.quick, "quick", false, "leave out the idle minutes and host-gw, and measure what needs several hosts once; with -store, only the loads")
	flag.StringVar(&o.out, "out", "dist/bench.json", "the `file` for the figures as JSON")
	flag.Parse()
	if o.runs < 1 || o.loads < 1 || flag.NArg() > 0 {
		return errors.New("usage: bench [-runs N] [-quick] [-install | -store [-parts PARTS] [-loads N] [-server ARGUMENTS] [-profile FOLDER]] [-next FILE] [-out FILE]")
	}
	if os.Geteuid() != 0 {
		return errors.New("not root: hosts are made of namespaces: run it with sudo")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := checkBinary(&o); err != nil {
		return err
	}
	machine, err := describeMachine(ctx, o.binary)
	if err != nil {
		return err
	}
	r := newReport(machine)
	r.head(os.Stdout)
	if err := measureAll(ctx, o, r); err != nil {
		return err
	}
	r.table(os.Stdout)
	return writeReport(o.out, r)
}

func checkBinary(o *options) error {
	path, err := filepath.Abs(o.binary)
	if err != nil {
		return err
	}
	if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not there: run make build, or set LABK_BINARY", path)
	}
	o.binary = path
	if o.next != "" {
		o.next, err = filepath.Abs(o.next)
	}
	return err
}

// measureAll fills the report. Each run is a new host, so a fresh data folder; the last one also tells what idling costs.
func measureAll(ctx context.Context, o options, r *report) error {
	if o.store {
		return measureStore(ctx, o, r)
	}
	for i := range o.runs {
		fmt.Fprintf(os.Stderr, "bench: installation %d of %d\n", i+1, o.runs)
		if err := measureInstallation(ctx, o, r); err != nil {
			return fmt.Errorf("installation %d: %w", i+1, err)
		}
	}
	if o.only {
		return nil
	}
	for i := range o.runs {
		fmt.Fprintf(os.Stderr, "bench: run %d of %d\n", i+1, o.runs)
		if err := measureRun(ctx, o, r, i == o.runs-1); err != nil {
			return fmt.Errorf("run %d: %w", i+1, err)
		}
	}
	if err := measureFleets(ctx, o, r); err != nil {
		return err
	}
	if err := measureStore(ctx, o, r); err != nil {
		return fmt.Errorf("datastore: %w", err)
	}
	size, err := gzippedSize(o.binary)
	if err != nil {
		return err
	}
	r.add(rowSize, sample{Value: float64(size) / 1e6})
	return nil
}

func writeReport(path string, r *report) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the figures: %w", err)
	}
	fmt.Println("written to", path)
	return nil
}
