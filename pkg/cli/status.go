package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/labk/labk/pkg/control"
	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/process"
	"github.com/labk/labk/pkg/status"
)

// statusLimit bounds the answer of a running labk, which looks for faults before it gives one.
const statusLimit = health.Limit + 10*time.Second

func statusCommand() *cli.Command {
	return &cli.Command{
		Name: "status", Usage: "Say how labk is on this PC: what runs, what it waits for, what is wrong; 1 unless all is well",
		Flags: append(configFlags("", "data-dir"), outputFlag()),
		Action: func(c *cli.Context) error {
			s, err := askStatus(c)
			if err != nil {
				return err
			}
			err = print(c, s, func() error { return showStatus(c.App.Writer, s, time.Now()) })
			if err == nil && !s.Well() {
				return cli.Exit("", codeFailed)
			}
			return err
		},
	}
}

// askStatus asks the labk that runs, or finds out what the last one left.
func askStatus(c *cli.Context) (s status.Status, err error) {
	cfg, err := loadConfig(c, "")
	if err != nil {
		return s, err
	}
	ctx, cancel := context.WithTimeout(c.Context, statusLimit)
	defer cancel()
	err = control.Call(ctx, paths.ControlSocket, "GET", status.Route, nil, &s)
	if errors.Is(err, control.ErrNotRunning) {
		return statusAtRest(c, ctx, paths.Data(cfg.DataDir))
	}
	return s, err
}

// statusAtRest looks with the configuration that the last labk had, or a server would have.
func statusAtRest(c *cli.Context, ctx context.Context, data paths.Data) (status.Status, error) {
	last, err := process.ReadRecord(data)
	if err != nil {
		return status.Status{}, err
	}
	role := "server"
	if last != nil {
		role = last.Role
	}
	host, err := hostAs(c, role)
	if err != nil {
		return status.Status{}, err
	}
	return status.AtRest(ctx, host, last), nil
}

func showStatus(out io.Writer, s status.Status, now time.Time) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	headline(w, s, now)
	if d := s.Datastore; d != nil && d.Place != "" {
		fmt.Fprintf(w, "datastore\t%s\t%s\n", d.Kind, d.Place)
	} else if d != nil {
		fmt.Fprintf(w, "datastore\t%.1f MiB\t%s\n", float64(d.Bytes)/(1<<20), d.File)
	}
	showSnapshots(w, s.Snapshots, now)
	showCertificates(w, s.Certificates, now)
	showComponents(w, s.Components, now)
	if s.NodesError != "" {
		fmt.Fprintf(w, "nodes\tunknown\t%s\n", s.NodesError)
	}
	for i, n := range s.Nodes {
		fmt.Fprintf(w, "%s\t%s\t%s\n", first(i, "nodes"), readiness(n), strings.Join([]string{n.Name, n.Address, n.Version, ago(now, n.Since)}, "  "))
	}
	if len(s.Faults) == 0 {
		fmt.Fprint(w, "faults\tnone\t\n")
	}
	for i, f := range s.Faults {
		fmt.Fprintf(w, "%s\t%s\t%s %s: %s\n\t\t-> %s\n", first(i, "faults"), f.Status, f.Code, f.Title, f.Detail, f.Remedy)
	}
	return w.Flush()
}

// showSnapshots says what could be brought back.
func showSnapshots(w io.Writer, s *status.Snapshots, now time.Time) {
	if s == nil {
		return
	}
	text := []string{"none yet"}
	if s.Newest != "" {
		text = []string{s.Newest, ago(now, s.Created), fmt.Sprintf("%d objects", s.Objects)}
		if s.Holder != "" {
			text = append(text, "also on "+s.Holder)
		}
	}
	next := "no schedule"
	if !s.Next.IsZero() {
		next = "next " + s.Next.Local().Format("2006-01-02 15:04")
	}
	fmt.Fprintf(w, "snapshots\t%s\t%s\n", next, strings.Join(text, "  "))
}

// first is a heading for the first line only.
func first(i int, heading string) string {
	if i > 0 {
		return ""
	}
	return heading
}

func headline(w io.Writer, s status.Status, now time.Time) {
	name := strings.TrimSpace("labk " + s.Role)
	if s.State == status.Stopped {
		fmt.Fprintf(w, "%s\tdoes not run\t%s\n", name, lastRun(s, now))
		return
	}
	fmt.Fprintf(w, "%s\t%s\t%s, pid %d, since %s (%s)\n", name, s.State, s.Version, s.PID, s.Since.Local().Format(time.DateTime), ago(now, s.Since))
	where := s.Node
	if s.Address != "" {
		where += ", " + s.Address
	}
	if s.Server != "" {
		where += ", of the cluster at " + s.Server
	}
	fmt.Fprintf(w, "node\t\t%s\n", where)
}

// lastRun says how labk last ended.
func lastRun(s status.Status, now time.Time) string {
	last := s.Last
	if last == nil {
		return "nor has it run with the data folder " + s.DataDir
	}
	text := fmt.Sprintf("%s began at %s and ", last.Version, last.Began.Local().Format(time.DateTime))
	switch {
	case last.Ended.IsZero():
		return text + "did not end in order: it was killed, or the power was cut"
	case last.Error != "":
		return text + fmt.Sprintf("ended at %s (%s ago): %s", last.Ended.Local().Format(time.DateTime), ago(now, last.Ended), last.Error)
	}
	return text + fmt.Sprintf("was stopped at %s (%s ago)", last.Ended.Local().Format(time.DateTime), ago(now, last.Ended))
}

// showCertificates shows the one that ends next.
func showCertificates(w io.Writer, all []status.Certificate, now time.Time) {
	if len(all) == 0 {
		return
	}
	next := all[0]
	for _, c := range all {
		if c.Until.Before(next.Until) {
			next = c
		}
	}
	verb := "ends"
	if next.Until.Before(now) {
		verb = "ended"
	}
	fmt.Fprintf(w, "certificates\t%d\t%s %s first, at %s\n", len(all), next.Name, verb, next.Until.Local().Format(time.DateTime))
}

// showComponents shows those that are not ready.
func showComponents(w io.Writer, all []status.Component, now time.Time) {
	if len(all) == 0 {
		return
	}
	ready := 0
	for _, c := range all {
		if c.State == lifecycle.Ready {
			ready++
		}
	}
	fmt.Fprintf(w, "components\t%d of %d\tready\n", ready, len(all))
	for _, c := range all {
		switch {
		case c.State == lifecycle.Ready:
			continue
		case c.State == lifecycle.Waiting:
			fmt.Fprintf(w, "\t%s\t%s, for %s\n", c.State, c.Name, strings.Join(c.WaitsFor, ", "))
		default:
			fmt.Fprintf(w, "\t%s\t%s, for %s\n", c.State, strings.TrimSuffix(c.Name+": "+c.Error, ": "), ago(now, c.Since))
		}
	}
}

func readiness(n status.Node) string {
	text := "Ready"
	if !n.Ready {
		text = "NotReady"
	}
	if n.Cordoned {
		text += ", cordoned"
	}
	return text
}

// ago is a duration as people say it.
func ago(now, then time.Time) string {
	switch d := now.Sub(then); {
	case d < time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	default:
		return fmt.Sprintf("%d days", int(d.Hours()/24))
	}
}
