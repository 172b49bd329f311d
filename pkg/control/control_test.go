package control

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCall(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "control.sock")
	if err := Call(t.Context(), socket, "GET", "/status", nil, nil); !errors.Is(err, ErrNotRunning) {
		t.Fatalf("without a labk: %v", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /echo", func(w http.ResponseWriter, r *http.Request) {
		var in map[string]string
		err := json.NewDecoder(r.Body).Decode(&in)
		WriteJSON(w, in, err)
	})
	mux.HandleFunc("POST /fail", func(w http.ResponseWriter, _ *http.Request) { WriteJSON(w, nil, errors.New("it is broken")) })
	for range 2 { // the second listener finds the first one's socket
		l, err := Listen(socket, mux)
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the socket: %v, %v", info.Mode(), err)
		}
		var out map[string]string
		if err := Call(t.Context(), socket, "POST", "/echo", map[string]string{"a": "b"}, &out); err != nil || out["a"] != "b" {
			t.Errorf("echo: %v, %v", out, err)
		}
		if err := Call(t.Context(), socket, "POST", "/fail", nil, nil); err == nil || !strings.Contains(err.Error(), "it is broken") {
			t.Errorf("fail: %v", err)
		}
		l.Close()
		if err := Call(t.Context(), socket, "POST", "/echo", nil, &out); !errors.Is(err, ErrNotRunning) {
			t.Errorf("after Close: %v", err)
		}
	}
}

// Who asks a labk that is just ending learns that none runs.
func TestCallOfOneThatEnds(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "control.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		_ = listener.Close() // with its file
		_ = conn.Close()     // unread: the client's connection is reset
	}()
	if err := Call(t.Context(), socket, "GET", "/status", nil, nil); !errors.Is(err, ErrNotRunning) {
		t.Errorf("got %v", err)
	}
}
