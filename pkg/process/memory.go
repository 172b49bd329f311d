package process

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// startLimit is how large the heap may grow before it is collected while starting. A start takes about 300 MB.
	startLimit = 512 << 20
	// settle is how long after a start the process has done what a start brings with it.
	settle = 20 * time.Second
)

// saveTime lets the garbage collector rest: while starting, the process allocates much that it keeps, and nearly every collection would be in vain. That
// saves a tenth of the CPU time to the first pod.
func saveTime() {
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(startLimit)
}

// saveSpace returns to tight collection, and gives back to the kernel what only starting took: now the heap, and when things have settled, once more the heap
// and the pages of the program itself. From then on collection is tight while there is little to do and lazy under load, until ctx ends.
func saveSpace(ctx context.Context) {
	debug.SetMemoryLimit(math.MaxInt64)
	p := newPace(room())
	tighten(p)
	collected := make(chan struct{}, 1)
	onCollection(func() bool {
		select {
		case collected <- struct{}{}:
		default: // the last one has not been looked at
		}
		return ctx.Err() == nil
	})
	settled, calm := time.After(settle), time.NewTimer(calmAfter)
	defer calm.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-settled:
			debug.FreeOSMemory()
			_ = forgetProgram() // nothing is lost when this fails: the pages stay
		case <-collected:
			if percent, changed := p.collected(time.Now(), liveHeap()); changed {
				debug.SetGCPercent(percent)
			}
			calm.Reset(calmAfter)
		case <-calm.C:
			if p.percent != tightPercent {
				tighten(p)
			}
		}
	}
}

// tighten gives the memory back that load took.
func tighten(p *pace) {
	p.percent = tightPercent
	debug.SetGCPercent(p.percent)
	debug.FreeOSMemory()
}

// onCollection calls f after each collection of garbage from now on, until it returns false.
func onCollection(f func() bool) {
	again := func(struct{}) {
		if f() {
			onCollection(f)
		}
	}
	runtime.AddCleanup(new([64]byte), again, struct{}{})
}

// liveHeap is what the last collection left, in bytes.
func liveHeap() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return sample[0].Value.Uint64()
}

// room is how much garbage may lie about under load, in bytes: a sixteenth of the machine's memory.
func room() uint64 {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0
	}
	return uint64(info.Totalram) * uint64(info.Unit) / 16
}

// forgetProgram unmaps the read-only pages of the program's file from this process. They stay in the kernel's cache and come back at the first touch; but
// of 150 MB that starting touches, mostly initialisation, the running process needs a third.
func forgetProgram() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var from, to uintptr
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err != nil {
			return err
		}
		// Never a writable mapping: what was written there would be lost.
		if !strings.HasSuffix(lines.Text(), " "+program) || strings.Contains(mode, "w") {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
			return errno
		}
	}
	return nil
}
