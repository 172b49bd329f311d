package sqlite

import (
	"math"
	"sort"

	"github.com/k3s-io/kine/pkg/server"
	"github.com/tidwall/btree"
)

// version is one state of a key.
type version struct {
	mod, created int64 // revisions
	count        int64 // how often the key was written since it was created
	lease        int64 // seconds, 0 for none
	bytes        int64 // of key and value
	deleted      bool
	// kv has the value too, while the version is among the recent ones. Nil: the value is in the file only.
	kv *server.KeyValue
}

// entry is a key with those of its versions that are not compacted, oldest first. There is at least one.
type entry struct {
	key      string
	versions []version
}

// newest is the state of the key now.
func (e *entry) newest() *version { return &e.versions[len(e.versions)-1] }

// at is the state of the key at a revision, nil if it was not there.
func (e *entry) at(revision int64) *version {
	for i := len(e.versions) - 1; i >= 0; i-- {
		if v := &e.versions[i]; v.mod <= revision {
			if v.deleted {
				return nil
			}
			return v
		}
	}
	return nil
}

// find is the version of a revision.
func (e *entry) find(mod int64) *version {
	i := sort.Search(len(e.versions), func(i int) bool { return e.versions[i].mod >= mod })
	if i < len(e.versions) && e.versions[i].mod == mod {
		return &e.versions[i]
	}
	return nil
}

// drop forgets the oldest version.
func (e *entry) drop() {
	e.versions[0] = version{} // and its value
	e.versions = e.versions[1:]
}

// superseded is a version that a compaction at a revision or later removes.
type superseded struct {
	entry *entry
	mod   int64
	by    int64
	bytes int64
}

// index is what the log says: which keys there are, and in which row of the file each of their versions is. It is not safe for concurrent use.
type index struct {
	keys *btree.BTreeG[*entry]
	// revision is the last one, compacted the last one of which only the newest versions are kept.
	revision, compacted int64
	// history has the versions that are not the newest, and the deletions, by the revision that a compaction needs to reach to remove them.
	history []superseded
	// live and old are the bytes of the newest versions, and those in history.
	live, old int64
}

func newIndex() *index {
	return &index{
		keys:     btree.NewBTreeGOptions(func(a, b *entry) bool { return a.key < b.key }, btree.Options{NoLocks: true}),
		revision: 1, // as etcd begins
	}
}

// entry is that of a key, nil if there is none.
func (x *index) entry(key string) *entry {
	e, _ := x.keys.Get(&entry{key: key})
	return e
}

// newest is the state of a key now, nil if there is none or it was deleted.
func (x *index) newest(key string) *version {
	if e := x.entry(key); e != nil && !e.newest().deleted {
		return e.newest()
	}
	return nil
}

// add appends a version of a key. Its revision is greater than all before.
func (x *index) add(key string, v version) {
	e := x.entry(key)
	if e == nil {
		e = &entry{key: key}
		x.keys.Set(e)
	} else if last := e.newest(); !last.deleted {
		x.history = append(x.history, superseded{entry: e, mod: last.mod, by: v.mod, bytes: last.bytes})
		x.live -= last.bytes
		x.old += last.bytes
	}
	e.versions = append(e.versions, v)
	if v.deleted {
		x.history = append(x.history, superseded{entry: e, mod: v.mod, by: v.mod, bytes: v.bytes})
		x.old += v.bytes
	} else {
		x.live += v.bytes
	}
	x.revision = max(x.revision, v.mod)
}

// removable are at most n of the versions that the compaction has reached.
func (x *index) removable(n int) []superseded {
	reached := sort.Search(len(x.history), func(i int) bool { return x.history[i].by > x.compacted })
	return x.history[:min(n, reached)]
}

// remove forgets the first n of the history. Of each key they are the oldest versions, in their order.
func (x *index) remove(n int) {
	for i := range x.history[:n] {
		h := &x.history[i]
		x.old -= h.bytes
		if h.entry.drop(); len(h.entry.versions) == 0 {
			x.keys.Delete(h.entry)
		}
		*h = superseded{}
	}
	x.history = x.history[n:]
}

// scan calls each with the keys from key to end, which is not included, and their state at a revision, until it returns false. An empty end means key alone, "\x00" all that follow; an empty key with
// an empty end means all.
func (x *index) scan(key, end string, revision int64, each func(key string, v *version) bool) {
	if end == "" && key != "" {
		if e := x.entry(key); e != nil {
			if v := e.at(revision); v != nil {
				each(key, v)
			}
		}
		return
	}
	x.keys.Ascend(&entry{key: key}, func(e *entry) bool {
		if end != "" && end != "\x00" && e.key >= end {
			return false
		}
		if v := e.at(revision); v != nil {
			return each(e.key, v)
		}
		return true
	})
}

// check says whether the state at a revision can be told; 0 means now.
func (x *index) check(revision int64) error {
	switch {
	case revision > x.revision:
		return server.ErrFutureRev
	case revision != 0 && revision < x.compacted:
		return server.ErrCompacted
	}
	return nil
}

// now is what 0 as a revision means in a scan.
func now(revision int64) int64 {
	if revision == 0 {
		return math.MaxInt64
	}
	return revision
}
