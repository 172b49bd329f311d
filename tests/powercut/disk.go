package powercut

import (
	"io/fs"
	"math/rand/v2"
	"sync"
	"syscall"
)

// Names says what makes a name last.
type Names int

const (
	// ByFile is what the usual file systems (ext4, xfs, btrfs) do: a sync of a file is also one of its names.
	ByFile Names = iota
	// ByFolder is all that POSIX promises: a name lasts when its folder was synced.
	ByFolder
)

// Disk is a file system in memory whose power can be cut. Its methods may be used by several goroutines.
type Disk struct {
	names Names

	mu   sync.Mutex
	rand *rand.Rand
	// now is what programs see, kept what lasts; pending are the changes, in their order, that now has and kept does not.
	now, kept tree
	pending   []change
	next      uint64 // the next inode's number
	// steps counts what could change the disk; at the step cutAt it freezes and closes cut.
	steps, cutAt int
	cutAtSync    bool // or at the next sync
	cut          chan struct{}
	// frozen is true without power; steps wait then until the programs are killed, and thaw tells them.
	frozen, killed bool
	thaw           *sync.Cond
	fault          syscall.Errno
	syncs          int
}

// New returns an empty disk. The seed decides what a cut leaves.
func New(seed uint64, names Names) *Disk {
	root := newInode(fs.ModeDir | 0o755)
	root.links = 1
	d := &Disk{names: names, rand: rand.New(rand.NewPCG(seed, 0)), now: tree{rootID: root}, next: rootID + 1, cut: make(chan struct{})}
	d.thaw = sync.NewCond(&d.mu)
	d.kept = tree{rootID: newInode(root.mode)}
	d.kept[rootID].links = 1
	return d
}

// CutAt lets the power fail at the n-th step from now: a write, a sync, or a change of a name or a size. That step and whatever follows it never end;
// the channel is closed then, for the test to kill the programs. Call Killed and Cut afterwards.
func (d *Disk) CutAt(n int) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cutAt, d.cut = d.steps+n, make(chan struct{})
	return d.cut
}

// CutAtSync does the same at the next sync, when as much as there can be is written and does not last.
func (d *Disk) CutAtSync() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cutAtSync, d.cut = true, make(chan struct{})
	return d.cut
}

// Killed ends the waiting of programs that have been sent SIGKILL: they see no more of the answer.
func (d *Disk) Killed() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.killed = true
	d.thaw.Broadcast()
}

// Steps is how many steps there were, and Syncs how many of them were syncs.
func (d *Disk) Steps() int { d.mu.Lock(); defer d.mu.Unlock(); return d.steps }

// Syncs is how often a program asked for a file or folder to last.
func (d *Disk) Syncs() int { d.mu.Lock(); defer d.mu.Unlock(); return d.syncs }

// Fail lets each step end with an error: syscall.ENOSPC on a full disk, syscall.EROFS on one that is read-only, syscall.EIO on one that dies; 0 ends that. A full disk still syncs, and removes files;
// what a sync has failed to write is lost, though programs still see it, unless they write it again.
func (d *Disk) Fail(with syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fault = with
}

// step is called, locked, before anything that changes the disk.
func (d *Disk) step(frees bool) syscall.Errno {
	d.steps++
	if d.steps == d.cutAt {
		d.frozen = true
		close(d.cut)
	}
	for d.frozen && !d.killed {
		d.thaw.Wait()
	}
	switch {
	case d.frozen:
		return syscall.EIO
	case d.fault == syscall.ENOSPC && frees:
		return 0
	}
	return d.fault
}

// make makes a change of names or sizes.
func (d *Disk) make(c change) {
	c.apply(d.now)
	d.pending = append(d.pending, c)
}

// create makes a file or folder.
func (d *Disk) create(dir uint64, name string, mode fs.FileMode, uid, gid uint32) (uint64, syscall.Errno) {
	if errno := d.step(false); errno != 0 {
		return 0, errno
	}
	if _, ok := d.now[dir].entries[name]; ok {
		return 0, syscall.EEXIST
	}
	id := d.next
	d.next++
	d.make(change{kind: link, dir: dir, name: name, id: id, mode: mode})
	d.now[id].uid, d.now[id].gid = uid, gid
	return id, 0
}

func (d *Disk) link(id, dir uint64, name string) syscall.Errno {
	if errno := d.step(false); errno != 0 {
		return errno
	}
	if _, ok := d.now[dir].entries[name]; ok {
		return syscall.EEXIST
	}
	d.make(change{kind: link, dir: dir, name: name, id: id, mode: d.now[id].mode})
	return 0
}

// remove takes a name away, of a folder when folder is set.
func (d *Disk) remove(dir uint64, name string, folder bool) syscall.Errno {
	if errno := d.step(true); errno != 0 {
		return errno
	}
	id, ok := d.now[dir].entries[name]
	switch {
	case !ok:
		return syscall.ENOENT
	case folder && !d.now[id].mode.IsDir():
		return syscall.ENOTDIR
	case !folder && d.now[id].mode.IsDir():
		return syscall.EISDIR
	case len(d.now[id].entries) > 0:
		return syscall.ENOTEMPTY
	}
	d.make(change{kind: unlink, dir: dir, name: name, id: id})
	return 0
}

func (d *Disk) rename(dir uint64, name string, to uint64, toName string, keep bool) syscall.Errno {
	if errno := d.step(false); errno != 0 {
		return errno
	}
	id, ok := d.now[dir].entries[name]
	if !ok {
		return syscall.ENOENT
	}
	if old, ok := d.now[to].entries[toName]; ok {
		switch {
		case keep:
			return syscall.EEXIST
		case len(d.now[old].entries) > 0:
			return syscall.ENOTEMPTY
		case d.now[old].mode.IsDir() != d.now[id].mode.IsDir():
			return syscall.EEXIST
		}
	}
	d.make(change{kind: rename, dir: dir, name: name, to: to, toName: toName, id: id})
	return 0
}

func (d *Disk) write(id uint64, data []byte, at int64) syscall.Errno {
	if errno := d.step(false); errno != 0 {
		return errno
	}
	d.now[id].writeAt(data, at)
	return 0
}

// resize sets a file's size. Growing is like writing; shrinking is a change that can be lost by itself.
func (d *Disk) resize(id uint64, size int64) syscall.Errno {
	n := d.now[id]
	if errno := d.step(size < n.size); errno != 0 {
		return errno
	}
	if size < n.size {
		d.make(change{kind: truncate, id: id, size: size})
	}
	n.size = size
	return 0
}

// sync makes a file's content, or a folder's names, last.
func (d *Disk) sync(id uint64) syscall.Errno {
	n := d.now[id]
	if d.cutAtSync {
		d.cutAt, d.cutAtSync = d.steps+1, false
	}
	if errno := d.step(true); errno != 0 {
		if !d.frozen { // as Linux does: what could not be written counts as clean, and is never tried again
			clear(n.dirty)
		}
		return errno
	}
	d.syncs++
	last := -1
	for i, c := range d.pending {
		if c.concerns(id, d.names == ByFile) {
			last = i
		}
	}
	d.commit(last + 1)
	if n.mode.IsDir() {
		return 0
	}
	n.syncTo(d.kept.need(id, n.mode))
	for i := len(d.pending) - 1; i >= 0; i-- { // its truncations are in what was just kept
		if c := d.pending[i]; c.kind == truncate && c.id == id {
			d.pending = append(d.pending[:i:i], d.pending[i+1:]...)
		}
	}
	return 0
}

// commit makes the first n changes last.
func (d *Disk) commit(n int) {
	for _, c := range d.pending[:n] {
		c.apply(d.kept)
	}
	d.pending = d.pending[n:]
}
