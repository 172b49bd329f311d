package sqlite

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// BenchmarkCreate has 16 clients that create objects of 900 bytes, as the API server writes a ConfigMap of 512.
func BenchmarkCreate(b *testing.B) {
	s, err := Open(b.Context(), Options{Path: b.TempDir() + "/state.db"})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	value := make([]byte, 900)
	var n atomic.Int64
	var wg sync.WaitGroup
	b.ResetTimer()
	for range 16 {
		wg.Go(func() {
			for {
				i := n.Add(1)
				if i > int64(b.N) {
					return
				}
				if _, err := s.Create(b.Context(), fmt.Sprintf("/registry/configmaps/bench/object-%d", i), value, 0); err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkTidying has one client that writes while all of 50,000 objects are removed from the file, and their pages given back: max-ms is the longest that a write took.
func BenchmarkTidying(b *testing.B) {
	s, err := Open(b.Context(), Options{Path: b.TempDir() + "/state.db"})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	value := make([]byte, 900)
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			for i := w; i < 50_000; i += 16 {
				key := fmt.Sprint("/registry/configmaps/bench/object-", i)
				revision, err := s.Create(b.Context(), key, value, 0)
				if err == nil {
					_, _, _, err = s.Delete(b.Context(), key, revision)
				}
				if err != nil {
					b.Error(err)
				}
			}
		})
	}
	wg.Wait()
	revision, err := s.Create(b.Context(), "/one", value, 0)
	if err != nil {
		b.Fatal(err)
	}
	if _, err := s.Compact(b.Context(), revision); err != nil {
		b.Fatal(err)
	}
	var longest time.Duration
	b.ResetTimer()
	for range b.N {
		began := time.Now()
		if revision, _, _, err = s.Update(b.Context(), "/one", value, revision, 0); err != nil {
			b.Fatal(err)
		}
		longest = max(longest, time.Since(began))
	}
	b.ReportMetric(float64(longest.Microseconds())/1000, "max-ms")
}
