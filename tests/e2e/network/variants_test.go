package network

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"

	"github.com/labk/labk/tests/e2e/cluster"
)

// On a machine with systemd-resolved, /etc/resolv.conf names an address that inside a pod is the pod itself.
func TestSystemdResolved(t *testing.T) {
	w := start(t, 0, cluster.Options{
		Subnet: "10.77.0.0/24", // its first address is that of the lab's name server
		Files: map[string]string{
			"/etc/resolv.conf":                 "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch .\n",
			"/run/systemd/resolve/resolv.conf": "nameserver 10.77.0.1\nsearch .\n",
		},
	})
	testOutsideNames(t, w)
}

// A lab without a way out: what is inside works, and a name outside is an error at once.
func TestNoDefaultRoute(t *testing.T) {
	w := start(t, 1, cluster.Options{NoDefaultRoute: true, Files: map[string]string{"/etc/resolv.conf": ""}})
	testClusterIP(t, w)
	testNodePort(t, w)
	testServiceNames(t, w)
	cluster.Eventually(t, cluster.Limit, "an answer about a name outside", func() error {
		answer, err := query(t.Context(), w.Host.Net(), clusterDNS, outsideName+".", dns.TypeA)
		if err == nil && answer.Rcode != dns.RcodeServerFailure && answer.Rcode != dns.RcodeNameError {
			err = errors.New(answer.String())
		}
		return err
	})
}

// Minimal installations lack /etc/protocols (Debian's package netbase). nft then prints protocols as numbers, by which kube-proxy does not
// know its own rules again: at every other start it would take away all that it has just written.
func TestNoProtocolNames(t *testing.T) {
	w := start(t, 1, cluster.Options{Before: func(c *cluster.Cluster) { c.Sh(t, "rm /etc/protocols") }})
	s := w.service(t, "node-port", "hello", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort })
	reachAll(t, "from outside", with(w.Outside()), w.nodePort(s), len(w.hellos))
	for i := range 2 {
		w.Server.Restart(t, syscall.SIGTERM)
		// when a new one answers, kube-proxy has written its rules
		fresh := w.service(t, fmt.Sprintf("fresh-%d", i), "hello", func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort })
		reachAll(t, "from outside, after a restart", with(w.Outside()), w.nodePort(fresh), len(w.hellos))
		reachAll(t, "from outside, of old", with(w.Outside()), w.nodePort(s), len(w.hellos))
		reachAll(t, "from a pod, of old", w.fromPod(t, w.client.Name), "http://"+s.Spec.ClusterIP+"/", len(w.hellos))
	}
}

// Where there is no nft, iptables does all of it.
func TestIPTables(t *testing.T) {
	w := start(t, 2, cluster.Options{Env: cluster.EnvWithoutNft(), Before: func(c *cluster.Cluster) { c.Server.HideNft(t) }})
	if rules := w.Sh(t, "iptables-save -t nat"); !strings.Contains(rules, "KUBE-SERVICES") {
		t.Errorf("iptables has no rules for Services:\n%s", rules)
	}
	if tables := w.Sh(t, "nft list tables"); strings.Contains(tables, "kube-proxy") {
		t.Errorf("nftables has rules for Services, too:\n%s", tables)
	}
	for _, test := range []struct {
		name string
		run  func(*testing.T, *world)
	}{
		{"ClusterIP", testClusterIP},
		{"NodePort", testNodePort},
		{"externalTrafficPolicy Local", testLocalPolicy},
		{"session affinity", testAffinity},
		{"host port", testHostPort},
		{"hairpin", testHairpin},
		{"UDP", testUDP},
		{"names outside", testOutsideNames},
		{"pod to pod", testPodToPod},
		{"pod to outside", testPodToOutside},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, w)
		})
	}
}
