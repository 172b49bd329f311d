package lab

import (
	"net/netip"
	"strings"
	"testing"
)

const clonedID = "0123456789abcdef0123456789abcdef"

// Three PCs of one room, two of them cloned from the same disk.
func TestIdentity(t *testing.T) {
	before := inventory(t)
	clone := HostOptions{Name: "PC-7.room.example", MachineID: clonedID}
	l := bringUp(t, Options{Name: "selftest-id", Hosts: 3, Subnet: "10.77.7.0/24", MTU: 1400, Each: map[int]HostOptions{2: clone, 3: clone}})
	t.Run("clones", func(t *testing.T) { testClones(t, l) })
	t.Run("address", func(t *testing.T) { testSetAddr(t, l) })
	t.Run("refused addresses", func(t *testing.T) { testRefusedAddr(t, l) })
	do(t, l.Down)
	asBefore(t, before)
}

func testClones(t *testing.T, l *Lab) {
	var macs, ids []string
	for i, want := range []string{"selftest-id-h1", "PC-7.room.example", "PC-7.room.example"} {
		h := l.Host(i + 1)
		if out := sh(t, h, "hostname; cat /etc/hostname"); h.Name() != want || out != want+"\n"+want {
			t.Errorf("host %d is %s, and says %q", h.Index(), h.Name(), out)
		}
		macs = append(macs, sh(t, h, "cat /sys/class/net/eth0/address"))
		ids = append(ids, sh(t, h, "cat /etc/machine-id"))
		if ids[i] != h.MachineID() {
			t.Errorf("host %d has %s and says %s", i+1, h.MachineID(), ids[i])
		}
		if mtu := sh(t, h, "cat /sys/class/net/eth0/mtu"); mtu != "1400" {
			t.Errorf("MTU of host %d: %s", h.Index(), mtu)
		}
	}
	if macs[0] == macs[1] || macs[1] == macs[2] || macs[0] == macs[2] {
		t.Errorf("network cards are not distinct: %v", macs)
	}
	if len(ids[0]) != 32 || ids[0] == clonedID || ids[1] != clonedID || ids[2] != clonedID {
		t.Errorf("machine IDs: %v", ids)
	}
	do(t, l.Host(1).Kill)
	do(t, l.Host(1).Boot)
	if out := sh(t, l.Host(1), "cat /etc/machine-id"); out != ids[0] {
		t.Errorf("the machine ID was %s and is %s after a boot", ids[0], out)
	}
	// a name that repeats is, for a host that has it, itself
	for i, want := range []string{"10.77.7.12", "10.77.7.12", "10.77.7.13"} {
		out := sh(t, l.Host(i+1), "getent ahostsv4 PC-7.room.example | head -n 1; getent ahostsv4 selftest-id-h3 | head -n 1")
		if first, last, _ := strings.Cut(out, "\n"); !strings.HasPrefix(first, want+" ") || !strings.HasPrefix(last, "10.77.7.13 ") {
			t.Errorf("host %d resolves %q", i+1, out)
		}
	}
}

func testSetAddr(t *testing.T, l *Lab) {
	h1, h2, h3 := l.Host(1), l.Host(2), l.Host(3)
	mac := sh(t, h2, "cat /sys/class/net/eth0/address")
	do(t, h3.Kill) // it learns of the new address at its boot
	addr := netip.MustParseAddr("10.77.7.99")
	if err := h2.SetAddr(testContext(t), addr); err != nil {
		t.Fatal(err)
	}
	do(t, h3.Boot)
	check := func(when string) {
		t.Helper()
		want := "10.77.7.99/24\ndefault via 10.77.7.1 dev eth0 \n10.77.7.0/24 dev eth0 proto kernel scope link src 10.77.7.99 \n" + mac
		out := sh(t, h2, "ip -br -4 addr show eth0 | awk '{ print $3, $4 }' | sed 's/ $//'; ip route show; cat /sys/class/net/eth0/address")
		if h2.Addr() != addr || out != want {
			t.Errorf("%s: address %s, network %q", when, h2.Addr(), out)
		}
		for _, from := range []*Host{h1, h3} {
			if err := reach(testContext(t), from.Net(), h2.Net(), "10.77.7.99:0"); err != nil {
				t.Errorf("%s: %v", when, err)
			}
			if out := sh(t, from, "getent ahostsv4 selftest-id-h2 | head -n 1"); !strings.HasPrefix(out, "10.77.7.99 ") {
				t.Errorf("%s: host %d resolves %q", when, from.Index(), out)
			}
		}
	}
	check("after the change")
	do(t, h2.Kill)
	do(t, h2.Boot)
	check("after a boot")
	again, err := Open(l.Dir())
	if err != nil {
		t.Fatal(err)
	}
	if again.Host(2).Addr() != addr {
		t.Errorf("another process sees %s", again.Host(2).Addr())
	}
}

func testRefusedAddr(t *testing.T, l *Lab) {
	for addr, want := range map[string]string{
		"10.77.8.5": "10.77.7.0/24", "10.77.7.0": "10.77.7.0/24", "10.77.7.255": "10.77.7.0/24", "fd00::1": "10.77.7.0/24",
		"10.77.7.1": "gateway", "10.77.7.11": "selftest-id-h1",
	} {
		if err := l.Host(2).SetAddr(testContext(t), netip.MustParseAddr(addr)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", addr, err)
		}
	}
	if out := sh(t, l.Host(2), "ip -br -4 addr show eth0"); !strings.Contains(out, "10.77.7.99/24") {
		t.Errorf("a refused address changed something: %q", out)
	}
}
