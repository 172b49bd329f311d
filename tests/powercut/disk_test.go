package powercut

import (
	"bytes"
	"fmt"
	"io/fs"
	"syscall"
	"testing"
)

// program uses a disk as the kernel would for it; each step must work.
type program struct {
	*testing.T
	*Disk
}

func (p program) ok(errno syscall.Errno) {
	p.Helper()
	if errno != 0 {
		p.Fatal(errno)
	}
}

func (p program) file(dir uint64, name string) uint64 {
	p.Helper()
	id, errno := p.create(dir, name, 0o600, 0, 0)
	p.ok(errno)
	return id
}

func (p program) folder(dir uint64, name string) uint64 {
	p.Helper()
	id, errno := p.create(dir, name, fs.ModeDir|0o700, 0, 0)
	p.ok(errno)
	return id
}

// content is what a file of the root holds, "-" when there is none.
func (p program) content(name string) string {
	id, ok := p.now[rootID].entries[name]
	if !ok {
		return "-"
	}
	buf := make([]byte, p.now[id].size)
	p.now[id].readAt(buf, 0)
	return string(buf)
}

// What a cut that takes all leaves.
func TestAllLost(t *testing.T) {
	for name, tc := range map[string]struct {
		names Names
		do    func(p program)
		want  map[string]string
	}{
		"never synced":             {ByFile, func(p program) { p.ok(p.write(p.file(rootID, "a"), []byte("x"), 0)) }, map[string]string{"a": "-"}},
		"synced":                   {ByFile, func(p program) { a := p.file(rootID, "a"); p.ok(p.write(a, []byte("x"), 0)); p.ok(p.sync(a)) }, map[string]string{"a": "x"}},
		"synced, its name was not": {ByFolder, func(p program) { a := p.file(rootID, "a"); p.ok(p.write(a, []byte("x"), 0)); p.ok(p.sync(a)) }, map[string]string{"a": "-"}},
		"synced after its name": {ByFolder, func(p program) {
			a := p.file(rootID, "a")
			p.ok(p.sync(rootID))
			p.ok(p.write(a, []byte("x"), 0))
			p.ok(p.sync(a))
		}, map[string]string{"a": "x"}},
		"a name is not a content": {ByFolder, func(p program) { a := p.file(rootID, "a"); p.ok(p.write(a, []byte("x"), 0)); p.ok(p.sync(rootID)) }, map[string]string{"a": ""}},
		"written again":           {ByFile, func(p program) { a := written(p, "a", "xy"); p.ok(p.write(a, []byte("z"), 1)) }, map[string]string{"a": "xy"}},
		"longer":                  {ByFile, func(p program) { a := written(p, "a", "xy"); p.ok(p.write(a, []byte("z"), 2)) }, map[string]string{"a": "xy"}},
		"truncated":               {ByFile, func(p program) { p.ok(p.resize(written(p, "a", "xy"), 0)) }, map[string]string{"a": "xy"}},
		"truncated and synced":    {ByFile, func(p program) { a := written(p, "a", "xy"); p.ok(p.resize(a, 1)); p.ok(p.sync(a)) }, map[string]string{"a": "x"}},
		"truncated, written, synced": {ByFolder, func(p program) {
			a := written(p, "a", "xyz")
			p.ok(p.resize(a, 1))
			p.ok(p.write(a, []byte("v"), 2))
			p.ok(p.sync(a))
			p.ok(p.sync(rootID))
		}, map[string]string{"a": "x\x00v"}},
		"removed":          {ByFile, func(p program) { written(p, "a", "x"); p.ok(p.remove(rootID, "a", false)) }, map[string]string{"a": "x"}},
		"removed for good": {ByFile, func(p program) { written(p, "a", "x"); p.ok(p.remove(rootID, "a", false)); p.ok(p.sync(rootID)) }, map[string]string{"a": "-"}},
		"renamed":          {ByFile, func(p program) { written(p, "a", "x"); p.ok(p.rename(rootID, "a", rootID, "b", false)) }, map[string]string{"a": "x", "b": "-"}},
		"renamed for good": {ByFolder, func(p program) {
			written(p, "a", "x")
			p.ok(p.rename(rootID, "a", rootID, "b", false))
			p.ok(p.sync(rootID))
		}, map[string]string{"a": "-", "b": "x"}},
		"renamed and the file synced": {ByFile, func(p program) {
			a := written(p, "a", "x")
			p.ok(p.rename(rootID, "a", rootID, "b", false))
			p.ok(p.sync(a))
		}, map[string]string{"a": "-", "b": "x"}},
		"another's sync takes along": {ByFile, func(p program) { p.file(rootID, "a"); written(p, "b", "x") }, map[string]string{"a": "", "b": "x"}},
		"but not what came after it": {ByFile, func(p program) { written(p, "b", "x"); p.file(rootID, "a") }, map[string]string{"a": "-", "b": "x"}},
		"replaced": {ByFile, func(p program) {
			written(p, "a", "old")
			written(p, "b", "new")
			p.ok(p.rename(rootID, "b", rootID, "a", false))
		}, map[string]string{"a": "old", "b": "new"}},
		"replaced for good": {ByFile, func(p program) {
			written(p, "a", "old")
			written(p, "b", "new")
			p.ok(p.rename(rootID, "b", rootID, "a", false))
			p.ok(p.sync(rootID))
		}, map[string]string{"a": "new", "b": "-"}},
		"linked": {ByFile, func(p program) {
			a := written(p, "a", "x")
			p.ok(p.link(a, rootID, "b"))
			p.ok(p.sync(rootID))
			p.ok(p.remove(rootID, "a", false))
			p.ok(p.sync(rootID))
		}, map[string]string{"a": "-", "b": "x"}},
		"the block another tree has": {ByFile, func(p program) { a := written(p, "a", "xyz"); p.ok(p.resize(a, 2)); p.ok(p.resize(a, 3)) }, map[string]string{"a": "xyz"}},
		"folders in folders": {ByFolder, func(p program) {
			b := p.file(p.folder(rootID, "d"), "b")
			p.ok(p.sync(p.now[rootID].entries["d"]))
			p.ok(p.link(b, rootID, "a"))
			p.ok(p.sync(rootID))
		}, map[string]string{"a": ""}},
	} {
		t.Run(name, func(t *testing.T) {
			p := program{t, New(1, tc.names)}
			tc.do(p)
			p.Cut(All)
			for name, want := range tc.want {
				if got := p.content(name); got != want {
					t.Errorf("%s holds %q, want %q", name, got, want)
				}
			}
		})
	}
}

func written(p program, name, text string) uint64 {
	p.Helper()
	id := p.file(rootID, name)
	p.ok(p.write(id, []byte(text), 0))
	p.ok(p.sync(id))
	p.ok(p.sync(rootID))
	return id
}

// Some blocks of a file that was not synced are there, some are not, some are torn at sectors; never is there anything else.
func TestSomeLost(t *testing.T) {
	const blocks = 400
	p := program{t, New(7, ByFile)}
	a := p.file(rootID, "a")
	p.ok(p.write(a, bytes.Repeat([]byte("o"), blocks*blockSize), 0))
	p.ok(p.sync(a))
	p.ok(p.write(a, bytes.Repeat([]byte("n"), blocks*blockSize), 0))
	lost := p.Cut(Some)
	var old, fresh, torn int
	for i := range blocks {
		block := p.content("a")[i*blockSize:][:blockSize]
		sectors := map[string]int{}
		for at := 0; at < blockSize; at += sectorSize {
			sectors[block[at:at+sectorSize]]++
		}
		o, n := sectors[string(bytes.Repeat([]byte("o"), sectorSize))], sectors[string(bytes.Repeat([]byte("n"), sectorSize))]
		switch {
		case o+n != blockSize/sectorSize:
			t.Fatalf("block %d holds what nobody wrote", i)
		case n == 0:
			old++
		case o == 0:
			fresh++
		default:
			torn++
		}
	}
	if old < blocks/4 || fresh < blocks/4 || torn < blocks/40 || lost.Blocks != old && lost.Torn < torn {
		t.Errorf("%d old, %d new, %d torn blocks; %v", old, fresh, torn, lost)
	}
}

// Names get lost in order: what is left is how the folder looked at some time.
func TestNamesInOrder(t *testing.T) {
	const files = 20
	left := map[int]bool{}
	for seed := range uint64(200) {
		p := program{t, New(seed, ByFile)}
		for i := range files {
			p.file(rootID, fmt.Sprint(i))
		}
		p.Cut(Some)
		n := len(p.now[rootID].entries)
		left[n] = true
		for i := range n {
			if p.content(fmt.Sprint(i)) == "-" {
				t.Fatalf("seed %d: %d files are left, and not %d", seed, n, i)
			}
		}
	}
	if len(left) != files+1 {
		t.Errorf("of %d files were left, over all seeds: %v", files, left)
	}
}

// The same seed leaves the same.
func TestSeed(t *testing.T) {
	once := func(seed uint64) string {
		p := program{t, New(seed, ByFile)}
		for i := range 50 {
			p.ok(p.write(p.file(rootID, fmt.Sprint(i)), []byte("x"), int64(i*blockSize)))
		}
		return fmt.Sprint(p.Cut(Some), p.content("3"), p.content("30"))
	}
	if first, again, other := once(1), once(1), once(2); first != again || first == other {
		t.Errorf("seed 1: %q, again %q; seed 2: %q", first, again, other)
	}
}

func TestCutAt(t *testing.T) {
	for name, arm := range map[string]func(p program) <-chan struct{}{
		"the second step": func(p program) <-chan struct{} { return p.CutAt(2) },
		"a sync":          func(p program) <-chan struct{} { return p.CutAtSync() },
	} {
		t.Run(name, func(t *testing.T) { cutAtSecond(t, arm) })
	}
}

// cutAtSecond does a write and a sync: the cut is to come with the latter.
func cutAtSecond(t *testing.T, arm func(p program) <-chan struct{}) {
	p := program{t, New(1, ByFile)}
	a := written(p, "a", "x")
	cut := arm(p)
	p.ok(p.write(a, []byte("y"), 0))
	select {
	case <-cut:
		t.Fatal("cut a step early")
	default:
	}
	ended := make(chan syscall.Errno, 1)
	go func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		ended <- p.sync(a)
	}()
	<-cut
	select {
	case errno := <-ended:
		t.Errorf("the step of the cut ends before its program: %v", errno)
	default:
	}
	p.Killed()
	if errno := <-ended; errno != syscall.EIO {
		t.Errorf("the step of the cut: %v", errno)
	}
	if errno := p.sync(a); errno != syscall.EIO {
		t.Errorf("the step after the cut: %v", errno)
	}
	p.Cut(All)
	if got := p.content("a"); got != "x" {
		t.Errorf("a holds %q", got)
	}
	p.ok(p.sync(a)) // it works again
}

func TestFail(t *testing.T) {
	p := program{t, New(1, ByFile)}
	a := written(p, "a", "x")
	p.Fail(syscall.ENOSPC)
	if errno := p.write(a, []byte("y"), 0); errno != syscall.ENOSPC {
		t.Errorf("write on a full disk: %v", errno)
	}
	p.ok(p.sync(a))
	p.ok(p.remove(rootID, "a", false))
	p.Fail(syscall.EROFS)
	if errno := p.remove(rootID, "a", false); errno != syscall.EROFS {
		t.Errorf("remove on a read-only disk: %v", errno)
	}
	p.Fail(0)
	b := written(p, "b", "x")
	p.ok(p.write(b, []byte("y"), 0))
	p.Fail(syscall.EIO)
	if errno := p.sync(b); errno != syscall.EIO {
		t.Errorf("sync on a disk that dies: %v", errno)
	}
	p.Fail(0)
	p.ok(p.sync(b))
	if seen := p.content("b"); seen != "y" {
		t.Errorf("b holds %q", seen)
	}
	p.Cut(All)
	if left := p.content("b"); left != "x" {
		t.Errorf("b holds %q after a failed sync and one that did not try again", left)
	}
}
