package process

import "time"

const (
	// tightPercent is GOGC while there is little to do: a little more of the processor, a good deal less of the memory.
	tightPercent = 50
	// lazyPercent is GOGC under load, where memory allows it. Collecting tightly takes a quarter of the processor then.
	lazyPercent = 200
	// busyWithin is how soon tight collections follow one another under load. At rest they are half a minute apart.
	busyWithin = 3 * time.Second
	// calmAfter is how long without a collection load is over.
	calmAfter = 15 * time.Second
)

// pace is how lazily garbage is collected.
type pace struct {
	room    uint64 // bytes of garbage that may lie about
	percent int    // GOGC
	last    time.Time
}

func newPace(room uint64) *pace { return &pace{room: room, percent: tightPercent} }

// collected decides after a collection, which left so many bytes alive, how lazy the next may be.
func (p *pace) collected(now time.Time, live uint64) (percent int, changed bool) {
	busy := p.percent != tightPercent || now.Sub(p.last) < busyWithin
	p.last = now
	if !busy {
		return p.percent, false
	}
	before := p.percent
	p.percent = p.lazy(live)
	return p.percent, p.percent != before
}

// lazy is the percentage for which there is room, in steps of ten: each change stops the program for a moment.
func (p *pace) lazy(live uint64) int {
	percent := min(lazyPercent, p.room*100/max(live, 1)) / 10 * 10
	return max(int(percent), tightPercent)
}
