package uninstall

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/labk/labk/pkg/paths"
)

const (
	namespaces   = "/run/netns"
	flannelLink  = "flannel.1"
	flannelOther = "/run/flannel/subnet.env" // written by everybody's flannel but labk's
)

// attachment is what the CNI library notes of a pod's network.
type attachment struct {
	file        string
	ContainerID string `json:"containerId"`
	NetNS       string `json:"netns"`
	Result      struct {
		Interfaces []struct {
			Name    string `json:"name"`
			Sandbox string `json:"sandbox"`
		} `json:"interfaces"`
	} `json:"result"`
}

// attachments are those to labk's network.
func attachments() (all []attachment) {
	files, _ := filepath.Glob(filepath.Join(paths.CNIResults, "labk-*")) // the pattern is right
	for _, file := range files {
		a := attachment{file: file}
		if text, err := os.ReadFile(file); err == nil {
			_ = json.Unmarshal(text, &a) // half a note is removed all the same
		}
		all = append(all, a)
	}
	return all
}

// podNamespaces are the mount points of the network namespaces of labk's pods: those that are noted and, unless another node runs here, those with a pod's address.
func (r *removal) podNamespaces() (points []string) {
	for _, a := range attachments() {
		if point := filepath.Join(namespaces, filepath.Base(a.NetNS)); a.NetNS != "" && exists(point) {
			points = append(points, point)
		}
	}
	if len(r.others) > 0 {
		return points
	}
	files, _ := filepath.Glob(filepath.Join(namespaces, "cni-*"))
	for _, file := range files {
		if !slices.Contains(points, file) && r.hasPodAddress(file) {
			points = append(points, file)
		}
	}
	return points
}

// hasPodAddress tells whether an interface in the network namespace has an address of labk's pods.
func (r *removal) hasPodAddress(file string) bool {
	ns, err := netns.GetFromPath(file)
	if err != nil {
		return false
	}
	defer ns.Close()
	h, err := netlink.NewHandleAt(ns)
	if err != nil {
		return false
	}
	defer h.Close()
	addrs, _ := h.AddrList(nil, netlink.FAMILY_V4)
	return slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return within(r.site.pods, a.IP) })
}

func within(prefix netip.Prefix, ip net.IP) bool {
	addr, ok := netip.AddrFromSlice(ip.To4())
	return ok && prefix.Contains(addr)
}

// removeNetworks deletes interfaces, those of pods and the one to other nodes, and routes.
func (r *removal) removeNetworks(context.Context) error {
	links, err := list(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list the network interfaces: %w", err)
	}
	noted := map[string]bool{}
	for _, a := range attachments() {
		for _, i := range a.Result.Interfaces {
			noted[i.Name] = noted[i.Name] || i.Sandbox == ""
		}
	}
	var errs []error
	var removed []string
	for _, l := range links {
		if !r.ours(l, noted) {
			continue
		}
		// A pod's goes away by itself a moment after its network namespace.
		if err := netlink.LinkDel(l); err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) && !isGone(l) {
			errs = append(errs, fmt.Errorf("delete the interface %s: %w", l.Attrs().Name, err))
			continue
		}
		removed = append(removed, l.Attrs().Name)
	}
	if len(removed) > 0 {
		r.o.Say("removed the interfaces %s", strings.Join(removed, ", "))
	}
	return errors.Join(append(errs, r.removeRoutes())...)
}

// list asks again when things changed meanwhile: pods' interfaces are just going away.
func list[T any](ask func() ([]T, error)) (all []T, err error) {
	for range 20 {
		if all, err = ask(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return all, err
}

func isGone(l netlink.Link) bool {
	_, err := netlink.LinkByIndex(l.Attrs().Index)
	return err != nil
}

// ours tells whether labk made the interface: the vxlan to other nodes, or the host's end of a pod's.
func (r *removal) ours(l netlink.Link, noted map[string]bool) bool {
	addrs, _ := list(func() ([]netlink.Addr, error) { return netlink.AddrList(l, netlink.FAMILY_V4) }) // it may have gone
	address := slices.ContainsFunc(addrs, func(a netlink.Addr) bool {
		ones, bits := a.Mask.Size()
		return ones == bits && within(r.site.pods, a.IP)
	})
	switch name := l.Attrs().Name; {
	case l.Type() == "veth" && name != "":
		return noted[name] || address && len(r.others) == 0
	case l.Type() == "vxlan" && name == flannelLink:
		return address && len(r.others) == 0 && !exists(flannelOther)
	}
	return false
}

// removeRoutes deletes routes to other nodes' pods (host-gw) and to the services' addresses.
func (r *removal) removeRoutes() error {
	routes, err := list(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("list the routes: %w", err)
	}
	var errs []error
	for _, route := range routes {
		if route.Dst == nil || len(r.others) > 0 {
			continue
		}
		ones, _ := route.Dst.Mask.Size()
		toPods := r.site.backend == "host-gw" && route.Gw != nil && r.site.pods.IsValid() && ones > r.site.pods.Bits() && within(r.site.pods, route.Dst.IP)
		toServices := r.site.services.IsValid() && route.Gw == nil && route.Dst.String() == r.site.services.Masked().String()
		if !toPods && !toServices {
			continue
		}
		if err := netlink.RouteDel(&route); err != nil {
			errs = append(errs, fmt.Errorf("delete the route to %s: %w", route.Dst, err))
			continue
		}
		r.o.Say("removed the route to %s", route.Dst)
	}
	return errors.Join(errs...)
}
