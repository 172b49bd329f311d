package badhost

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/labk/labk/tests/e2e/cluster"
)

// programs is a folder with links to the machine's programs, without some.
const programs = "/root/programs"

func without(names string) string {
	return "mkdir " + programs + " && cd " + programs + ` && for d in /usr/sbin /usr/bin; do
		for f in $d/*; do [ -x "$f" ] && ln -sf "$f" .; done; done; rm -f ` + names
}

func badHosts(t *testing.T) []mistake {
	return []mistake{
		{name: "not root", argv: append([]string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"}, server()...),
			code: failed, want: []string{"not root", "sudo"}},
		{name: "data folder is a file", files: map[string]string{"/var/lib/labk": "mine"}, argv: server(),
			code: failed, want: []string{"/var/lib/labk", "not a folder", "--data-dir"}},
		{name: "data folder is read-only",
			setup: "mkdir /var/lib/labk && mount --bind /var/lib/labk /var/lib/labk && mount -o remount,ro,bind /var/lib/labk",
			undo:  "umount /var/lib/labk && rmdir /var/lib/labk",
			argv:  server(), code: failed, want: []string{"/var/lib/labk", "read-only", "--data-dir"}},
		{name: "full disk",
			setup: "mkdir /var/lib/labk && mount -t tmpfs -o size=8m tmpfs /var/lib/labk && ! head -c 16m /dev/zero >/var/lib/labk/film 2>/dev/null",
			undo:  "umount /var/lib/labk && rmdir /var/lib/labk",
			argv:  server(), code: failed, want: []string{"/var/lib/labk", "0 MiB free", "--data-dir"}},
		{name: "port taken",
			setup: "busybox httpd -p 6443",
			undo:  "pkill -x busybox",
			argv:  server(), code: failed, want: []string{"6443", "busybox (pid ", "--https-listen-port"}},
		{name: "neither nft nor iptables",
			setup: without("nft iptables*"), undo: "rm -r " + programs,
			argv: append([]string{"env", "PATH=" + programs}, server()...),
			code: failed, want: []string{"neither nft nor iptables", "nftables"}},
		{name: "nft without names of protocols",
			setup: without("iptables*") + " && mv /etc/protocols /root/", undo: "mv /root/protocols /etc/ && rm -r " + programs,
			argv: append([]string{"env", "PATH=" + programs}, server()...),
			code: failed, want: []string{"/etc/protocols", "netbase"}},
		{name: "clock before the certificates",
			files: map[string]string{"/var/lib/labk/server/tls/server-ca.crt": futureCertificate(t)},
			undo:  "rm -r /var/lib/labk",
			argv:  server(), code: failed, want: []string{"clock", "server-ca.crt", "begins", "set the clock"}},
	}
}

// futureCertificate begins in ten years.
func futureCertificate(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().AddDate(10, 0, 0), NotAfter: time.Now().AddDate(20, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

func TestBadHost(t *testing.T) {
	c := cluster.Start(t, cluster.Options{DontStart: true})
	t.Run("good", func(t *testing.T) {
		before := c.Server.Inventory(t, kept...)
		if r := c.Labk(t, "check"); r.Code != 0 {
			t.Errorf("`labk check` fails on a good host with code %d:\n%s%s", r.Code, r.Stdout, r.Stderr)
		}
		results(t, c.Labk(t, "check", "-o", "json"))
		c.Server.Unchanged(t, before, kept...)
	})
	for _, m := range badHosts(t) {
		t.Run(m.name, func(t *testing.T) { m.try(t, c) })
		// `labk check` finds the same, and says it in its table
		t.Run(m.name+", checked", func(t *testing.T) {
			m.argv = append(append([]string(nil), m.argv[:len(m.argv)-1]...), "check")
			m.checked(t, c)
		})
	}
}

// result is what `labk check -o json` tells of each thing that it looks at.
type result struct{ Code, Title, Status, Detail, Remedy string }

func results(t *testing.T, r cluster.Result) (all []result) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.Stdout), &all); err != nil || len(all) == 0 {
		t.Fatalf("not the JSON of results: %v:\n%s%s", err, r.Stdout, r.Stderr)
	}
	for _, x := range all {
		if x.Code == "" || x.Title == "" || x.Detail == "" || x.Status != "pass" && x.Remedy == "" {
			t.Errorf("a result lacks something: %+v", x)
		}
	}
	return all
}

// checked runs the mistake's command, which is labk check, with -o json: one thing fails, and it is what try wants to read.
func (m mistake) checked(t *testing.T, c *cluster.Cluster) {
	m.with(t, c, func(argv []string) {
		r := c.Exec(t, nil, append(argv, "-o", "json")...)
		if r.Code != failed {
			t.Errorf("it ends with code %d, want %d", r.Code, failed)
		}
		var fails []string
		for _, x := range results(t, r) {
			if x.Status == "fail" {
				fails = append(fails, x.Title+": "+x.Detail+": "+x.Remedy)
			}
		}
		for _, w := range m.want {
			if len(fails) != 1 || !strings.Contains(fails[0], w) {
				t.Errorf("what fails is %q, want %q in one result", fails, w)
			}
		}
	})
}
