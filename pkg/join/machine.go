package join

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// Machine tells one PC from another. All fields are hashes: a machine-id is not for others' eyes, and a hash is enough to compare.
type Machine struct {
	// ID is of /etc/machine-id, which a re-installation changes and a cloned disk does not; DMI of the mainboard's UUID, which cheap boards share.
	ID  string `json:"id,omitempty"`
	DMI string `json:"dmi,omitempty"`
	// MACs are of the network cards, sorted.
	MACs []string `json:"macs,omitempty"`
}

// ThisMachine looks at this PC; root is "/".
func ThisMachine(root string) (Machine, error) {
	m := Machine{ID: hashFile(filepath.Join(root, "etc/machine-id")), DMI: hashFile(filepath.Join(root, "sys/class/dmi/id/product_uuid"))}
	links, err := netlink.LinkList()
	if err != nil {
		return Machine{}, fmt.Errorf("list this PC's network cards: %w", err)
	}
	for _, l := range links {
		if mac := cardAddress(l); mac != "" {
			m.MACs = append(m.MACs, hash(mac))
		}
	}
	slices.Sort(m.MACs)
	return m, nil
}

// cardAddress is the hardware address of a network card, empty for everything else. Where PCs are namespaces, their card is one end of a link
// that has an ordinary subnet's address; pods' links have none or a /32.
func cardAddress(l netlink.Link) string {
	a := l.Attrs()
	switch l.Type() {
	case "device":
		if len(a.PermHWAddr) > 0 { // not the random one that a desktop shows to wireless networks
			return a.PermHWAddr.String()
		}
	case "veth":
		addrs, err := netlink.AddrList(l, netlink.FAMILY_V4)
		if err != nil || len(addrs) == 0 {
			return ""
		}
		if ones, bits := addrs[0].Mask.Size(); ones == bits {
			return ""
		}
	default:
		return ""
	}
	if len(a.HardwareAddr) == 0 || strings.Trim(a.HardwareAddr.String(), "0:") == "" {
		return ""
	}
	return a.HardwareAddr.String()
}

// Same tells whether both are one PC: they have a network card in common. Where one has none to show, machine-id and mainboard decide together.
func (m Machine) Same(other Machine) bool {
	if len(m.MACs) == 0 || len(other.MACs) == 0 {
		return m.ID != "" && m.ID == other.ID && m.DMI == other.DMI
	}
	return slices.ContainsFunc(m.MACs, func(mac string) bool { return slices.Contains(other.MACs, mac) })
}

func hashFile(path string) string {
	data, err := os.ReadFile(path)
	text := strings.TrimSpace(string(data))
	if err != nil || text == "" {
		return ""
	}
	return hash(text)
}

// hash is short, and of no use beside labk: systemd asks for a machine-id to be hashed with a key of the application's own (machine-id(5)).
func hash(text string) string {
	mac := hmac.New(sha256.New, []byte("labk machine"))
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil)[:12])
}
