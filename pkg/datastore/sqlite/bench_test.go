package sqlite

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
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
