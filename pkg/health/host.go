package health

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/version"
)

// Host is the machine as the probes see it. Tests replace any part of it; ThisHost fills it for real.
type Host struct {
	Config config.Config
	// Server tells that a control plane is to run here, Starting that it is about to: then a data folder in use is fatal.
	Server, Starting bool
	// Root is the folder that stands for "/" when looking at /proc, /sys, /etc and /run. The data folder is not below it.
	Root string
	// UID and PID are those of this process.
	UID, PID int
	Now      time.Time
	// Built is when this program was built; zero if nobody knows.
	Built time.Time
	// Version is this program's.
	Version string
	// Ports must be free.
	Ports []Port
	// Live is the labk that runs in this process; nil before a start and in a command.
	Live *Live

	// LookPath finds a program, as exec.LookPath does.
	LookPath func(name string) (string, error)
	// Command runs a program and returns what it printed; its error contains what it complained about.
	Command func(ctx context.Context, stdin, name string, args ...string) (string, error)
	// StatFS describes the file system of a path that exists.
	StatFS func(path string) (FileSystem, error)
	// WriteDisk writes 4 KiB to a file of the folder that nobody will ever see, and returns how long the disk took.
	WriteDisk func(dir string) (time.Duration, error)
}

// Live is what a running labk knows of itself. All functions return before ctx ends, and may be nil where there is no such thing.
type Live struct {
	// Address is that of this PC's node.
	Address netip.Addr
	// Server asks the server that an agent belongs to, and returns what its clock says.
	Server func(ctx context.Context) (time.Time, error)
	// API asks this server's own API, Kubelet the kubelet, Runtime containerd.
	API, Kubelet, Runtime func(ctx context.Context) error
	// Datastore asks the datastore, Room whether etcd takes writes, and Writes whether SQLite did the last time.
	Datastore, Room, Writes func(ctx context.Context) error
	// Slow names the components that have been starting for longer than StartLimit, and what they wait for.
	Slow func() []string
	// Snapshots tells how a server's snapshots stand.
	Snapshots func() Snapshots
}

// Snapshots is how snapshots of the cluster stand.
type Snapshots struct {
	// Error is why the last could not be made, CopyError why no other node has a copy of the newest; empty if all is well.
	Error, CopyError string
	// Overdue tells that one should have been made for more than an hour.
	Overdue bool
}

// Port is a TCP port that labk listens on.
type Port struct {
	Number int
	// Use is what listens on it, Address where (empty: everywhere).
	Use, Address string
	// Option is the flag that chooses another; empty if none does.
	Option string
}

// FileSystem is what labk wants to know about a mounted file system.
type FileSystem struct {
	// Type is statfs(2)'s magic number.
	Type int64
	// Size and Free are bytes; Free is what labk could use.
	Size, Free uint64
	// Files is how many files can exist, FreeFiles how many more; Files is 0 where there is no such limit.
	Files, FreeFiles uint64
}

// ThisHost is the machine that this process runs on. built may be zero.
func ThisHost(cfg config.Config, server bool, built time.Time) Host {
	h := Host{
		Config: cfg, Server: server, Root: "/", UID: os.Geteuid(), PID: os.Getpid(), Now: time.Now(), Built: built, Version: version.Version,
		LookPath: exec.LookPath, Command: command, StatFS: statFS, WriteDisk: tryWrite,
	}
	if server {
		h.Ports = append(h.Ports, Port{Number: cfg.HTTPSListenPort, Use: "API", Address: cfg.BindAddress, Option: "--https-listen-port"})
	}
	if h.Node() {
		h.Ports = append(h.Ports, Port{Number: 10250, Use: "kubelet"})
	}
	return h
}

// Node tells whether pods are to run here.
func (h Host) Node() bool { return !h.Server || !h.Config.DisableAgent }

func (h Host) data() paths.Data { return paths.Data(h.Config.DataDir) }

func (h Host) path(name string) string { return filepath.Join(h.Root, name) }

// read returns a file below Root.
func (h Host) read(name string) (string, error) {
	b, err := os.ReadFile(h.path(name))
	return string(b), err
}

// exists tells whether a file below Root is there.
func (h Host) exists(name string) bool {
	_, err := os.Stat(h.path(name))
	return err == nil
}

// fields splits a file below Root into lines and words. A file that cannot be read has none.
func (h Host) fields(name string) [][]string {
	text, err := h.read(name)
	if err != nil {
		return nil
	}
	var out [][]string
	for line := range strings.Lines(text) {
		out = append(out, strings.Fields(line))
	}
	return out
}

// commandLimit bounds every program that a probe runs.
const commandLimit = 5 * time.Second

func command(ctx context.Context, stdin, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if err != nil {
		complaint, _, _ := strings.Cut(strings.TrimSpace(stderr.String()), "\n")
		return stdout.String(), fmt.Errorf("%s: %w %s", filepath.Base(name), err, complaint)
	}
	return stdout.String(), nil
}

func statFS(path string) (FileSystem, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(path, &s); err != nil {
		return FileSystem{}, fmt.Errorf("ask for the file system of %s: %w", path, err)
	}
	block := uint64(s.Bsize)
	return FileSystem{
		Type: int64(s.Type), Size: s.Blocks * block, Free: s.Bavail * block, Files: s.Files, FreeFiles: s.Ffree,
	}, nil
}
