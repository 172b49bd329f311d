package fleet

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/labk/labk/tests/e2e/cluster"
)

const agentTLS = "/var/lib/labk/agent/tls"

// The PC was off for so long that the kubelet's certificates have ended: it is known by its machine certificate, and gets new ones without a token.
func testExpired(t *testing.T, w *world, agent *cluster.Node) {
	agent.Signal(t, syscall.SIGTERM)
	_ = agent.Wait(t)
	for link, ca := range map[string]string{"kubelet-client-current.pem": "client-ca", "kubelet-server-current.pem": "server-ca"} {
		old := agent.ReadFile(t, filepath.Join(agentTLS, strings.TrimSpace(agent.Sh(t, "readlink "+filepath.Join(agentTLS, link)+" | xargs basename"))))
		agent.WriteFile(t, filepath.Join(agentTLS, "expired-"+link), w.Expired(t, old, ca))
		agent.Sh(t, "ln -sf "+filepath.Join(agentTLS, "expired-"+link)+" "+filepath.Join(agentTLS, link))
	}
	agent.Start(t, "--server", "https://first-pc:6443")
	agent.WaitUp(t)
	w.ready(t, 3)
	w.logs(t, agent.Host.Name())
	for _, link := range []string{"kubelet-client-current.pem", "kubelet-server-current.pem"} {
		if c := cluster.Certificate(t, agent.Sh(t, "cat "+filepath.Join(agentTLS, link))); time.Now().After(c.NotAfter) {
			t.Errorf("%s is still the expired one", link)
		}
	}
}

// A power cut has torn the kubelet's certificates, which upstream writes without waiting for the disk.
func testTorn(t *testing.T, w *world, agent *cluster.Node) {
	agent.Signal(t, syscall.SIGKILL)
	_ = agent.Wait(t)
	agent.Sh(t, "cd "+agentTLS+" && for f in *-current.pem; do : >$(readlink -f $f); done")
	agent.Start(t, "--server", "https://first-pc:6443")
	agent.WaitUp(t)
	w.ready(t, 3)
	w.logs(t, agent.Host.Name())
}
