package process

import (
	"runtime"
	"testing"
	"time"
)

func TestPace(t *testing.T) {
	const mb = 1 << 20
	for name, c := range map[string]struct {
		room    uint64
		live    []uint64        // after each collection
		between []time.Duration // before each
		want    []int
	}{
		"at rest":              {4096 * mb, []uint64{100 * mb, 100 * mb}, []time.Duration{time.Hour, 30 * time.Second}, []int{50, 50}},
		"load":                 {4096 * mb, []uint64{100 * mb, 100 * mb, 100 * mb}, []time.Duration{time.Hour, time.Second, 10 * time.Second}, []int{50, 200, 200}},
		"load on a small PC":   {128 * mb, []uint64{100 * mb, 100 * mb}, []time.Duration{time.Hour, time.Second}, []int{50, 120}},
		"load with no room":    {16 * mb, []uint64{100 * mb, 100 * mb}, []time.Duration{time.Hour, time.Second}, []int{50, 50}},
		"a heap that grows":    {300 * mb, []uint64{100 * mb, 100 * mb, 200 * mb, 400 * mb}, []time.Duration{time.Hour, time.Second, time.Second, time.Second}, []int{50, 200, 150, 70}},
		"unknown live heap":    {300 * mb, []uint64{0, 0}, []time.Duration{time.Hour, time.Second}, []int{50, 200}},
		"unknown memory":       {0, []uint64{100 * mb, 100 * mb}, []time.Duration{time.Hour, time.Second}, []int{50, 50}},
		"just not load enough": {4096 * mb, []uint64{100 * mb, 100 * mb}, []time.Duration{time.Hour, busyWithin}, []int{50, 50}},
	} {
		t.Run(name, func(t *testing.T) {
			p, now, before := newPace(c.room), time.Now(), tightPercent
			for i, live := range c.live {
				now = now.Add(c.between[i])
				got, changed := p.collected(now, live)
				if got != c.want[i] || changed != (got != before) {
					t.Errorf("collection %d: got %d %%, changed %v; want %d", i+1, got, changed, c.want[i])
				}
				before = got
			}
		})
	}
}

func TestOnCollection(t *testing.T) {
	seen, end := make(chan struct{}), make(chan bool)
	onCollection(func() bool { seen <- struct{}{}; return <-end })
	for i, last := range []bool{false, false, true} {
		awaitCollection(t, i+1, seen)
		end <- !last
	}
	runtime.GC()
	runtime.GC()
	select {
	case <-seen:
		t.Error("it was told after its end")
	case <-time.After(100 * time.Millisecond):
	}
}

// awaitCollection collects until it is seen: it is waited for anew only some time after the last one.
func awaitCollection(t *testing.T, n int, seen <-chan struct{}) {
	t.Helper()
	for limit := time.After(10 * time.Second); ; {
		runtime.GC()
		select {
		case <-seen:
			return
		case <-limit:
			t.Fatalf("collection %d was not told of", n)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestLiveHeapAndRoomAreKnown(t *testing.T) {
	runtime.GC()
	if liveHeap() == 0 || room() == 0 {
		t.Errorf("live heap %d, room %d", liveHeap(), room())
	}
}
