package process

import (
	"context"
	"net/http"
	"os"
	"sync/atomic"

	"github.com/labk/labk/pkg/control"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/version"
)

// Self is what a running labk says of itself on the control socket.
type Self struct {
	PID     int    `json:"pid"`
	Version string `json:"version"`
	// DataDir is the data folder in use.
	DataDir string `json:"dataDir"`
	// Up tells that everything has been ready.
	Up bool `json:"up"`
}

// selfRoute is where Self is served, beside the routes of Options.Control.
const selfRoute = "/process"

// Running asks the labk that runs on this PC; control.ErrNotRunning if there is none.
func Running(ctx context.Context) (Self, error) {
	var s Self
	err := control.Call(ctx, paths.ControlSocket, http.MethodGet, selfRoute, nil, &s)
	return s, err
}

// controlHandler serves Self, and everything else by the process's own handler, which may be nil.
func controlHandler(data paths.Data, up *atomic.Bool, own http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+selfRoute, func(w http.ResponseWriter, _ *http.Request) {
		control.WriteJSON(w, Self{PID: os.Getpid(), Version: version.Version, DataDir: string(data), Up: up.Load()}, nil)
	})
	if own != nil {
		mux.Handle("/", own)
	}
	return mux
}
