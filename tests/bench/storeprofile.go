package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// profileFor is how long each profile is taken, in seconds.
const profileFor = 12

// writeProfiles writes a CPU profile of the server for each kind of work into a folder: NAME.pprof. The server must allow it (--kube-apiserver-arg profiling=true).
func (s *store) writeProfiles(ctx context.Context, folder string) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	kept := s.all.maps("kept", loadObjects)
	if _, err := s.all.each(ctx, loadObjects, kept.create); err != nil {
		return err
	}
	turn := 0
	works := map[string]func() error{
		"creations": func() error {
			turn++
			m := s.all.maps(fmt.Sprintf("profile-%d", turn), loadObjects)
			for _, do := range []func(*caller, int) error{m.create, m.delete} {
				if _, err := s.all.each(ctx, loadObjects, do); err != nil {
					return err
				}
			}
			return nil
		},
		"updates": func() error { _, err := s.all.each(ctx, loadObjects, kept.update); return err },
		"gets":    func() error { _, err := s.all.each(ctx, loadReads, kept.read); return err },
		"lists": func() error {
			_, err := s.all.one().each(ctx, lists, func(c *caller, _ int) error { return c.list(s.all.folder, "") })
			return err
		},
	}
	for name, work := range works {
		if err := s.writeProfile(ctx, filepath.Join(folder, name+".pprof"), work); err != nil {
			return fmt.Errorf("profile of %s: %w", name, err)
		}
	}
	return nil
}

// writeProfile repeats the work while a profile is taken.
func (s *store) writeProfile(ctx context.Context, file string, work func() error) error {
	type answer struct {
		data []byte
		err  error
	}
	taken := make(chan answer, 1)
	go func() {
		data, err := s.observer.client.CoreV1().RESTClient().Get().AbsPath("/debug/pprof/profile").
			Param("seconds", fmt.Sprint(profileFor)).Timeout(2 * profileFor * time.Second).DoRaw(ctx)
		taken <- answer{data, err}
	}()
	for {
		select {
		case a := <-taken:
			if a.err != nil {
				return a.err
			}
			return os.WriteFile(file, a.data, 0o644)
		default:
			if err := work(); err != nil {
				return err
			}
		}
	}
}
