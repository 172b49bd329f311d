package uninstall

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/labk/labk/pkg/paths"
)

// mount is a line of mountinfo.
type mount struct{ point, kind, options string }

// parseMounts reads mountinfo, in the order in which things were mounted.
func parseMounts(text string) (all []mount) {
	for line := range strings.Lines(text) {
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 {
			continue
		}
		all = append(all, mount{point: unescape(left[4]), kind: right[0], options: unescape(right[2])})
	}
	return all
}

// unescape undoes what the kernel does to white space in paths.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// mountsAt are the mount points at a folder and below, in the order in which they were mounted.
func mountsAt(dir string) (points []string, err error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for _, m := range parseMounts(string(text)) {
		if m.point == dir || strings.HasPrefix(m.point, dir+"/") {
			points = append(points, m.point)
		}
	}
	return points, nil
}

// fstab are the mount points that the PC's owner has set up.
func fstab() (points []string) {
	text, _ := os.ReadFile("/etc/fstab") // none: nothing set up
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 2 && !strings.HasPrefix(f[0], "#") {
			points = append(points, unescape(f[1]))
		}
	}
	return points
}

// unmount takes away what is mounted in labk's folders, and pods' network namespaces. What the owner has mounted there by /etc/fstab stays.
func (r *removal) unmount(context.Context) error {
	owners := fstab()
	done := 0
	var errs []error
	for _, dir := range append(ownData(r.site.data), paths.RunDir) {
		points, err := mountsAt(dir)
		if err != nil {
			return err
		}
		for _, point := range slices.Backward(points) {
			if slices.Contains(owners, point) {
				continue
			}
			if err := unmount(point); err != nil {
				errs = append(errs, err)
				continue
			}
			done++
		}
	}
	for _, point := range r.podNamespaces() {
		if err := unmount(point); err != nil {
			errs = append(errs, err)
			continue
		}
		_, err := removeFile(point)
		errs = append(errs, err)
		done++
	}
	if done > 0 {
		r.o.Say("unmounted %s", count(done, "mount"))
	}
	return errors.Join(errs...)
}

// unmount unmounts what was mounted last at the point; what is in use goes away with its last user.
func unmount(point string) error {
	err := unix.Unmount(point, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(point, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // not mounted any more
		return fmt.Errorf("unmount %s: %w", point, err)
	}
	return nil
}

// removeTree deletes a file or a folder with all in it, but never what is mounted there.
func removeTree(path string) error {
	points, err := mountsAt(filepath.Clean(path))
	if err != nil {
		return err
	}
	if len(points) > 0 {
		return fmt.Errorf("left: %s, as %s is mounted there: unmount it", path, strings.Join(points, ", "))
	}
	return os.RemoveAll(path)
}
