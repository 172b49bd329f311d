package join

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/labk/labk/pkg/lab"
	"github.com/labk/labk/pkg/pki"
	"github.com/labk/labk/tests/e2e/cluster"
)

// recorder keeps what it receives.
type recorder struct {
	net.Listener
	mu   sync.Mutex
	data bytes.Buffer
}

func (r *recorder) Accept() (net.Conn, error) {
	c, err := r.Listener.Accept()
	return &recorded{c, r}, err
}

func (r *recorder) received() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Clone(r.data.Bytes())
}

type recorded struct {
	net.Conn
	to *recorder
}

func (c *recorded) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.to.mu.Lock()
	defer c.to.mu.Unlock()
	c.to.data.Write(p[:n])
	return n, err
}

// listen is a PC that something other than labk answers on; it ends with the test.
func listen(t *testing.T, h *lab.Host, port int, serve func(net.Listener) error) *recorder {
	t.Helper()
	l, err := h.Net().Listen(t.Context(), "tcp", fmt.Sprintf("%s:%d", h.Addr(), port))
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{Listener: l}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := serve(r); err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	}()
	t.Cleanup(func() {
		l.Close()
		<-done
	})
	return r
}

// testStrangers lets the agent talk to servers that are not labk's: nobody but the server that the token names may see it.
func testStrangers(t *testing.T, c *cluster.Cluster, n *cluster.Node, elsewhere *lab.Host) {
	token := createToken(t, c)
	web := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") }
	t.Run("plain HTTP", func(t *testing.T) {
		r := listen(t, elsewhere, 8080, func(l net.Listener) error { return http.Serve(l, http.HandlerFunc(web)) })
		attempt{args: []string{"--server", fmt.Sprintf("https://%s:8080", elsewhere.Addr()), "--token", token}, code: failed,
			want: []string{"does not speak TLS", "https://first-pc:6443"}, begins: true}.try(t, n)
		onlyGreeted(t, r, token)
	})
	ca, err := pki.NewStore(t.TempDir(), time.Now).CA("stranger")
	if err != nil {
		t.Fatal(err)
	}
	pair, _, err := ca.Issue(pki.Leaf{Name: "web", CommonName: "web", IPs: []net.IP{elsewhere.Addr().AsSlice()}}, false)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := tls.LoadX509KeyPair(pair.Cert, pair.Key)
	if err != nil {
		t.Fatal(err)
	}
	bare, liar := whole, whole
	bare.Certificate = whole.Certificate[:1]
	right, _ := pem.Decode([]byte(c.ReadFile(t, "/var/lib/labk/server/tls/server-ca.crt"))) // no secret
	liar.Certificate = [][]byte{whole.Certificate[0], right.Bytes}
	for i, s := range []struct {
		name string
		cert tls.Certificate
		want string
	}{
		{"another authority", whole, "not the server that the token is for"},
		{"no authority", bare, "not a labk server"},
		{"a liar", liar, "certificate is not good"},
	} {
		t.Run(s.name, func(t *testing.T) {
			var heard atomic.Int64
			r := listen(t, elsewhere, 7001+i, func(l net.Listener) error {
				l = tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{s.cert}, NextProtos: []string{"h2", "http/1.1"}})
				for {
					conn, err := l.Accept()
					if err != nil {
						return err
					}
					data, _ := io.ReadAll(conn) // the handshake's error is what is hoped for
					heard.Add(int64(len(data)))
					conn.Close()
				}
			})
			attempt{args: []string{"--server", fmt.Sprintf("https://%s:%d", elsewhere.Addr(), 7001+i), "--token", token}, code: failed, want: []string{s.want}, begins: true}.try(t, n)
			onlyGreeted(t, r, token)
			if heard.Load() > 0 {
				t.Errorf("it said %d bytes", heard.Load())
			}
		})
	}
}

// onlyGreeted makes sure that the agent sent TLS's greeting and nothing of the token.
func onlyGreeted(t *testing.T, r *recorder, token string) {
	t.Helper()
	got := r.received()
	if len(got) < 6 || got[0] != 0x16 || got[5] != 1 { // a handshake record with a client's hello
		t.Fatalf("it did not send TLS's greeting: %.20q", got)
	}
	p := parse(t, token)
	for _, part := range []string{p.CAHash, p.ID, p.Secret} {
		if bytes.Contains(got, []byte(part)) {
			t.Errorf("it sent %s", part)
		}
	}
}

// testUnreachable asks a PC where nothing listens. The agent waits a while, as the server may just be starting.
func testUnreachable(t *testing.T, c *cluster.Cluster, n *cluster.Node, elsewhere *lab.Host) {
	server := fmt.Sprintf("%s:6443", elsewhere.Addr())
	attempt{args: []string{"--server", "https://" + server, "--token", createToken(t, c)}, code: failed,
		want: []string{"join " + server, "can't be reached", "labk server", "firewall", "6443"}, begins: true}.try(t, n)
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
