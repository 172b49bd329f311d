package powercut

import (
	"io/fs"
	"maps"
	"slices"
	"time"
)

// The sizes of what a disk writes at once, in bytes: a file system's block, and what a drive never tears.
const (
	blockSize  = 4096
	sectorSize = 512
)

const rootID = 1

// inode is a file or a folder.
type inode struct {
	mode     fs.FileMode
	uid, gid uint32
	changed  time.Time
	links    int
	// entries are a folder's names.
	entries map[string]uint64
	// blocks of a file; one that is not there is all zeros. A block may belong to both trees: it is copied before it is written to, see dirty.
	blocks map[int64][]byte
	size   int64 // bytes
	// dirty are the blocks that were written since the last sync: they belong to this inode alone. Used in the tree that programs see.
	dirty map[int64]bool
	// cut tells that blocks were taken away since the last sync.
	cut bool
	// known is how often the kernel has been told of the inode and may still use it.
	known uint64
}

// tree is all that a disk holds, by number.
type tree map[uint64]*inode

func newInode(mode fs.FileMode) *inode {
	n := &inode{mode: mode, changed: time.Now()}
	if mode.IsDir() {
		n.entries = map[string]uint64{}
	} else {
		n.blocks, n.dirty = map[int64][]byte{}, map[int64]bool{}
	}
	return n
}

// need returns an inode, which is made when it is not there: a file may have been synced before its name was.
func (t tree) need(id uint64, mode fs.FileMode) *inode {
	n := t[id]
	if n == nil {
		n = newInode(mode)
		t[id] = n
	}
	return n
}

// readAt fills buf and returns how much of it lies within the file.
func (n *inode) readAt(buf []byte, at int64) int {
	if at >= n.size {
		return 0
	}
	buf = buf[:min(int64(len(buf)), n.size-at)]
	for done := 0; done < len(buf); {
		i, from := (at+int64(done))/blockSize, (at+int64(done))%blockSize
		part := buf[done:min(len(buf), done+int(blockSize-from))]
		if b := n.blocks[i]; b != nil {
			copy(part, b[from:])
		} else {
			clear(part)
		}
		done += len(part)
	}
	return len(buf)
}

// writeAt writes, and makes the file longer when needed.
func (n *inode) writeAt(data []byte, at int64) {
	for done := 0; done < len(data); {
		i, from := (at+int64(done))/blockSize, (at+int64(done))%blockSize
		done += copy(n.own(i)[from:], data[done:])
	}
	n.size = max(n.size, at+int64(len(data)))
	n.changed = time.Now()
}

// own returns a block to write to, which nobody else has.
func (n *inode) own(i int64) []byte {
	if !n.dirty[i] {
		b := make([]byte, blockSize)
		copy(b, n.blocks[i])
		n.blocks[i], n.dirty[i] = b, true
	}
	return n.blocks[i]
}

// truncate makes a file shorter.
func (n *inode) truncate(size int64) {
	for i := range n.blocks {
		if i*blockSize >= size {
			delete(n.blocks, i)
			delete(n.dirty, i)
		}
	}
	if last, rest := size/blockSize, size%blockSize; rest != 0 && n.blocks[last] != nil {
		b := slices.Clone(n.blocks[last]) // the other tree may have it, too
		clear(b[rest:])
		n.blocks[last] = b
	}
	n.size, n.cut = size, true
}

// syncTo makes the file's content last in kept.
func (n *inode) syncTo(kept *inode) {
	if n.cut {
		kept.blocks = maps.Clone(n.blocks)
	} else {
		for i := range n.dirty {
			kept.blocks[i] = n.blocks[i]
		}
	}
	kept.size, n.cut = n.size, false
	clear(n.dirty)
}

// change is one change of names, or of a size for the worse. The same change is made to the tree that programs see at once, and to the one that lasts later.
type change struct {
	kind kind
	// dir and name are the place, to and toName the other place of a rename.
	dir, to      uint64
	name, toName string
	// id is the inode in question, mode what is made.
	id   uint64
	mode fs.FileMode
	size int64
}

type kind string

const (
	link     kind = "link" // also makes what has a name for the first time
	unlink   kind = "unlink"
	rename   kind = "rename"
	truncate kind = "truncate"
)

// concerns tells whether a sync of the inode has to wait for the change: of its own names when names is set, and of what is in it.
func (c change) concerns(id uint64, names bool) bool {
	return c.dir == id || c.to == id || names && c.id == id
}

func (c change) apply(t tree) {
	switch c.kind {
	case link:
		t.need(c.id, c.mode).links++
		t[c.dir].entries[c.name] = c.id
	case unlink:
		t.drop(c.dir, c.name)
	case rename:
		if replaced, ok := t[c.to].entries[c.toName]; !ok || replaced != c.id {
			t.drop(c.to, c.toName)
			delete(t[c.dir].entries, c.name)
			t[c.to].entries[c.toName] = c.id
		}
	case truncate:
		n := t.need(c.id, 0)
		n.truncate(c.size)
	}
}

// drop takes a name away, if it is there.
func (t tree) drop(dir uint64, name string) {
	id, ok := t[dir].entries[name]
	if !ok {
		return
	}
	delete(t[dir].entries, name)
	t[id].links--
	t.forget(id)
}

// forget frees what has no name and is not open.
func (t tree) forget(id uint64) {
	if n := t[id]; n != nil && n.links <= 0 && n.known == 0 && id != rootID {
		delete(t, id)
	}
}
