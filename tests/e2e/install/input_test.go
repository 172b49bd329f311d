package install

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/labk/labk/tests/e2e/cluster"
)

// bad is a way to run install.sh that must fail.
type bad struct {
	name string
	// setup is a shell script that makes the host bad, undo one that makes it good again.
	setup, undo string
	// variables and args of install.sh.
	variables string
	args      []string
	// code is the exit code, want are parts of what it says.
	code int
	want []string
}

// On a PC where labk runs: bad input is said, nothing is changed, and the labk of before runs on.
func TestBadInput(t *testing.T) {
	c := cluster.Hosts(t, 1)
	n := c.Server
	putScript(t, n)
	installed(t, n, fromFile(n))
	putBadPrograms(t, n)
	pid := mainPID(t, n)
	for _, b := range badInputs(n) {
		t.Run(b.name, func(t *testing.T) {
			before := n.Inventory(t, folders()...)
			if b.setup != "" {
				n.Sh(t, b.setup)
			}
			r, _ := install(t, n, b.variables, b.args...)
			if b.undo != "" {
				n.Sh(t, b.undo)
			}
			if r.Code != b.code {
				t.Errorf("code %d, want %d", r.Code, b.code)
			}
			for _, w := range b.want {
				if !strings.Contains(r.Stderr, w) {
					t.Errorf("it does not say %q", w)
				}
			}
			n.Unchanged(t, before, folders()...)
			if now := mainPID(t, n); now != pid {
				t.Errorf("labk was restarted: process %s, now %s", pid, now)
			}
		})
	}
	c.Kubectl(t, "wait", "--for=condition=Ready", "node", "--all", "--timeout=60s")
}

func badInputs(n *cluster.Node) []bad {
	good := fromFile(n)
	return []bad{
		{name: "no such file", variables: "LABK_BINARY=/root/none", code: 1, want: []string{"there is no file /root/none"}},
		{name: "half a download", variables: "LABK_BINARY=/root/half", code: 1, want: []string{"/root/half does not run on this PC: is it whole"}},
		{name: "half a download, and its sum is known", variables: "LABK_BINARY=/root/half-known", code: 1, want: []string{"is not what was asked for", "Half a download"}},
		{name: "wrong checksum", variables: good + " LABK_SHA256=" + strings.Repeat("0", 64), code: 1, want: []string{"its SHA-256 is ", " and not 0000"}},
		{name: "an empty checksum", variables: good + " LABK_SHA256=", code: 1, want: []string{`LABK_SHA256: "" is no SHA-256`}},
		{name: "an empty file of the checksum", variables: "LABK_BINARY=/root/unknown", code: 1, want: []string{`/root/unknown.sha256: "" is no SHA-256`}},
		{name: "a release with an empty checksum", variables: "INSTALL_LABK_RELEASE_URL=file:///root/release", code: 1, want: []string{`/root/release/latest/download/labk.sha256: "" is no SHA-256`}},
		{name: "a web page for a checksum", variables: "INSTALL_LABK_RELEASE_URL=file:///root/release INSTALL_LABK_VERSION=page", code: 1, want: []string{"/page/labk.sha256: \"touch\" is no SHA-256"}},
		{name: "another architecture", variables: "LABK_BINARY=/root/arm64", code: 1, want: []string{"/root/arm64 is a program for another processor than this PC's (x86_64)"}},
		{name: "a web page", variables: "LABK_BINARY=/root/page", code: 1, want: []string{"/root/page is not a program"}},
		{name: "another program", variables: "LABK_BINARY=/bin/true", code: 1, want: []string{"/bin/true is not labk"}},
		{
			name: "no space", variables: good + " INSTALL_LABK_BIN_DIR=/mnt", code: 1, want: []string{"No space left on device", "is there room"},
			setup: "mount -t tmpfs -o size=50m tmpfs /mnt", undo: `[ -z "$(ls -A /mnt)" ] && umount /mnt`,
		},
		{
			name: "/usr/local is read-only", variables: good, code: 1, want: []string{"/usr/local/bin cannot be written", "INSTALL_LABK_BIN_DIR"},
			setup: "mount --bind /usr/local /usr/local && mount -o remount,bind,ro /usr/local", undo: "umount /usr/local",
		},
		{
			name: "a newer labk has used the data folder", variables: good, code: 1, want: []string{"v9.99.0+labk1", "older", "LABK047"},
			setup: "cp /var/lib/labk/version /root/version && echo v9.99.0+labk1 >/var/lib/labk/version", undo: "cp /root/version /var/lib/labk/version",
		},
		{name: "neither server nor agent", variables: good, args: []string{"client"}, code: 1, want: []string{`"client" is neither server nor agent`}},
		{name: "an agent on the server", variables: good + " LABK_URL=https://other:6443 LABK_TOKEN=x", code: 2, want: []string{"installed here as server", "labk uninstall"}},
		{name: "another folder", variables: good + " INSTALL_LABK_BIN_DIR=/opt/other", code: 2, want: []string{"labk is installed as /usr/local/bin/labk"}, undo: "rmdir /opt/other"},
		{name: "unknown flag", variables: good, args: []string{"--no-such-flag"}, code: 2, want: []string{"no-such-flag"}},
		{name: "wrong value", variables: "INSTALL_LABK_EXEC='--cluster-cidr 10.42.0.0' " + good, code: 2, want: []string{"cluster-cidr", "10.42.0.0/16"}},
		{name: "no token on standard input", variables: good + " LABK_TOKEN=-", code: 1, want: []string{"no token on standard input"}},
		{name: "no server to download from", variables: "LABK_URL=https://127.0.0.1:1 LABK_TOKEN=x LABK_SHA256=" + strings.Repeat("0", 64), code: 1, want: []string{"https://127.0.0.1:1/labk/bin/linux-amd64 could not be fetched"}},
		{name: "no release", variables: "INSTALL_LABK_RELEASE_URL=https://127.0.0.1:1 INSTALL_LABK_VERSION=v1.37.1+labk9", code: 1, want: []string{"https://127.0.0.1:1/download/v1.37.1%2Blabk9/labk.sha256 could not be fetched"}},
	}
}

// putBadPrograms makes files that are not, or not all of, labk.
func putBadPrograms(t *testing.T, n *cluster.Node) {
	t.Helper()
	file, err := os.Open(cluster.Binary(t))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	head := make([]byte, 1<<20)
	if _, err := io.ReadFull(file, head); err != nil {
		t.Fatal(err)
	}
	arm64 := bytes.Clone(head)
	arm64[18], arm64[19] = 183, 0 // e_machine: EM_AARCH64
	n.WriteFile(t, "/root/arm64", string(arm64))
	n.WriteFile(t, "/root/page", "touch /usr/local/run-as-a-script\n")
	n.Sh(t, "head -c 100000000 "+n.Program()+" >/root/half; cp /root/half /root/half-known; sha256sum "+n.Program()+" >/root/half-known.sha256")
	n.Sh(t, `ln -s `+n.Program()+` /root/unknown && : >/root/unknown.sha256
		cd /root && mkdir -p release/latest/download release/download/page && : >release/latest/download/labk.sha256 && cp page release/download/page/labk.sha256
		ln -s `+n.Program()+` release/latest/download/labk; ln -s `+n.Program()+` release/download/page/labk`)
}

// Where nobody starts services, and for an ordinary user without sudo, nothing is installed.
func TestNobodyToStartIt(t *testing.T) {
	c := cluster.Start(t, cluster.Options{DontStart: true}) // its pid 1 is a shell
	n := c.Server
	putScript(t, n)
	before := n.Inventory(t, "/etc", "/usr/local/bin", "/var/lib/labk")
	r, _ := install(t, n, fromFile(n)+" INSTALL_LABK_BIN_DIR=/root/bin", "server")
	if r.Code != 1 || !strings.Contains(r.Stderr, "neither systemd nor OpenRC runs on this PC") || !strings.Contains(r.Stderr, "labk server") {
		t.Errorf("code %d\n%s", r.Code, r.Stderr)
	}
	n.Unchanged(t, before, "/etc", "/usr/local/bin", "/var/lib/labk")
	if left := n.Sh(t, "ls -A /root/bin"); left != "" {
		t.Errorf("it leaves %s", left)
	}
	r = n.Exec(t, strings.NewReader(n.ReadFile(t, script)), "setpriv", "--reuid", "65534", "--clear-groups", "env", "PATH=/usr/bin", "sh", "-c", `mkdir /tmp/bin && ln -s /usr/bin/uname /usr/bin/id /tmp/bin && PATH=/tmp/bin exec /bin/sh -s`)
	if r.Code != 1 || !strings.Contains(r.Stderr, "run this as root") {
		t.Errorf("an ordinary user: code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
}
