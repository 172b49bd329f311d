package powercut

import (
	"fmt"
	"maps"
	"slices"
)

// Loss says what a cut takes.
type Loss struct {
	// Written is the chance of a block that was not synced to be there nevertheless.
	Written float64
	// Torn is the chance of such a block to be there in part.
	Torn float64
	// Named lets a part of the changes of names and sizes be there that were not synced; otherwise none is.
	Named bool
}

// Two ways to lose power.
var (
	// All that was not synced is gone: a drive, or a kernel, that wrote nothing before it was told to.
	All = Loss{}
	// Some of it is there: half of the blocks, and a tenth in part.
	Some = Loss{Written: 0.5, Torn: 0.1, Named: true}
)

// Lost tells what a cut took.
type Lost struct{ Blocks, Torn, Names int }

func (l Lost) String() string {
	return fmt.Sprintf("%d blocks lost, %d torn, %d names and sizes back", l.Blocks, l.Torn, l.Names)
}

// Add adds what another cut took.
func (l *Lost) Add(other Lost) {
	l.Blocks, l.Torn, l.Names = l.Blocks+other.Blocks, l.Torn+other.Torn, l.Names+other.Names
}

// Cut takes away what does not last, and switches the disk on again. It must not be mounted.
func (d *Disk) Cut(loss Loss) Lost {
	d.mu.Lock()
	defer d.mu.Unlock()
	var lost Lost
	keep := 0
	if loss.Named {
		keep = d.rand.IntN(len(d.pending) + 1)
	}
	d.commit(keep)
	lost.Names = len(d.pending)
	d.pending = nil
	d.sweep()
	for _, id := range slices.Sorted(maps.Keys(d.kept)) {
		n := d.now[id]
		if n == nil { // it had lost its name, and that was lost
			continue
		}
		for _, i := range slices.Sorted(maps.Keys(n.dirty)) {
			lost.Add(d.settle(d.kept[id], i, n, loss))
		}
	}
	d.now = d.kept.clone()
	d.frozen, d.killed, d.cutAt, d.cutAtSync, d.fault = false, false, 0, false, 0
	return lost
}

// settle decides on one block that was not synced.
func (d *Disk) settle(kept *inode, i int64, n *inode, loss Loss) Lost {
	dice := d.rand.Float64()
	if dice >= loss.Written+loss.Torn {
		return Lost{Blocks: 1}
	}
	lost := Lost{}
	b := slices.Clone(n.blocks[i])
	if dice >= loss.Written {
		lost.Torn = 1
		old := kept.blocks[i]
		if old == nil {
			old = make([]byte, blockSize)
		}
		for at := 0; at < blockSize; at += sectorSize {
			if d.rand.IntN(2) == 0 {
				copy(b[at:at+sectorSize], old[at:])
			}
		}
	}
	kept.blocks[i] = b
	kept.size = max(kept.size, min(n.size, (i+1)*blockSize))
	return lost
}

// sweep removes what can no longer be reached from what lasts.
func (d *Disk) sweep() {
	seen := map[uint64]bool{}
	var walk func(id uint64)
	walk = func(id uint64) {
		seen[id] = true
		for _, child := range d.kept[id].entries {
			walk(child)
		}
	}
	walk(rootID)
	for id := range d.kept {
		if !seen[id] {
			delete(d.kept, id)
		}
	}
}

// Copy returns another disk with what lasts of this one.
func (d *Disk) Copy(seed uint64, names Names) *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	other := New(seed, names)
	other.now, other.kept, other.next = d.kept.clone(), d.kept.clone(), d.next
	return other
}

// clone copies a tree; the blocks are shared.
func (t tree) clone() tree {
	out := tree{}
	for id, n := range t {
		c := *n
		c.known, c.cut = 0, false
		if n.mode.IsDir() {
			c.entries = maps.Clone(n.entries)
		} else {
			c.blocks, c.dirty = maps.Clone(n.blocks), map[int64]bool{}
		}
		out[id] = &c
	}
	return out
}
