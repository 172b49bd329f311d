package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/logging"
	"github.com/labk/labk/pkg/process"
	"github.com/labk/labk/pkg/systemd"
	"github.com/labk/labk/pkg/version"
)

// nodeAction is what `labk server` and `labk agent` have in common: the configuration, what a person sees, and a fresh start when one is asked for.
func nodeAction(role string, stderr io.Writer, run func(context.Context, process.Options) error) cli.ActionFunc {
	return func(c *cli.Context) error {
		cfg, err := loadConfig(c, role)
		if err != nil {
			return err
		}
		notifier := systemd.Take()
		sink := logging.NewSink(stderr, cfg.Debug)
		sink.Capture()
		show := newProgress(stderr, cfg.Debug)
		show.say("labk %s, %s on %s", version.Version, role, cfg.NodeName)
		host := health.ThisHost(cfg, role == "server", built())
		host.Starting = true
		err = run(c.Context, process.Options{
			Config: &cfg, Host: host, Observe: show.observe, Say: show.say, Systemd: notifier, Fatal: sink.Fatal(),
			Up: func(node net.IP) { show.up(role, node, &cfg) },
		})
		show.end()
		if restart := new(process.RestartError); errors.As(err, &restart) {
			fmt.Fprintln(stderr, "labk:", restart.Reason)
			err = unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), notifier.Environ()...))
			return fmt.Errorf("start anew: %w", err)
		}
		if err != nil {
			for _, line := range sink.Held() {
				fmt.Fprint(stderr, line)
			}
		}
		return err
	}
}

// built is when this program was built, zero if it does not know.
func built() time.Time {
	t, err := time.Parse(time.RFC3339, version.BuildDate)
	if err != nil || t.Unix() == 0 {
		return time.Time{}
	}
	return t
}
