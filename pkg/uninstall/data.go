package uninstall

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/payload/manifest"
)

// ownData are the files and folders that labk made in the data folder, in the order in which they are removed. Somebody else may use the same folder, such as the top of a disk, and
// have a folder "data" or "server" there too: so each is looked for by name, and only where something is that labk alone makes.
func ownData(data paths.Data) (own []string) {
	own = ownPayloads(data)
	for _, part := range []struct{ marks, names []string }{
		{ // what tells that labk ran goes last: until then the uninstallation can be repeated
			marks: []string{data.Database(), filepath.Join(data.ServerTLS(), "*-ca.*"), data.Token()},
			names: []string{filepath.Dir(data.Database()), data.Migrated("sqlite", "*"), data.Etcd(), data.Migrated("etcd", "*"), data.Next(), data.Moving(),
				data.DatabaseFolder() + ".damaged-*", data.DatabaseFolder() + ".replaced-*", data.Etcd() + ".damaged-*", data.Etcd() + ".replaced-*", data.RestoreMaking(), data.Restore(), temporary(data.Restored()), data.Restored(),
				data.Snapshots(), filepath.Join(data.Server(), ".dump-*"), data.ServerEtc(), temporary(data.Token()), data.Token(), data.ServerTLS()},
		},
		{
			marks: []string{filepath.Join(data.Containerd(), "io.containerd.*"), filepath.Join(data.Kubelet(), "pods"), filepath.Join(data.AgentTLS(), "*.crt"), data.ClusterOptions()},
			names: []string{data.Containerd(), data.Kubelet(), data.Copies(), filepath.Dir(data.ClusterOptions()), temporary(data.UpgradeRequest()), data.UpgradeRequest(), data.AgentTLS()},
		},
	} {
		if len(present(part.marks...)) > 0 {
			own = append(own, present(part.names...)...)
		}
	}
	if len(own) > 0 || exists(data.LastRun()) {
		own = append(own, present(data.Version(), temporary(data.Version()), data.Lock(), data.LastRun(), temporary(data.LastRun()))...)
	}
	return own
}

// ownPayloads are the folders of unpacked programs and what leads to the one in use.
func ownPayloads(data paths.Data) (own []string) {
	for _, path := range present(filepath.Join(data.Payload(), "*")) {
		if manifest.IsHash(filepath.Base(path)) {
			own = append(own, path)
		}
	}
	return append(own, present(filepath.Join(data.Payload(), ".unpack-*"), filepath.Dir(data.PayloadBin()))...)
}

// temporary is the pattern of what paths.WriteFile leaves when the power is cut.
func temporary(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".*")
}

// present are the files and folders whose last part fits, in folders without links, as the kernel names them where something is mounted.
func present(patterns ...string) (all []string) {
	for _, pattern := range patterns {
		dir, err := filepath.EvalSymlinks(filepath.Dir(pattern))
		if err != nil {
			continue // none
		}
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if ok, _ := filepath.Match(filepath.Base(pattern), e.Name()); ok { // the patterns are right
				all = append(all, filepath.Join(dir, e.Name()))
			}
		}
	}
	return all
}

// removeData deletes what labk made in the data folder, and the folder if nothing else is in it.
func (r *removal) removeData() error {
	data := r.site.data
	if !exists(string(data)) {
		return r.removeDataLink()
	}
	for _, path := range ownData(data) {
		if err := removeTree(path); err != nil {
			return err // what tells that labk ran is still there
		}
	}
	removeEmpty(data.Payload(), filepath.Dir(data.ServerTLS()), filepath.Dir(data.AgentTLS()))
	err := os.Remove(string(data))
	entries, _ := os.ReadDir(string(data))
	switch {
	case err == nil:
		r.o.Say("removed %s", data)
		return r.removeDataLink()
	case len(entries) > 0:
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		r.o.Say("emptied %s of what labk made; left, as it did not make them: %s", data, strings.Join(names, ", "))
		return nil
	case errors.Is(err, unix.EBUSY):
		r.o.Say("emptied %s, where a file system is mounted", data)
		return r.removeDataLink()
	}
	return fmt.Errorf("remove the data folder: %w", err)
}

func (r *removal) removeDataLink() error {
	if r.site.dataLink == "" {
		return nil
	}
	_, err := removeFile(r.site.dataLink)
	return err
}
