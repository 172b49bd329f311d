package agent

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/labk/labk/pkg/control"
	"github.com/labk/labk/pkg/join"
	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/pki"
	"github.com/labk/labk/pkg/process"
)

// reachTimeout bounds the wait for the server's answer before certificates are removed.
const reachTimeout = 10 * time.Second

// renewal returns the component that answers `labk certificate rotate`. The kubelet renews its certificates by itself when their time has come, but can't be told to: they are removed,
// and the agent starts anew. Without a server it would stay without: reach tells whether there is one.
func renewal(mux *http.ServeMux, files join.Files, reach func(context.Context) error) lifecycle.Component {
	wanted := make(chan struct{}, 1)
	mux.HandleFunc("POST "+pki.RotateRoute, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), reachTimeout)
		defer cancel()
		if err := reach(ctx); err != nil {
			control.WriteJSON(w, nil, fmt.Errorf("only the server can issue others, and it can't be asked now; nothing was changed: %w: try again when it runs and this PC reaches it", err))
			return
		}
		names, err := files.ForgetKubelet()
		control.WriteJSON(w, pki.Rotated{Asked: names}, err)
		if err == nil {
			select {
			case wanted <- struct{}{}:
			default:
			}
		}
	})
	return lifecycle.NewTask("renewal", func(ctx context.Context) error {
		select {
		case <-wanted:
			return &process.RestartError{Reason: "new certificates were asked for: starting anew to get them"}
		case <-ctx.Done():
			return nil
		}
	}, nil)
}
