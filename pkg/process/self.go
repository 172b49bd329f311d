package process

import (
	"context"
	"fmt"
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

// selfRoute is where Self is served.
const selfRoute = "/process"

// Running asks the labk that runs on this PC; control.ErrNotRunning if there is none.
func Running(ctx context.Context) (Self, error) {
	var s Self
	err := control.Call(ctx, paths.ControlSocket, http.MethodGet, selfRoute, nil, &s)
	return s, err
}

// Runs tells whether the process runs the file that is now at path.
func Runs(pid int, path string) bool {
	program, err := os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	if err != nil {
		return false
	}
	file, err := os.Stat(path)
	return err == nil && os.SameFile(program, file)
}

func serveSelf(mux *http.ServeMux, data paths.Data, up *atomic.Bool) {
	mux.HandleFunc("GET "+selfRoute, func(w http.ResponseWriter, _ *http.Request) {
		control.WriteJSON(w, Self{PID: os.Getpid(), Version: version.Version, DataDir: string(data), Up: up.Load()}, nil)
	})
}

// noteVersion leaves word of which program used the data folder last: an older one must not follow it (health's LABK047).
func noteVersion(data paths.Data) error {
	if n, err := version.Parse(version.Version); err != nil || n.IsDevelopment() {
		return nil
	}
	if err := paths.WriteFile(data.Version(), []byte(version.Version+"\n"), 0o644); err != nil {
		return fmt.Errorf("note this program's version: %w", err)
	}
	return nil
}
