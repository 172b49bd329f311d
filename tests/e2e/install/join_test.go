package install

import (
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/labk/labk/tests/e2e/cluster"
)

// student makes a user of the PC who may use sudo.
const student = "useradd -m -s /bin/bash student && echo 'student ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/student"

// paste has the student put a line into their shell.
func paste(t *testing.T, n *cluster.Node, line string) cluster.Result {
	t.Helper()
	began := time.Now()
	r := n.Exec(t, strings.NewReader(line+"\n"), "su", "-", "student")
	t.Logf("pasted on %s: %.1f s, code %d\n%s%s", n.Host.Name(), time.Since(began).Seconds(), r.Code, r.Stdout, r.Stderr)
	return r
}

// One line of the server makes another PC a node: its program comes from the server, and nobody else on the PC sees the token.
func TestJoinLine(t *testing.T) {
	c := cluster.Hosts(t, 2)
	server, agent := c.Server, c.Agents[0]
	putScript(t, server)
	installed(t, server, fromFile(server))
	agent.Sh(t, student)
	line := server.Sh(t, "labk token create --print-join")
	t.Log(line)

	t.Run("bad", func(t *testing.T) { testBadLines(t, agent, line) })
	t.Run("handed out", func(t *testing.T) { testHandedOut(t, c) })

	secret := regexp.MustCompile(`labk1-[0-9a-f]{64}-[a-z0-9.]+`).FindString(line)
	agent.WriteFile(t, "/root/secret", secret)
	agent.Sh(t, `(while :; do grep -slFf /root/secret /proc/[0-9]*/cmdline /proc/[0-9]*/environ >>/root/seen; done) >/dev/null 2>&1 & echo $! >/root/watcher`)
	if r := paste(t, agent, line); r.Code != 0 {
		t.Fatalf("the line fails; the journal:\n%s", agent.Journal(t))
	}
	agent.Sh(t, "kill $(cat /root/watcher)")
	if seen := agent.Sh(t, "sort /root/seen | uniq -c"); seen != "" {
		t.Errorf("the token was in the arguments or the environment of processes: %s", seen)
	}
	ready := func() { c.Kubectl(t, "wait", "--for=condition=Ready", "node", agent.Host.Name(), "--timeout=60s") }
	ready()
	if r := record(t, agent); r.Role != "agent" || len(r.Config) != 2 {
		t.Errorf("it is noted as %+v", r)
	}
	if out := agent.Sh(t, "cat /etc/labk/config.yaml; stat -c '%a %U' /etc/labk/token; ls -A /tmp /home/student | grep -v '^\\.'; cmp /usr/local/bin/labk "+agent.Program()); !strings.HasPrefix(out,
		"server: "+c.URL()+"\ntoken-file: /etc/labk/token\n600 root\n/home/student:\n") || strings.Contains(out, "tmp.") {
		t.Errorf("it has\n%s", out)
	}
	for _, n := range []*cluster.Node{server, agent} {
		n.Reboot(t)
		n.WaitActive(t)
	}
	ready()
	// Once more on a PC that is a node: nothing to do.
	pid := mainPID(t, agent)
	if r := paste(t, agent, line); r.Code != 0 {
		t.Errorf("the same line again: code %d", r.Code)
	}
	if now := mainPID(t, agent); now != pid {
		t.Errorf("labk was restarted: process %s, now %s", pid, now)
	}
}

// A line whose script or program is not what the server has changes nothing.
func testBadLines(t *testing.T, n *cluster.Node, line string) {
	before := n.Inventory(t, append(folders(), "/tmp", "/var/lib/labk")...)
	sums := regexp.MustCompile(`[ "=][0-9a-f]{64}`).FindAllString(line, -1)
	if len(sums) != 2 {
		t.Fatalf("the line has the sums %v", sums)
	}
	wrong := func(sum string) string { return sum[:1] + strings.Repeat("0123", 16) }
	for name, tc := range map[string]struct{ line, want string }{
		"other script":  {strings.Replace(line, sums[0], wrong(sums[0]), 1), "has another SHA-256: print a new line"},
		"other program": {strings.Replace(line, sums[1], wrong(sums[1]), 1), "is not what was asked for"},
		"no server":     {strings.ReplaceAll(line, ":6443", ":6444"), "Failed to connect"},
		"half a token":  {regexp.MustCompile(`\.[a-z0-9]{16} `).ReplaceAllString(line, " "), "token: it is not whole"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.line == line {
				t.Fatal("the line is not changed")
			}
			if r := paste(t, n, tc.line); r.Code == 0 || !strings.Contains(r.Stdout+r.Stderr, tc.want) {
				t.Errorf("code %d, want %q:\n%s%s", r.Code, tc.want, r.Stdout, r.Stderr)
			}
			n.Unchanged(t, before, append(folders(), "/tmp", "/var/lib/labk")...)
		})
	}
}

// A PC without any credential gets the program that runs, whatever has become of its file, and nothing else.
func testHandedOut(t *testing.T, c *cluster.Cluster) {
	const program = "/usr/local/bin/labk"
	want := strings.Fields(c.Sh(t, "sha256sum "+program))[0]
	c.Sh(t, "mv "+program+" /root/labk && echo another >"+program)
	defer c.Sh(t, "mv /root/labk "+program)
	get := "curl -ksS " + c.URL() + "/labk/"
	agent := c.Agents[0]
	if got := agent.Sh(t, get+"bin/linux-amd64 | sha256sum"); !strings.HasPrefix(got, want) {
		t.Errorf("the server hands out a program with the sum %s, and runs %s", got, want)
	}
	if got := agent.Sh(t, get+"bin/linux-amd64.sha256"); got != want+"  labk" {
		t.Errorf("the server says the sum %q, want %s", got, want)
	}
	for path, code := range map[string]string{
		"install.sh": "200", "": "404", "bin/": "404", "bin/linux-arm64": "404", "%2e%2e/api": "404", "../api/v1/nodes": "307",
	} {
		if got := agent.Sh(t, "curl -ks --path-as-is -o /dev/null -w '%{http_code}' "+c.URL()+"/labk/"+path); got != code {
			t.Errorf("/labk/%s: %s, want %s", path, got, code)
		}
	}
}

// An agent that does not come up says why; with what is right now, running the script again makes it one.
func TestSecondTry(t *testing.T) {
	c := cluster.Hosts(t, 2)
	server, agent := c.Server, c.Agents[0]
	for _, n := range c.Nodes() {
		putScript(t, n)
	}
	installed(t, server, fromFile(server))
	token := c.Token(t)
	other := "labk1-" + strings.Repeat("0123", 16) + token[strings.LastIndex(token, "-"):]
	r, _ := install(t, agent, fromFile(agent)+" LABK_URL="+c.URL()+" LABK_TOKEN="+other)
	if r.Code != 1 || !strings.Contains(r.Stderr, "start labk-agent.service: ") || !strings.Contains(r.Stderr, "it is not the server that the token is for") ||
		!strings.Contains(r.Stderr, "journalctl -u labk-agent.service") {
		t.Errorf("code %d\n%s", r.Code, r.Stderr)
	}
	installed(t, agent, fromFile(agent)+" LABK_TOKEN="+token)
	ready := func() { c.Kubectl(t, "wait", "--for=condition=Ready", "node", agent.Host.Name(), "--timeout=60s") }
	ready()
	// A newer program looks at the PC as an agent's: it is nothing to it who has a server's port.
	agent.Sh(t, "systemd-run --quiet systemd-socket-activate -l 6443 cat")
	installed(t, agent, "LABK_BINARY=/opt/labk/"+filepath.Base(cluster.NextBinary(t)))
	ready()
}
