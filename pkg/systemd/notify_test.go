package systemd

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// listen makes the socket that systemd would, and returns what is sent to it.
func listen(t *testing.T) (path string, messages chan string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	messages = make(chan string)
	go func() {
		buf := make([]byte, 1000)
		for {
			n, err := conn.Read(buf)
			if err != nil {
				return
			}
			select {
			case messages <- string(buf[:n]):
			case <-t.Context().Done():
				return
			}
		}
	}()
	return path, messages
}

func TestNotify(t *testing.T) {
	path, messages := listen(t)
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "30000")
	n := Take()
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC"} {
		if _, there := os.LookupEnv(name); there {
			t.Errorf("%s is still in the environment", name)
		}
	}
	for want, say := range map[string]func(){
		"READY=1\nSTATUS=up": func() { n.Ready("up") },
		"STOPPING=1":         n.Stopping,
	} {
		go say()
		if got := <-messages; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	alive := make(chan bool, 4)
	done := make(chan struct{})
	go func() { n.Watch(ctx, func(context.Context) bool { return <-alive }); close(done) }()
	alive <- false
	alive <- true
	if got := <-messages; got != "WATCHDOG=1" {
		t.Errorf("got %q", got)
	}
	cancel()
	alive <- false
	<-done
}

func TestWithoutSystemd(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	n := Take()
	n.Ready("up")
	n.Watch(t.Context(), func(context.Context) bool { t.Error("asked"); return false })
	if n.watchdog != 0*time.Second {
		t.Error(n.watchdog)
	}
}
