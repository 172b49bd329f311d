package agent

import (
	"context"
	"net/http"

	"github.com/labk/labk/pkg/control"
	"github.com/labk/labk/pkg/join"
	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/pki"
	"github.com/labk/labk/pkg/process"
)

// renewal returns the component that answers `labk certificate rotate`. The kubelet renews its certificates by itself when their time has come, but can't be told to: they are removed,
// and the agent starts anew.
func renewal(mux *http.ServeMux, files join.Files) lifecycle.Component {
	wanted := make(chan struct{}, 1)
	mux.HandleFunc("POST "+pki.RotateRoute, func(w http.ResponseWriter, _ *http.Request) {
		names, err := files.ForgetKubelet()
		control.WriteJSON(w, names, err)
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
