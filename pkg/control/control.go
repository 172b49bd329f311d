// Package control is how commands on a PC talk to the labk that runs there: HTTP and JSON over a unix socket that only root may open.
package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"
)

// ErrNotRunning is that no labk runs on this PC.
var ErrNotRunning = errors.New("labk does not run on this PC: start it with `labk server` or `labk agent`, or `systemctl start labk`")

// Listener serves the socket of a running labk.
type Listener struct {
	server *http.Server
	done   chan struct{}
}

// Listen makes the socket at path, 0600, and serves h there until Close. Whoever calls it holds the data folder's lock: a socket that is there already is one that a killed labk
// left, and is replaced.
func Listen(path string, h http.Handler) (*Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("make the control socket: %w", err)
	}
	// The folder above is passable for others, so the mode matters from the first moment: the socket is made under another name.
	making := path + ".new"
	if err := os.Remove(making); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("make the control socket: %w", err)
	}
	socket, err := net.Listen("unix", making)
	if err != nil {
		return nil, fmt.Errorf("make the control socket: %w", err)
	}
	socket.(*net.UnixListener).SetUnlinkOnClose(false)
	err = os.Chmod(making, 0o600)
	if err == nil {
		err = os.Rename(making, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make the control socket: %w", err), socket.Close())
	}
	l := &Listener{server: &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		_ = l.server.Serve(socket) // always an error: that it was closed
	}()
	return l, nil
}

// Close ends the serving; requests under way are cut off. The socket's file stays: nobody answers there.
func (l *Listener) Close() {
	_ = l.server.Close()
	<-l.done
}

// WriteJSON answers a request with a value, or with what went wrong.
func WriteJSON(w http.ResponseWriter, value any, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // a client that has gone needs no answer
}

// Call sends a request to the labk that listens at the socket and decodes its answer into answer, unless that is nil. body, unless nil, is sent as JSON. It ends with ctx; the error is
// ErrNotRunning if nobody listens, else what labk said.
func Call(ctx context.Context, socket, method, route string, body, answer any) error {
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}
	defer transport.CloseIdleConnections()
	var content io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://labk"+route, content)
	if err != nil {
		return err
	}
	client := &http.Client{Transport: transport}
	response, err := client.Do(request)
	if err != nil && method == http.MethodGet && ctx.Err() == nil {
		response, err = client.Do(request) // it may have been just ending: now nobody listens, or the next one does
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
		return ErrNotRunning
	}
	if errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("ask the labk of this PC: %w: run this as root", err)
	}
	if err != nil {
		return fmt.Errorf("ask the labk of this PC: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10))
		return fmt.Errorf("ask the labk of this PC: %s", strings.TrimSpace(string(text)))
	}
	if answer == nil {
		return nil
	}
	if err := json.NewDecoder(response.Body).Decode(answer); err != nil {
		return fmt.Errorf("ask the labk of this PC: %w", err)
	}
	return nil
}
