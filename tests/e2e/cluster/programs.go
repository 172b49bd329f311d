package cluster

import "testing"

// programs is a folder of a host with links to all programs but nft.
const programs = "/root/programs"

// EnvWithoutNft is the environment of a labk that finds no nft, as on an old PC, where iptables has to do. Its host needs HideNft before.
func EnvWithoutNft() []string { return []string{"PATH=" + programs} }

// HideNft prepares the node's host for EnvWithoutNft.
func (n *Node) HideNft(t testing.TB) {
	t.Helper()
	n.Sh(t, `mkdir `+programs+` && cd `+programs+` && for d in /usr/sbin /usr/bin; do
		for f in $d/*; do [ -x "$f" ] && ln -sf "$f" .; done; done; rm nft`)
}
