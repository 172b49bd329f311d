package main

import (
	"maps"
	"testing"
	"time"
)

func TestCountSyncs(t *testing.T) {
	const trace = `101 fdatasync(17</var/lib/labk/server/db/state.db-wal>) = 0
102 fsync(9</var/lib/labk/.run-12345678> <unfinished ...>
101 fdatasync(17</var/lib/labk/server/db/state.db-wal>) = 0
102 <... fsync resumed>)        = 0
103 --- SIGURG {si_signo=SIGURG} ---
`
	got := countSyncs(trace)
	want := map[string]int{"/var/lib/labk/server/db/state.db-wal": 2, "/var/lib/labk/.run-N": 1}
	if !maps.Equal(got, want) || sum(got) != 3 {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := counted(got); got != "2 /var/lib/labk/server/db/state.db-wal, 1 /var/lib/labk/.run-N" {
		t.Errorf("got %q", got)
	}
}

func TestOutcomeShare(t *testing.T) {
	var o outcome
	for i := range 100 {
		o.sorted = append(o.sorted, time.Duration(i+1)*time.Millisecond)
	}
	for part, want := range map[float64]float64{0.5: 51, 0.99: 100, 1: 100} {
		if got := o.share(part); got != want {
			t.Errorf("share %v: got %v ms, want %v", part, got, want)
		}
	}
}
