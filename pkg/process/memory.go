package process

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// startLimit is how large the heap may grow before it is collected while starting. A start takes about 300 MB.
	startLimit = 512 << 20
	// runningPercent is GOGC from then on: a little more of the processor, a good deal less of the memory.
	runningPercent = 50
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
// and the pages of the program itself. It returns when that is done or ctx ends.
func saveSpace(ctx context.Context) {
	debug.SetGCPercent(runningPercent)
	debug.SetMemoryLimit(1<<63 - 1)
	debug.FreeOSMemory()
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return
	}
	debug.FreeOSMemory()
	// Nothing is lost when this fails: the pages stay.
	_ = forgetProgram()
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
