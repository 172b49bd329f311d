package external

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/lab"
	"github.com/labk/labk/pkg/pki"
	"github.com/labk/labk/tests/e2e/cluster"
)

// database is a server in the second host, with a folder of its own there.
type database struct {
	host     *lab.Host
	kind     string
	endpoint string
	place    string // the endpoint as others may see it
	password string
	// options are more lines of labk's configuration, files what they name.
	options string
	files   map[string]string
	// mistakes are what can be wrong with the configuration.
	mistakes map[string]mistake
	argv     []string
	port     int

	running *lab.Cmd
	ended   chan error
	log     bytes.Buffer
}

// mistake is an endpoint, files that are other ones, and what labk has to say.
type mistake struct {
	endpoint string
	place    string
	files    map[string]string
	want     []string
}

const password = "s3cret/w@rd"

func (d *database) config(endpoint string) string {
	return fmt.Sprintf("datastore-endpoint: %q\n%s", endpoint, d.options)
}

// start starts the server and returns when it takes connections.
func (d *database) start(t *testing.T) {
	t.Helper()
	cmd := d.host.Command(context.Background(), d.argv...)
	cmd.Stdout, cmd.Stderr = &d.log, &d.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	d.running, d.ended = cmd, ended
	address := net.JoinHostPort(d.host.Addr().String(), fmt.Sprint(d.port))
	cluster.Eventually(t, cluster.Limit, "start of the database", func() error {
		select {
		case err := <-ended:
			t.Fatalf("the database ended: %v:\n%s", err, d.log.String())
		default:
		}
		connection, err := d.host.Net().DialContext(t.Context(), "tcp", address)
		if err != nil {
			return err
		}
		return connection.Close()
	})
}

// kill ends the server and whatever it has started, as a power cut would.
func (d *database) kill(t *testing.T) {
	t.Helper()
	name := filepath.Base(d.argv[0])
	if name == "setpriv" {
		name = filepath.Base(d.argv[len(asUser("x"))])
	}
	d.sh(t, "pkill -KILL -x "+name) // of this host alone: it has a PID namespace
	select {
	case <-d.ended:
	case <-time.After(cluster.Limit):
		t.Fatal("the database does not end")
	}
}

func (d *database) sh(t *testing.T, script string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), cluster.Limit)
	defer cancel()
	if out, err := d.host.Command(ctx, "sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// write writes a file in the database's host.
func (d *database) write(t *testing.T, path, text string) {
	t.Helper()
	file, err := d.host.Path(path)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(file), 0o755)
	}
	if err == nil {
		err = os.WriteFile(file, []byte(text), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// program finds a server of one of Debian's packages.
func program(t *testing.T, pattern, debian string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		t.Fatalf("there is no %s: install %s (scripts/deps.sh --test)", pattern, debian)
	}
	return found[len(found)-1]
}

// asUser is how a server is started that refuses to be root's.
func asUser(user string) []string {
	return []string{"setpriv", "--reuid=" + user, "--regid=" + user, "--clear-groups", "--"}
}

// authority is a CA and what it has signed, as PEM.
type authority struct {
	ca    string
	store *pki.Store
	maker *pki.CA
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	store := pki.NewStore(t.TempDir(), time.Now)
	maker, err := store.CA("ca")
	if err != nil {
		t.Fatal(err)
	}
	return &authority{ca: readFile(t, maker.Cert), store: store, maker: maker}
}

// leaf is a certificate with its key: of a server at the address, or of a client.
func (a *authority) leaf(t *testing.T, name string, ips ...net.IP) string {
	t.Helper()
	pair, _, err := a.maker.Issue(pki.Leaf{Name: name, CommonName: name, IPs: ips}, false)
	if err != nil {
		t.Fatal(err)
	}
	return readFile(t, pair.Cert)
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The files of the database's host, and of labk's.
const (
	serverCert = "/var/lib/dbtls/server.pem"
	serverCA   = "/var/lib/dbtls/ca.crt"
	ownCA      = "/etc/labk/datastore-ca.crt"
	ownCert    = "/etc/labk/datastore.crt"
)

func postgres(t *testing.T, c *cluster.Cluster) *database {
	server := program(t, "/usr/lib/postgresql/*/bin/postgres", "postgresql")
	host := c.Lab.Host(2)
	address := host.Addr().String()
	tls := newAuthority(t)
	d := &database{
		host: host, kind: config.Postgres, port: 5432, password: password,
		endpoint: "postgres://labk:s3cret%2Fw%40rd@" + address + ":5432/labk", place: "postgres://labk@" + address + ":5432/labk",
		options: "datastore-cafile: " + ownCA + "\n", files: map[string]string{ownCA: tls.ca},
	}
	d.mistakes = map[string]mistake{
		"wrong password": {"postgres://labk:wr0ng@" + address + ":5432/labk", d.place, nil, []string{"password authentication failed", "pg_hba.conf"}},
		"wrong CA":       {d.endpoint, d.place, map[string]string{ownCA: newAuthority(t).ca}, []string{"unknown authority", "datastore-cafile"}},
	}
	d.write(t, serverCert, tls.leaf(t, "db", net.ParseIP(address)))
	d.write(t, "/var/lib/pgpassword", password)
	d.sh(t, "install -d -o postgres -g postgres /var/lib/db && chown postgres "+serverCert+" && chmod 600 "+serverCert)
	d.sh(t, strings.Join(append(asUser("postgres"), filepath.Join(filepath.Dir(server), "initdb"), "-D", "/var/lib/db", "-U", "labk", "--pwfile=/var/lib/pgpassword", "-A", "scram-sha-256", "--no-sync"), " "))
	d.sh(t, "echo 'hostssl all all 0.0.0.0/0 scram-sha-256' >>/var/lib/db/pg_hba.conf")
	d.argv = append(asUser("postgres"), server, "-D", "/var/lib/db", "-c", "listen_addresses=*", "-c", "unix_socket_directories=",
		"-c", "ssl=on", "-c", "ssl_cert_file="+serverCert, "-c", "ssl_key_file="+serverCert)
	return d
}

func mariaDB(t *testing.T, c *cluster.Cluster) *database {
	server := program(t, "/usr/sbin/mariadbd", "mariadb-server")
	host := c.Lab.Host(2)
	address := host.Addr().String()
	d := &database{
		host: host, kind: config.MySQL, port: 3306, password: password,
		endpoint: "mysql://labk:" + password + "@tcp(" + address + ":3306)/labk", place: "mysql://labk@tcp(" + address + ":3306)/labk",
	}
	d.mistakes = map[string]mistake{
		"wrong password": {"mysql://labk:wr0ng@tcp(" + address + ":3306)/labk", d.place, nil, []string{"Access denied", "GRANT ALL"}},
	}
	d.write(t, "/var/lib/users.sql", fmt.Sprintf("CREATE USER IF NOT EXISTS 'labk'@'%%' IDENTIFIED BY '%s';\nGRANT ALL ON labk.* TO 'labk'@'%%';\n", password))
	d.sh(t, "install -d -o mysql -g mysql /var/lib/db && mariadb-install-db --no-defaults --datadir=/var/lib/db --user=mysql --auth-root-authentication-method=normal --skip-test-db")
	d.argv = append(asUser("mysql"), server, "--no-defaults", "--datadir=/var/lib/db", "--socket=/var/lib/db/socket", "--bind-address=0.0.0.0", "--init-file=/var/lib/users.sql")
	return d
}

// etcd is Debian's 3.4, which is older than what Kubernetes 1.37 is tested with, and does.
func etcd(t *testing.T, c *cluster.Cluster) *database {
	server, err := exec.LookPath("etcd")
	if err != nil {
		t.Fatal(errors.Join(err, errors.New("install etcd-server (scripts/deps.sh --test)")))
	}
	host := c.Lab.Host(2)
	address := host.Addr().String()
	tls := newAuthority(t)
	d := &database{
		host: host, kind: config.Etcd, port: 2379,
		// the first of the two is never there
		endpoint: "https://" + address + ":2479,https://" + address + ":2379", place: "https://" + address + ":2479,https://" + address + ":2379",
		options: "datastore-cafile: " + ownCA + "\ndatastore-certfile: " + ownCert + "\ndatastore-keyfile: " + ownCert + "\n",
		files:   map[string]string{ownCA: tls.ca, ownCert: tls.leaf(t, "labk")},
	}
	stranger, one := newAuthority(t), "https://"+address+":2379"
	d.mistakes = map[string]mistake{
		"wrong CA":          {one, one, map[string]string{ownCA: stranger.ca}, []string{"unknown authority", "datastore-cafile"}},
		"wrong certificate": {one, one, map[string]string{ownCert: stranger.leaf(t, "labk")}, []string{"datastore-certfile"}},
	}
	for name, m := range d.mistakes {
		merged := maps.Clone(d.files)
		maps.Copy(merged, m.files)
		m.files = merged
		d.mistakes[name] = m
	}
	d.write(t, serverCert, tls.leaf(t, "db", net.ParseIP(address)))
	d.write(t, serverCA, tls.ca)
	d.argv = []string{server, "--data-dir=/var/lib/db", "--listen-client-urls=https://0.0.0.0:2379", "--advertise-client-urls=https://" + address + ":2379",
		"--cert-file=" + serverCert, "--key-file=" + serverCert, "--trusted-ca-file=" + serverCA, "--client-cert-auth", "--log-level=error"}
	return d
}
