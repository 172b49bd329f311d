package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/labk/labk/pkg/lab"
)

// meter reads what a host uses, through the host's own /sys and /proc.
type meter struct {
	cgroup, proc string
	v2           bool
}

func newMeter(h *lab.Host) (*meter, error) {
	cgroup, err := h.Path("/sys/fs/cgroup")
	if err != nil {
		return nil, err
	}
	proc, err := h.Path("/proc")
	if err != nil {
		return nil, err
	}
	_, err = os.Stat(filepath.Join(cgroup, "cgroup.controllers"))
	return &meter{cgroup: cgroup, proc: proc, v2: err == nil}, nil
}

// reading is a moment: CPU seconds used so far by the host, by this program and by the whole machine.
type reading struct{ host, own, machine float64 }

// read fails only when the host has gone.
func (m *meter) read() (r reading, err error) {
	busy, _, err := cpuTicks()
	if err != nil {
		return r, err
	}
	r.machine = float64(busy) / ticks
	var own unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &own); err != nil {
		return r, err
	}
	r.own = time.Duration(own.Utime.Nano() + own.Stime.Nano()).Seconds()
	r.host, err = m.hostCPU()
	return r, err
}

func (m *meter) hostCPU() (float64, error) {
	if !m.v2 {
		text, err := os.ReadFile(filepath.Join(m.cgroup, "cpuacct", "cpuacct.usage"))
		if err != nil {
			return 0, fmt.Errorf("read the host's CPU time: %w", err)
		}
		ns, err := strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
		return ns / 1e9, err
	}
	text, err := os.ReadFile(filepath.Join(m.cgroup, "cpu.stat"))
	if err != nil {
		return 0, fmt.Errorf("read the host's CPU time: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "usage_usec "); ok {
			us, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			return us / 1e6, err
		}
	}
	return 0, errors.New("read the host's CPU time: cpu.stat has no usage_usec")
}

// since turns two moments and a value into a sample.
func (r reading) since(before reading, value float64) sample {
	host := r.host - before.host
	own := r.own - before.own
	return sample{Value: value, CPU: host, Bench: own, Others: max(r.machine-before.machine-host-own, 0)}
}

// memory is a sum over processes, in MB (2^20 bytes).
type memory struct{ rss, pss, anon, labk float64 }

// memory adds up all processes of the host but for its init and init's sleep; labk is the pid of labk's own, in this /proc.
func (m *meter) memory(labk int) (sum memory, err error) {
	entries, err := os.ReadDir(m.proc)
	if err != nil {
		return sum, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == 1 {
			continue
		}
		dir := filepath.Join(m.proc, e.Name())
		line, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || strings.HasPrefix(string(line), "sleep\x00") {
			continue // it has just ended, or is init's
		}
		status := fields(filepath.Join(dir, "status"))
		sum.rss += status["VmRSS"]
		sum.anon += status["RssAnon"]
		sum.pss += fields(filepath.Join(dir, "smaps_rollup"))["Pss"]
	}
	sum.labk = fields(fmt.Sprintf("/proc/%d/status", labk))["VmRSS"]
	return sum, nil
}

// fields reads the lines "Name: number kB" of a file, in MB. A process that has just ended has none.
func fields(path string) map[string]float64 {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	out := map[string]float64{}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) == 3 && words[2] == "kB" {
			if kb, err := strconv.ParseFloat(words[1], 64); err == nil {
				out[strings.TrimSuffix(words[0], ":")] = kb / 1024
			}
		}
	}
	return out
}
