package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// syncCalls are the system calls that put something on the disk.
const syncCalls = "fsync,fdatasync,sync_file_range,syncfs,sync,msync"

// measureSyncs counts what labk puts on its disk in a minute in which nobody asks for anything, by file, and beside it what was written to the
// datastore in that minute, by kind.
func (s *store) measureSyncs(ctx context.Context) error {
	tracer, err := exec.LookPath("strace")
	if err != nil {
		s.bench.report.remark("fsyncs when idle: not measured, as there is no strace (make deps)")
		return nil
	}
	if err := pause(ctx, lull); err != nil {
		return err
	}
	file := s.log + ".strace"
	trace := exec.CommandContext(ctx, tracer, "-f", "-y", "-qq", "-e", "trace="+syncCalls, "-o", file, "-p", fmt.Sprint(s.cmd.Process.Pid))
	trace.Cancel = func() error { return trace.Process.Signal(syscall.SIGINT) } // it lets go of labk
	if err := trace.Start(); err != nil {
		return err
	}
	watch, end := context.WithTimeout(ctx, idleFor)
	defer end()
	writes, err := s.watchWrites(watch)
	if err == nil {
		<-watch.Done()
		err = context.Cause(ctx)
	}
	if stopErr := trace.Process.Signal(syscall.SIGINT); stopErr != nil {
		return stopErr
	}
	_ = trace.Wait() // it ends by the signal
	if err != nil {
		return err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	syncs := countSyncs(string(text))
	s.bench.report.add(rowSyncs, sample{Value: float64(sum(syncs)) / idleFor.Seconds()})
	s.bench.report.remark("fsyncs in an idle minute: " + counted(syncs))
	written := writes()
	s.bench.report.add(rowWrites, sample{Value: float64(sum(written)) / idleFor.Seconds()})
	s.bench.report.remark("writes to the datastore meanwhile: " + counted(written))
	return nil
}

// watchWrites counts what changes in the datastore until ctx ends, by the folder of its key.
func (s *store) watchWrites(ctx context.Context) (func() map[string]int, error) {
	client, err := s.datastore()
	if err != nil {
		return nil, err
	}
	counts, done := map[string]int{}, make(chan struct{})
	changes := client.Watch(ctx, "/", clientv3.WithPrefix())
	go func() {
		defer close(done)
		defer client.Close()
		for c := range changes {
			for _, e := range c.Events {
				counts[strings.TrimPrefix(filepath.Dir(string(e.Kv.Key)), "/registry/")]++
			}
		}
	}()
	return func() map[string]int { <-done; return counts }, nil
}

// syncCall is a line such as: 123 fdatasync(17</var/lib/labk/server/db/state.db-wal>) = 0
var syncCall = regexp.MustCompile(`(?m)^\d+ +(\w+)\((?:\d+<([^>]*)>)?`)

// countSyncs counts the calls of a trace by file.
func countSyncs(trace string) map[string]int {
	out := map[string]int{}
	for _, m := range syncCall.FindAllStringSubmatch(trace, -1) {
		if !slices.Contains(strings.Split(syncCalls, ","), m[1]) {
			continue // the rest of a call that another thread interrupted
		}
		out[shortened(m[2])]++
	}
	return out
}

var changing = regexp.MustCompile(`[0-9a-f]{8,}|\d+`)

// shortened makes one name of those that differ only in numbers.
func shortened(path string) string { return changing.ReplaceAllString(path, "N") }

func sum(counts map[string]int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}

// counted is "12 name, 3 another", the most first.
func counted(counts map[string]int) string {
	names := make([]string, 0, len(counts))
	for name := range counts {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if counts[a] != counts[b] {
			return counts[b] - counts[a]
		}
		return strings.Compare(a, b)
	})
	for i, name := range names {
		names[i] = fmt.Sprintf("%d %s", counts[name], name)
	}
	return strings.Join(names, ", ")
}
