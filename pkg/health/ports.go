package health

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/labk/labk/pkg/lockfile"
)

func portProbes() []Probe {
	return []Probe{{Fault: Fault{
		Code: "LABK030", Title: "ports", Severity: Fatal,
		Cause:  "Another program listens on a port that labk needs: often another Kubernetes on this machine.",
		Remedy: "stop the program that has the port",
	}, look: lookPorts}}
}

func lookPorts(_ context.Context, h Host) finding {
	listeners := append(h.listeners("proc/net/tcp"), h.listeners("proc/net/tcp6")...)
	var taken, free, remedies []string
	for _, p := range h.Ports {
		free = append(free, fmt.Sprintf("%d (%s)", p.Number, p.Use))
		l, ok := conflict(p, listeners)
		if !ok {
			continue
		}
		if h.ours(l) {
			continue
		}
		owner := h.owner(l.inode)
		taken = append(taken, fmt.Sprintf("port %d for the %s is taken by %s", p.Number, p.Use, owner))
		remedy := "stop " + owner.stop()
		if p.Option != "" {
			remedy += " or choose another port with " + p.Option
		}
		remedies = append(remedies, remedy)
	}
	if len(taken) == 0 {
		return pass("%s", strings.Join(free, ", "))
	}
	return fail("%s", strings.Join(taken, "; ")).do("%s", strings.Join(remedies, "; "))
}

// ours tells whether the labk that uses the data folder listens there. A labk that is about to start has no use for such a
// port; but then the folder is in use, and that is the fault to show. It is asked for first: for a moment, a program that labk is starting has the port open, too.
func (h Host) ours(l listener) bool {
	holder, held, err := lockfile.Holder(h.data().Lock())
	return err == nil && held && holder > 0 && h.hasOpen(holder, socket(l.inode))
}

type listener struct {
	address netip.AddrPort
	inode   string
}

// conflict finds a listener that keeps p from being listened on.
func conflict(p Port, listeners []listener) (listener, bool) {
	want, err := netip.ParseAddr(p.Address)
	anywhere := err != nil || want.IsUnspecified()
	for _, l := range listeners {
		has := l.address.Addr().Unmap()
		if int(l.address.Port()) == p.Number && (anywhere || has.IsUnspecified() || has == want.Unmap()) {
			return l, true
		}
	}
	return listener{}, false
}

// listeners are the listening sockets of a kernel table: "sl local_address rem_address st ... inode", state 0A.
func (h Host) listeners(name string) []listener {
	var out []listener
	for _, f := range h.fields(name) {
		if len(f) < 10 || f[3] != "0A" {
			continue
		}
		if address, err := parseKernelAddress(f[1]); err == nil {
			out = append(out, listener{address: address, inode: f[9]})
		}
	}
	return out
}

// parseKernelAddress reads "0100007F:192B": 32-bit words in the machine's byte order, then the port.
func parseKernelAddress(text string) (netip.AddrPort, error) {
	words, port, _ := strings.Cut(text, ":")
	b, err := hex.DecodeString(words)
	if err != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, fmt.Errorf("read the address %q of a socket", text)
	}
	for i := 0; i < len(b); i += 4 {
		binary.BigEndian.PutUint32(b[i:], binary.NativeEndian.Uint32(b[i:]))
	}
	address, ok := netip.AddrFromSlice(b)
	number, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil {
		return netip.AddrPort{}, fmt.Errorf("read the address %q of a socket", text)
	}
	return netip.AddrPortFrom(address, uint16(number)), nil
}

// socket is what the link of an open socket says.
func socket(inode string) string { return "socket:[" + inode + "]" }

// process is a running program; the zero process is one that cannot be seen from here.
type process struct {
	pid  int
	name string
}

func (p process) String() string {
	if p.pid == 0 {
		return "a process that cannot be seen from here"
	}
	return fmt.Sprintf("%s (pid %d)", p.name, p.pid)
}

func (p process) stop() string {
	if p.pid == 0 {
		return "it (on the machine that this container or namespace is on)"
	}
	return p.name
}

// owner finds a process that has a socket open.
func (h Host) owner(inode string) process {
	want := socket(inode)
	entries, err := os.ReadDir(h.path("proc"))
	if err != nil {
		return process{}
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err == nil && h.hasOpen(pid, want) {
			name, _ := h.read(filepath.Join("proc", e.Name(), "comm"))
			return process{pid: pid, name: strings.TrimSpace(name)}
		}
	}
	return process{}
}

func (h Host) hasOpen(pid int, want string) bool {
	folder := h.path(filepath.Join("proc", strconv.Itoa(pid), "fd"))
	files, err := os.ReadDir(folder)
	if err != nil {
		return false // it has just ended, or is another user's
	}
	for _, f := range files {
		if target, err := os.Readlink(filepath.Join(folder, f.Name())); err == nil && target == want {
			return true
		}
	}
	return false
}
