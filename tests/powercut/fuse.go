package powercut

import (
	"io/fs"
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// cached is how long the kernel may believe what it was told: nobody else changes the disk.
const cached = time.Hour

// server answers the kernel's requests. A node's number is its inode's, a folder's handle the number of its list of names.
type server struct {
	fuse.RawFileSystem
	*Disk
	lists map[uint64][]fuse.DirEntry // locked by Disk
	list  uint64
}

func (s *server) String() string { return "powercut" }

// entry tells the kernel of an inode.
func (s *server) entry(id uint64, out *fuse.EntryOut) {
	s.now[id].known++
	out.NodeId = id
	out.SetEntryTimeout(cached)
	out.SetAttrTimeout(cached)
	s.attributes(id, &out.Attr)
}

func (s *server) attributes(id uint64, out *fuse.Attr) {
	n := s.now[id]
	out.Ino, out.Size, out.Blocks = id, uint64(n.size), uint64(len(n.blocks))*(blockSize/512)
	out.SetTimes(&n.changed, &n.changed, &n.changed)
	out.Nlink, out.Mode = uint32(n.links), syscall.S_IFREG|uint32(n.mode.Perm())
	if n.mode.IsDir() {
		out.Nlink, out.Mode = 2, syscall.S_IFDIR|uint32(n.mode.Perm())
	}
	out.Uid, out.Gid, out.Blksize = n.uid, n.gid, blockSize
}

func (s *server) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, ok := s.now[h.NodeId].entries[name]
	if !ok {
		return fuse.ENOENT
	}
	s.entry(id, out)
	return fuse.OK
}

func (s *server) Forget(id, times uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.now[id]; n != nil {
		n.known -= min(n.known, times)
		s.now.forget(id)
	}
}

func (s *server) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attributes(in.NodeId, &out.Attr)
	out.SetTimeout(cached)
	return fuse.OK
}

func (s *server) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	if size, ok := in.GetSize(); ok {
		if errno := s.resize(in.NodeId, int64(size)); errno != 0 {
			return fuse.Status(errno)
		}
	}
	for _, n := range []*inode{s.now[in.NodeId], s.kept[in.NodeId]} { // these last at once
		if n == nil {
			continue
		}
		if mode, ok := in.GetMode(); ok {
			n.mode = n.mode.Type() | fs.FileMode(mode).Perm()
		}
		if uid, ok := in.GetUID(); ok {
			n.uid = uid
		}
		if gid, ok := in.GetGID(); ok {
			n.gid = gid
		}
		if at, ok := in.GetMTime(); ok {
			n.changed = at
		}
	}
	s.attributes(in.NodeId, &out.Attr)
	out.SetTimeout(cached)
	return fuse.OK
}

// add makes a file or folder and tells of it.
func (s *server) add(h *fuse.InHeader, name string, mode fs.FileMode, out *fuse.EntryOut) fuse.Status {
	id, errno := s.create(h.NodeId, name, mode, h.Uid, h.Gid)
	if errno == 0 {
		s.entry(id, out)
	}
	return fuse.Status(errno)
}

func (s *server) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	return s.add(&in.InHeader, name, fs.FileMode(in.Mode).Perm(), &out.EntryOut)
}

func (s *server) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.add(&in.InHeader, name, fs.ModeDir|fs.FileMode(in.Mode).Perm(), out)
}

func (s *server) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	errno := s.link(in.Oldnodeid, in.NodeId, name)
	if errno == 0 {
		s.entry(in.Oldnodeid, out)
	}
	return fuse.Status(errno)
}

func (s *server) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fuse.Status(s.remove(h.NodeId, name, false))
}

func (s *server) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fuse.Status(s.remove(h.NodeId, name, true))
}

// noReplace is the flag of renameat2 for a new name that must be free; it has no others here.
const noReplace = 1

func (s *server) Rename(_ <-chan struct{}, in *fuse.RenameIn, name, toName string) fuse.Status {
	if in.Flags&^noReplace != 0 {
		return fuse.EINVAL
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return fuse.Status(s.rename(in.NodeId, name, in.Newdir, toName, in.Flags&noReplace != 0))
}

func (s *server) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE // so that what is mapped and what is read are the same pages
	return fuse.OK
}

func (s *server) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fuse.ReadResultData(buf[:s.now[in.NodeId].readAt(buf, int64(in.Offset))]), fuse.OK
}

func (s *server) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if errno := s.write(in.NodeId, data, int64(in.Offset)); errno != 0 {
		return 0, fuse.Status(errno)
	}
	return uint32(len(data)), fuse.OK
}

// Fallocate can only make room: there always is some.
func (s *server) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	const keepSize = 1
	switch end := int64(in.Offset + in.Length); {
	case in.Mode&^keepSize != 0:
		return fuse.Status(syscall.EOPNOTSUPP)
	case in.Mode == 0 && end > s.now[in.NodeId].size:
		return fuse.Status(s.resize(in.NodeId, end))
	}
	return fuse.OK
}

func (s *server) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fuse.Status(s.sync(in.NodeId))
}

func (s *server) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fuse.Status(s.sync(in.NodeId))
}

// Flush is asked for at each close, which makes nothing last.
func (s *server) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.OK }

func (s *server) Release(<-chan struct{}, *fuse.ReleaseIn) {}

// OpenDir remembers the names of the moment, so that reading them is not disturbed by removing them.
func (s *server) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []fuse.DirEntry{{Name: ".", Mode: syscall.S_IFDIR}, {Name: "..", Mode: syscall.S_IFDIR}}
	entries := s.now[in.NodeId].entries
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		kind := uint32(syscall.S_IFREG)
		if s.now[entries[name]].mode.IsDir() {
			kind = syscall.S_IFDIR
		}
		list = append(list, fuse.DirEntry{Name: name, Mode: kind, Ino: entries[name]})
	}
	s.list++
	out.Fh, s.lists[s.list] = s.list, list
	return fuse.OK
}

func (s *server) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.lists[in.Fh]
	for i := in.Offset; i < uint64(len(list)); i++ {
		e := list[i]
		e.Off = i + 1
		if !out.AddDirEntry(e) {
			break
		}
	}
	return fuse.OK
}

func (s *server) ReleaseDir(in *fuse.ReleaseIn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.lists, in.Fh)
}

// StatFs tells of a disk with much room.
func (s *server) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	const blocks, files = 64 << 30 / blockSize, 1 << 20
	*out = fuse.StatfsOut{Blocks: blocks, Bfree: blocks, Bavail: blocks, Files: files, Ffree: files, Bsize: blockSize, Frsize: blockSize, NameLen: 255}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fault == syscall.ENOSPC {
		out.Bfree, out.Bavail = 0, 0
	}
	return fuse.OK
}
