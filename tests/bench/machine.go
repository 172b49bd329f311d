package main

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ticks is the kernel's unit in /proc/stat: 1/100 s on every architecture that labk runs on.
const ticks = 100

// machine is where the figures were taken.
type machine struct {
	Date     string  `json:"date"`
	Version  string  `json:"labk"`
	CPU      string  `json:"cpu"`
	Cores    int     `json:"cores"`
	MemoryGB float64 `json:"memoryGB"`
	Kernel   string  `json:"kernel"`
	Cgroup   int     `json:"cgroup"`
	Load     load    `json:"load"`
}

// load is how busy the machine is.
type load struct {
	// Average is the load average over one minute; Busy the share of all cores that was busy over two seconds, 0 to 1.
	Average float64 `json:"average"`
	Busy    float64 `json:"busy"`
}

func (l load) String() string {
	return fmt.Sprintf("load %.2f, cores %.0f %% busy", l.Average, l.Busy*100)
}

func describeMachine(ctx context.Context, binary string) (machine, error) {
	m := machine{Date: time.Now().UTC().Format("2006-01-02 15:04 UTC"), Cores: runtime.NumCPU(), CPU: cpuModel(), Cgroup: 1}
	out, err := exec.CommandContext(ctx, binary, "version").Output()
	if err != nil {
		return m, fmt.Errorf("ask %s for its version: %w", binary, err)
	}
	m.Version = strings.TrimPrefix(strings.TrimSpace(string(out)), "labk ")
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return m, err
	}
	m.MemoryGB = float64(info.Totalram) * float64(info.Unit) / (1 << 30)
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return m, err
	}
	m.Kernel = strings.TrimSpace(string(kernel))
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		m.Cgroup = 2
	}
	m.Load, err = measureLoad(ctx)
	return m, err
}

func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(text)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	return runtime.GOARCH
}

// measureLoad takes two seconds.
func measureLoad(ctx context.Context) (load, error) {
	before, all, err := cpuTicks()
	if err != nil {
		return load{}, err
	}
	if err := pause(ctx, 2*time.Second); err != nil {
		return load{}, err
	}
	after, allAfter, err := cpuTicks()
	if err != nil {
		return load{}, err
	}
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return load{}, err
	}
	average, err := strconv.ParseFloat(strings.Fields(string(text))[0], 64)
	return load{Average: average, Busy: float64(after-before) / float64(max(allAfter-all, 1))}, err
}

// cpuTicks is how long the machine's cores have been busy, and all there was.
func cpuTicks() (busy, all uint64, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	return parseStat(string(text))
}

func parseStat(text string) (busy, all uint64, err error) {
	line, _, _ := strings.Cut(text, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return 0, 0, fmt.Errorf("read /proc/stat: unexpected line %q", line)
	}
	for i, f := range fields[1:9] { // what follows, guest time, is in user time already
		n, err := strconv.ParseUint(f, 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("read /proc/stat: %w", err)
		}
		all += n
		if i != 3 && i != 4 { // idle and waiting for disks
			busy += n
		}
	}
	return busy, all, nil
}

func gzippedSize(path string) (int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	var size counter
	z, err := gzip.NewWriterLevel(&size, gzip.BestCompression)
	if err != nil {
		return 0, err
	}
	if _, err := io.Copy(z, file); err != nil {
		return 0, err
	}
	return int64(size), z.Close()
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// pause waits, or returns why ctx ended.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
