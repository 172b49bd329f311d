package policy

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/fsnotify/fsnotify"
	"k8s.io/apimachinery/pkg/types"
)

// addresses knows which addresses this node has given to pods. The kubelet tells the API an address only when the pod's containers run
// already. But as soon as CNI plugins have plugged a pod in, the CNI library notes the result in a file, before the first container is made: these files
// are what is watched here. One that cannot be read counts for nothing; the API tells the address later.
type addresses struct {
	folder  string
	changed func()

	mu    sync.Mutex
	files map[string]attachment // by path
	count int                   // of files noted so far
}

// attachment is what is read of a file.
type attachment struct {
	pod   types.NamespacedName
	addrs []netip.Addr
	order int // later is more
}

func newAddresses(folder string, changed func()) *addresses {
	return &addresses{folder: folder, changed: changed, files: map[string]attachment{}}
}

// run watches the folder until ctx ends.
func (a *addresses) run(ctx context.Context) error {
	if err := os.MkdirAll(a.folder, 0o700); err != nil {
		return fmt.Errorf("make the folder of CNI results: %w", err)
	}
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch the folder of CNI results: %w", err)
	}
	defer watcher.Close()
	if err := watcher.Add(a.folder); err != nil {
		return fmt.Errorf("watch the folder of CNI results %s: %w", a.folder, err)
	}
	if err := a.readAll(); err != nil {
		return err
	}
	for {
		select {
		case e := <-watcher.Events:
			a.read(e.Name)
		case <-watcher.Errors: // an overflow: events have been lost
			if err := a.readAll(); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// readAll reads every file, also those that were there before, the oldest first: of two that tell the same address the newer is right.
func (a *addresses) readAll() error {
	entries, err := os.ReadDir(a.folder)
	if err != nil {
		return fmt.Errorf("read the folder of CNI results: %w", err)
	}
	modified := map[string]int64{}
	a.mu.Lock()
	for file := range a.files {
		modified[file] = 0
	}
	a.mu.Unlock()
	for _, e := range entries {
		if info, err := e.Info(); err == nil {
			modified[filepath.Join(a.folder, e.Name())] = info.ModTime().UnixNano()
		}
	}
	for _, file := range slices.SortedFunc(maps.Keys(modified), func(x, y string) int { return int(modified[x] - modified[y]) }) {
		a.read(file)
	}
	return nil
}

// read notes what a file says now. A file that has only been begun is read again when there is more.
func (a *addresses) read(file string) {
	now, ok := readAttachment(file)
	a.mu.Lock()
	old, known := a.files[file]
	switch {
	case ok && !(known && now.pod == old.pod && slices.Equal(now.addrs, old.addrs)):
		a.count++
		now.order = a.count
		a.files[file] = now
	case !ok && known:
		delete(a.files, file)
	default:
		a.mu.Unlock()
		return
	}
	a.mu.Unlock()
	a.changed()
}

// all returns the pods by address.
func (a *addresses) all() map[netip.Addr]types.NamespacedName {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[netip.Addr]types.NamespacedName{}
	for _, at := range slices.SortedFunc(maps.Values(a.files), func(x, y attachment) int { return x.order - y.order }) {
		for _, addr := range at.addrs {
			out[addr] = at.pod
		}
	}
	return out
}

// readAttachment reads a file of the CNI library.
func readAttachment(file string) (attachment, bool) {
	var cached struct {
		Args   [][2]string `json:"cniArgs"`
		Result struct {
			IPs []struct {
				Address string `json:"address"`
			} `json:"ips"`
		} `json:"result"`
	}
	data, err := os.ReadFile(file)
	if err != nil || json.Unmarshal(data, &cached) != nil {
		return attachment{}, false
	}
	var out attachment
	for _, arg := range cached.Args {
		switch arg[0] {
		case "K8S_POD_NAMESPACE":
			out.pod.Namespace = arg[1]
		case "K8S_POD_NAME":
			out.pod.Name = arg[1]
		}
	}
	for _, ip := range cached.Result.IPs {
		if p, err := netip.ParsePrefix(ip.Address); err == nil {
			out.addrs = append(out.addrs, p.Addr())
		}
	}
	return out, out.pod.Name != "" && len(out.addrs) > 0
}
