package cluster

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/labk/labk/tests/powercut"
)

// Mount mounts a disk at a folder of the node's host, which is made. It is there until it is closed, or the host is killed.
func (n *Node) Mount(t testing.TB, disk *powercut.Disk, folder string) *powercut.Mount {
	t.Helper()
	n.Sh(t, "mkdir -p "+folder)
	root, err := n.Host.Path("/") // /proc/PID/root
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.Split(root, "/")[2])
	if err != nil {
		t.Fatal(fmt.Errorf("find the host's process in %s: %w", root, err))
	}
	mount, err := disk.Mount(folder, pid)
	if err != nil {
		t.Fatal(err)
	}
	return mount
}
