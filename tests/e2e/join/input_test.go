package join

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/labk/labk/pkg/join"
	"github.com/labk/labk/pkg/pki"
	"github.com/labk/labk/tests/e2e/cluster"
)

const (
	configFile = "/etc/labk/config.yaml"
	tokenFile  = "/root/token"
	// known is in the server's certificate, by --tls-san; stranger is not.
	known, stranger = "first-pc", "second-pc"
)

// attempt is a `labk agent` that must fail.
type attempt struct {
	name string
	// files are written before, and removed afterwards.
	files map[string]string
	args  []string
	code  int
	// want are parts of the sentence.
	want []string
	// begins: the program begins to start before it knows, and may unpack itself.
	begins bool
}

// try makes the attempt on a PC that has never joined.
func (a attempt) try(t *testing.T, n *cluster.Node) {
	for path, text := range a.files {
		n.WriteFile(t, path, text)
		defer n.Sh(t, "rm -f "+path)
	}
	folders := kept
	if a.begins {
		folders = credentials
	}
	before := n.Inventory(t, folders...)
	r := agent(t, n, a.args...)
	r.Refused(t, a.code, a.want...)
	n.Unchanged(t, before, folders...)
	for _, arg := range a.args {
		if token, err := join.ParseToken(arg); err == nil && strings.Contains(r.Stderr+r.Stdout, token.Secret) {
			t.Error("it shows the token's secret")
		}
	}
}

// mistakes can be seen without asking anybody.
func mistakes(c *cluster.Cluster, n *cluster.Node, token string) []attempt {
	server := []string{"--server", c.URL()}
	with := func(args ...string) []string { return append(append([]string{}, server...), args...) }
	changed := strings.Replace(token, "labk1-", "labk2-", 1)
	malformed := []string{"labk token create"}
	return []attempt{
		{name: "no server", args: []string{"--token", token}, code: usage, want: []string{"server", "https://first-pc:6443"}},
		{name: "not https", args: []string{"--server", "http://first-pc:6443", "--token", token}, code: usage, want: []string{"http://first-pc:6443", "https://"}},
		{name: "no scheme", args: []string{"--server", "first-pc:6443", "--token", token}, code: usage, want: []string{"first-pc:6443", "https://"}},
		{name: "no URL", args: []string{"--server", "https://first pc:6443", "--token", token}, code: usage, want: []string{"is no URL"}},
		{name: "no name", args: []string{"--server", "https://:6443", "--token", token}, code: usage, want: []string{"is no URL"}},
		{name: "a path", args: []string{"--server", c.URL() + "/api", "--token", token}, code: usage, want: []string{"more in it"}},
		{name: "a user", args: []string{"--server", "https://me@first-pc:6443", "--token", token}, code: usage, want: []string{"more in it"}},
		{name: "itself", args: []string{"--server", fmt.Sprintf("https://%s:6443", n.Host.Addr()), "--token", token}, code: usage, want: []string{"this PC itself"}},
		{name: "no token", args: server, code: usage, want: []string{"there is no token", "labk token create"}},
		{name: "cut", args: with("--token", token[:len(token)-1]), code: usage, want: malformed},
		{name: "a part missing", args: with("--token", token[:strings.LastIndex(token, ".")]), code: usage, want: malformed},
		{name: "a character changed", args: with("--token", strings.ToUpper(token)), code: usage, want: malformed},
		{name: "another format", args: with("--token", changed), code: usage, want: malformed},
		{name: "a passphrase", args: with("--token", "correct horse battery staple"), code: usage, want: malformed},
		{name: "empty file", files: map[string]string{tokenFile: "\n"}, args: with("--token-file", tokenFile), code: usage, want: []string{tokenFile, "is empty"}},
		{name: "no file", args: with("--token-file", "/root/none"), code: usage, want: []string{"/root/none"}},
		{name: "malformed in a file", files: map[string]string{tokenFile: "labk1-\n"}, args: with("--token-file", tokenFile), code: usage, want: malformed},
		{name: "both", files: map[string]string{tokenFile: token}, args: with("--token-file", tokenFile, "--token", token), code: usage, want: []string{"one of the two"}},
		{name: "a server's flag", args: with("--token", token, "--cluster-cidr=10.1.0.0/16"), code: usage, want: []string{"cluster-cidr"}},
		{name: "node name", args: with("--token", token, "--node-name=PC_1"), code: usage, want: []string{"node-name", "PC_1"}},
	}
}

// refusals are what the server says, or what it is.
func refusals(t *testing.T, c *cluster.Cluster, token string) []attempt {
	unknown := []string{"join " + c.Host.Addr().String(), "does not know the token", "labk token create"}
	wrong := parse(t, token)
	wrong.Secret = strings.Repeat("0", len(wrong.Secret))
	other, err := pki.NewStore(t.TempDir(), time.Now).CA("other")
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := parse(t, token)
	elsewhere.CAHash, err = join.CAHashPEM([]byte(readFile(t, other.Cert)))
	if err != nil {
		t.Fatal(err)
	}
	deleted, expiring := createToken(t, c), createToken(t, c, "--ttl", "1s")
	c.Labk(t, "token", "delete", parse(t, deleted).ID)
	with := func(token string, more ...string) []string {
		return append([]string{"--server", c.URL(), "--token", token}, more...)
	}
	return []attempt{
		{name: "wrong secret", args: with(wrong.String()), code: failed, want: unknown, begins: true},
		{name: "deleted", args: with(deleted), code: failed, want: unknown, begins: true},
		{name: "expired", args: with(expiring), code: failed, want: unknown, begins: true},
		{name: "another cluster's", args: with(elsewhere.String()), code: failed, want: []string{"not the server that the token is for"}, begins: true},
		{name: "name not in the certificate", args: []string{"--server", "https://" + stranger + ":6443", "--token", token}, code: failed,
			want: []string{"is not for " + stranger, "--tls-san " + stranger, c.Host.Addr().String()}, begins: true},
		{name: "the server's node's name", args: with(token, "--node-name", c.Host.Name()), code: failed, want: []string{"the server's own", "--node-name"}, begins: true},
	}
}

// testInput makes every mistake on one PC, and lets it join in the end.
func testInput(t *testing.T, c *cluster.Cluster, n *cluster.Node) {
	token := createToken(t, c)
	n.Sh(t, fmt.Sprintf("echo %s %s %s >> /etc/hosts", c.Host.Addr(), known, stranger))
	for _, a := range mistakes(c, n, token) {
		t.Run(a.name, func(t *testing.T) { a.try(t, n) })
	}
	once := createToken(t, c, "--uses", "1")
	for _, a := range refusals(t, c, token) {
		if a.name == "expired" {
			awaitExpiry(t, c, parse(t, a.args[3]).ID)
		}
		t.Run(a.name, func(t *testing.T) { a.try(t, n) })
	}
	t.Run("files that all can read", func(t *testing.T) { testReadable(t, c, n, token) })
	t.Run("right at last", func(t *testing.T) {
		n.Start(t, "--server", "https://"+known+":6443", "--token", once)
		n.WaitUp(t)
		if got := address(getNode(t, c, n.Host.Name())); got != n.Host.Addr().String() {
			t.Errorf("the node is at %s, want %s", got, n.Host.Addr())
		}
		if secret := parse(t, once).Secret; strings.Contains(n.Log(), secret) || n.Exec(t, nil, "grep", "-rqF", secret, "/var/lib/labk/agent/tls", "/var/lib/labk/agent/etc").Code == 0 {
			t.Error("the token's secret is in the log or on the disk")
		}
	})
	t.Run("used up", func(t *testing.T) {
		n.Stop(t)
		before := n.Inventory(t, credentials...)
		agent(t, n, "--server", c.URL(), "--token", once, "--node-name", "another").Refused(t, failed, "let in as many PCs", "labk token create")
		n.Unchanged(t, before, credentials...)
		n.Start(t, "--server", c.URL(), "--token", once) // as the node that it is, it needs no use of it
		n.WaitUp(t)
	})
}

// awaitExpiry waits until the token has expired; the token cleaner may have removed it then.
func awaitExpiry(t *testing.T, c *cluster.Cluster, id string) {
	cluster.Eventually(t, cluster.Limit, "end of the token", func() error {
		for line := range strings.Lines(c.Labk(t, "token", "list").Stdout) {
			if strings.HasPrefix(line, id) && !strings.Contains(line, "expired") {
				return fmt.Errorf("it is still good: %s", line)
			}
		}
		return nil
	})
}

// testReadable makes a mistake as well, so that the agent ends: the warning is what counts.
func testReadable(t *testing.T, c *cluster.Cluster, n *cluster.Node, token string) {
	for path, text := range map[string]string{tokenFile: token, configFile: "token: " + token + "\n"} {
		for mode, warned := range map[string]bool{"644": true, "600": false} {
			n.WriteFile(t, path, text)
			n.Sh(t, "chmod "+mode+" "+path)
			args := []string{"--server", "https://" + stranger + ":6443"}
			if path == tokenFile {
				args = append(args, "--token-file", path)
			}
			r := agent(t, n, args...)
			n.Sh(t, "rm "+path)
			r.Refused(t, failed, "is not for "+stranger)
			if got := strings.Contains(r.Stderr, "labk: warning: every user of this PC can read the token in "+path); got != warned {
				t.Errorf("%s with mode %s: warned: %v, want %v\n%s", path, mode, got, warned, r.Stderr)
			}
		}
	}
}
