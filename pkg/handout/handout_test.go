package handout

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// served is a server over TLS, as the API's is, that hands out a program of this size.
type served struct {
	*httptest.Server
	h       *handler
	program []byte
}

func serve(t *testing.T, ctx context.Context, size int, http2 bool) *served {
	t.Helper()
	program := make([]byte, size)
	rand.Read(program)
	path := filepath.Join(t.TempDir(), "labk")
	if err := os.WriteFile(path, program, 0o755); err != nil {
		t.Fatal(err)
	}
	h := newHandler(ctx, path)
	s := httptest.NewUnstartedServer(h.routes([]byte("#!/bin/sh\n")))
	s.EnableHTTP2 = http2
	s.StartTLS()
	t.Cleanup(s.Close)
	return &served{s, h, program}
}

func get(t *testing.T, s *served, path string, header ...string) (*http.Response, []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := s.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, body
}

func TestHandsOut(t *testing.T) {
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, t.Context(), 3<<20+17, http2)
			program := s.program
			if r, body := get(t, s, Program); r.StatusCode != http.StatusOK || !bytes.Equal(body, program) {
				t.Errorf("the program: %s, %d bytes, want %d", r.Status, len(body), len(program))
			}
			if r, body := get(t, s, Program, "Range", "bytes=1000-"); r.StatusCode != http.StatusPartialContent || !bytes.Equal(body, program[1000:]) {
				t.Errorf("the rest of the program: %s, %d bytes", r.Status, len(body))
			}
			sum := sha256.Sum256(program)
			if r, body := get(t, s, Sum); r.StatusCode != http.StatusOK || string(body) != hex.EncodeToString(sum[:])+"  labk\n" {
				t.Errorf("its sum: %s, %q", r.Status, body)
			}
			if r, body := get(t, s, Script); r.StatusCode != http.StatusOK || string(body) != "#!/bin/sh\n" {
				t.Errorf("the script: %s, %q", r.Status, body)
			}
			r, err := s.Client().Head(s.URL + Program)
			if err != nil || r.StatusCode != http.StatusOK || r.ContentLength != int64(len(program)) {
				t.Errorf("HEAD: %v, %v", r, err)
			}
			for _, path := range []string{Prefix, Prefix + "bin/", Prefix + "bin/linux-other", Prefix + "../etc/passwd", Prefix + "bin/..%2f..%2fetc"} {
				if r, _ := get(t, s, path); r.StatusCode != http.StatusNotFound {
					t.Errorf("%s: %s", path, r.Status)
				}
			}
			r, err = s.Client().Post(s.URL+Script, "text/plain", nil)
			if err != nil || r.StatusCode != http.StatusMethodNotAllowed {
				t.Errorf("POST: %v, %v", r, err)
			}
		})
	}
}

// hold begins downloads and takes nothing of them.
func hold(t *testing.T, s *served, n int) (release func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range n {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL+Program, nil)
		if err != nil {
			t.Fatal(err)
		}
		r, err := s.Client().Do(request)
		if err != nil {
			t.Fatal(err)
		}
		all.Go(func() { <-ctx.Done(); r.Body.Close() })
	}
	return func() { cancel(); all.Wait() }
}

// eventually waits for a condition, for a minute at most.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(time.Minute); !holds(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// A download waits for its turn, and gets it as soon as another PC has gone.
func TestTurns(t *testing.T) {
	s := serve(t, t.Context(), 64<<20, false) // more than any buffer between takes
	release := hold(t, s, sending)
	got := make(chan []byte)
	go func() {
		r, err := s.Client().Get(s.URL + Program)
		if err != nil {
			close(got)
			return
		}
		defer r.Body.Close()
		body, _ := io.ReadAll(r.Body)
		got <- body
	}()
	eventually(t, "the last download comes", func() bool { return len(s.h.queue) > sending })
	if n := len(s.h.turns); n != sending {
		t.Errorf("%d are sent at once, want %d", n, sending)
	}
	if r, _ := get(t, s, Script); r.StatusCode != http.StatusOK {
		t.Errorf("the script waits, too: %s", r.Status)
	}
	release()
	if body := <-got; !bytes.Equal(body, s.program) {
		t.Errorf("then it got %d bytes", len(body))
	}
}

func TestFullQueue(t *testing.T) {
	h := &handler{queue: make(chan struct{}, 1), turns: make(chan struct{}, 1)}
	h.queue <- struct{}{}
	w := httptest.NewRecorder()
	h.serveProgram(w, httptest.NewRequest(http.MethodGet, Program, nil))
	if w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
		t.Errorf("got %d, %v", w.Code, w.Header())
	}
}

// A stop ends downloads, also those of PCs that take nothing.
func TestStopEndsDownloads(t *testing.T) {
	for name, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		t.Run(name, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			s := serve(t, ctx, 64<<20, http2)
			r, err := s.Client().Get(s.URL + Program)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Body.Close()
			stop()
			eventually(t, "the handler ends", func() bool { return len(s.h.queue) == 0 })
			if n, err := io.Copy(io.Discard, r.Body); err == nil {
				t.Errorf("the download was not cut off: %d of %d bytes", n, len(s.program))
			}
		})
	}
}
