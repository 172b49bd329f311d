package health

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Firewall modes, named as kube-proxy names them.
const (
	NFTables = "nftables"
	IPTables = "iptables"
)

func firewallProbes() []Probe {
	return []Probe{
		{Fault: Fault{
			Code: "LABK013", Title: "firewall program", Severity: Fatal,
			Cause:  "Neither nft nor iptables is in PATH. Services are made of the kernel's packet filter rules, which one of them writes.",
			Remedy: "install the package nftables (or iptables)",
		}, look: lookFirewallProgram, again: Seldom},
		{Fault: Fault{
			Code: "LABK014", Title: "packet filter", Severity: Fatal,
			Cause:  "nft or iptables is there but the kernel refuses what services need: a kernel without the modules, or a container that may not use them. Or /etc/protocols does not name tcp and udp: nft then prints numbers, by which kube-proxy does not know its own rules again, and takes them away at its next start. A warning means that nft cannot be used and iptables is.",
			Remedy: "boot a kernel with nf_tables (nft_chain_nat, nft_fib, nft_masq, nft_numgen, nft_reject); after a kernel update, reboot",
		}, look: lookFirewall, asRoot: true, again: Seldom},
	}
}

// What kube-proxy asks for in nftables mode, and a rule of each kind that it writes: nft --check has the kernel try and forget it.
const (
	nftTrial = `add table ip labk-check
add chain ip labk-check nat { type nat hook postrouting priority 100 ; }
add chain ip labk-check filter { type filter hook input priority 0 ; }
add chain ip labk-check end
add map ip labk-check services { type ipv4_addr . inet_proto . inet_service : verdict ; }
add rule ip labk-check filter fib daddr type local ip daddr . meta l4proto . th dport vmap @services
add rule ip labk-check filter numgen random mod 2 vmap { 0 : goto end , 1 : goto end }
add rule ip labk-check end ct state new reject
add rule ip labk-check nat masquerade fully-random
`
)

// errNoProtocolNames keeps labk from nft: kube-proxy compares the names in its rules with what nft prints.
var errNoProtocolNames = errors.New("/etc/protocols does not name tcp and udp")

// namesProtocols tells whether nft can print tcp and udp as names, which it takes from that file.
func (h Host) namesProtocols() bool {
	names := map[string]bool{}
	for _, f := range h.fields("etc/protocols") {
		if len(f) > 1 {
			names[f[0]] = true
		}
	}
	return names["tcp"] && names["udp"]
}

// FirewallMode decides by trying how services are to be made on this host: NFTables where nft (1.0.1 or newer) and the kernel
// (5.13 or newer) do what kube-proxy wants of them, else IPTables. The error, when neither works, tells why for both.
// No rule is changed.
func (h Host) FirewallMode(ctx context.Context) (string, error) {
	mode, _, err := h.firewall(ctx)
	return mode, err
}

// firewall returns the mode and, when that is IPTables, why it is not NFTables.
func (h Host) firewall(ctx context.Context) (mode string, why error, err error) {
	why = h.tryNFT(ctx)
	if why == nil {
		return NFTables, nil, nil
	}
	if err := h.tryIPTables(ctx); err != nil {
		return "", nil, errors.Join(why, err)
	}
	return IPTables, why, nil
}

func (h Host) tryNFT(ctx context.Context) error {
	program, err := h.LookPath("nft")
	if err != nil {
		return errors.New("nft is not in PATH")
	}
	release, err := h.read("proc/sys/kernel/osrelease")
	if err != nil {
		return fmt.Errorf("read the kernel's version: %w", err)
	}
	if older(release, 5, 13, 0) {
		return fmt.Errorf("kernel %s is older than 5.13", strings.TrimSpace(release))
	}
	out, err := h.Command(ctx, "", program, "--version")
	if err != nil {
		return err
	}
	version := strings.TrimPrefix(strings.TrimSpace(out), "nftables v")
	if older(version, 1, 0, 1) {
		return fmt.Errorf("nft %s is older than 1.0.1", version)
	}
	if !h.namesProtocols() {
		return errNoProtocolNames
	}
	_, err = h.Command(ctx, nftTrial, program, "--check", "--file", "-")
	return err
}

func (h Host) tryIPTables(ctx context.Context) error {
	program, err := h.LookPath("iptables")
	if err != nil {
		return errors.New("iptables is not in PATH")
	}
	_, err = h.Command(ctx, "", program, "--wait", "3", "--table", "nat", "--list-rules", "POSTROUTING")
	return err
}

// older tells whether a version such as "6.1.0-50-amd64" is below the wanted one. What is not a number counts as 0.
func older(version string, want ...int) bool {
	parts := strings.FieldsFunc(version, func(r rune) bool { return r < '0' || r > '9' })
	for i, w := range want {
		have := 0
		if i < len(parts) {
			have, _ = strconv.Atoi(parts[i])
		}
		if have != w {
			return have < w
		}
	}
	return false
}

func lookFirewallProgram(_ context.Context, h Host) finding {
	if !h.Node() {
		return pass("not needed without a node")
	}
	for _, name := range []string{"nft", "iptables"} {
		if where, err := h.LookPath(name); err == nil {
			return pass("%s", where)
		}
	}
	return fail("neither nft nor iptables is in PATH")
}

func lookFirewall(ctx context.Context, h Host) finding {
	if !h.Node() {
		return pass("not needed without a node")
	}
	if f := lookFirewallProgram(ctx, h); f.status == Fail {
		return pass("not looked at without a program") // LABK013 says what to do
	}
	mode, why, err := h.firewall(ctx)
	f := pass("%s", mode)
	if err != nil {
		f = fail("%s", strings.ReplaceAll(err.Error(), "\n", "; "))
	} else if _, lookErr := h.LookPath("nft"); why != nil && lookErr == nil {
		f = warn("iptables, because nftables cannot be used: %v", why)
	}
	if errors.Is(errors.Join(why, err), errNoProtocolNames) {
		return f.do("install the package that has the file: netbase (Debian, Ubuntu), setup (Fedora), netcfg (openSUSE), iana-etc (Arch)")
	}
	return f
}
