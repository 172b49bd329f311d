// Package handout is how a server gives its own program, and the script that installs it, to the other PCs of the LAN: a lab then needs one
// download in all. Anybody may have them, as there is no secret in either; who takes them compares the SHA-256 that a join line carries.
package handout

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/labk/labk/pkg/digest"
)

// Paths on the API's port, for GET and HEAD.
const (
	Prefix  = "/labk/"
	Script  = Prefix + "install.sh"
	Program = Prefix + "bin/linux-" + runtime.GOARCH
	// Sum is the program's SHA-256 as sha256sum writes it.
	Sum = Program + ".sha256"
)

// running is the very program that runs, also when the file that it was started from has been replaced since.
const running = "/proc/self/exe"

const (
	// sending is how many programs are sent at once: enough to fill a network, few enough that each PC of a classroom gets its turn.
	sending = 8
	// waiting is how many PCs may wait for their turn; more are asked to come again.
	waiting = 256
	// stalled is how long a PC may take nothing before it loses its turn.
	stalled = 30 * time.Second
)

// New returns the handler of Prefix. Downloads end with ctx. It may be used concurrently.
func New(ctx context.Context, script []byte) http.Handler {
	return newHandler(ctx, running).routes(script)
}

func newHandler(ctx context.Context, program string) *handler {
	return &handler{
		ctx: ctx, program: program, turns: make(chan struct{}, sending), queue: make(chan struct{}, sending+waiting),
		sum: sync.OnceValues(func() (string, error) { return digest.OfFile(program) }),
	}
}

func (h *handler) routes(script []byte) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Script, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/x-shellscript; charset=utf-8")
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(script)))
	})
	mux.HandleFunc("GET "+Sum, h.serveSum)
	mux.HandleFunc("GET "+Program, h.serveProgram)
	return mux
}

type handler struct {
	ctx     context.Context
	program string
	// sum reads the whole program, so it is asked for by the first who needs it.
	sum func() (string, error)
	// turns has room for those that are sent to, queue for all.
	turns, queue chan struct{}
}

func (h *handler) serveSum(w http.ResponseWriter, r *http.Request) {
	sum, err := h.sum()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprintf(w, "%s  labk\n", sum)
}

func (h *handler) serveProgram(w http.ResponseWriter, r *http.Request) {
	select {
	case h.queue <- struct{}{}:
		defer func() { <-h.queue }()
	default:
		later(w)
		return
	}
	select {
	case h.turns <- struct{}{}:
		defer func() { <-h.turns }()
	case <-r.Context().Done():
		return
	case <-h.ctx.Done():
		later(w)
		return
	}
	file, err := os.Open(h.program)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer file.Close()
	out := &patient{ResponseWriter: w, control: http.NewResponseController(w)}
	// A stop does not wait for a download.
	defer context.AfterFunc(h.ctx, out.end)()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Connection", "close") // what is left of the time for the last write is not the next request's
	http.ServeContent(out, r, "", time.Time{}, file)
}

// later asks a client to come again; curl does, with --retry.
func later(w http.ResponseWriter) {
	w.Header().Set("Retry-After", "5")
	http.Error(w, "too many PCs are taking the program just now: try again in a moment", http.StatusServiceUnavailable)
}

// patient is a response for which time is counted only while the client takes nothing: the whole may last.
type patient struct {
	http.ResponseWriter
	control *http.ResponseController

	mu    sync.Mutex
	ended bool
}

// Write gives the client time anew.
func (p *patient) Write(data []byte) (int, error) {
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return 0, context.Canceled
	}
	err := p.control.SetWriteDeadline(time.Now().Add(stalled))
	p.mu.Unlock()
	if err != nil {
		return 0, err
	}
	return p.ResponseWriter.Write(data)
}

// end lets a Write under way, and any later one, fail.
func (p *patient) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	_ = p.control.SetWriteDeadline(time.Now()) // a connection that has gone needs none
}
