package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/labk/labk/pkg/control"
	"github.com/labk/labk/pkg/join"
	"github.com/labk/labk/pkg/lockfile"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/pki"
)

func certificateCommand() *cli.Command {
	return &cli.Command{
		Name: "certificate", Usage: "Look at this PC's certificates, and renew them",
		Subcommands: []*cli.Command{
			{Name: "check", Usage: "List them with their dates; exit code 1 if one is not valid now", Action: checkCertificates, Flags: append(dataFlags(), outputFlag())},
			{Name: "rotate", Usage: "Issue all but the authorities anew, with new keys; labk need not be stopped", Action: rotateCertificates, Flags: dataFlags()},
			{
				Name: "rotate-ca", Usage: "Change the cluster's authorities; on the server. Agents follow by themselves", Action: rotateAuthorities,
				Flags: append(dataFlags(),
					&cli.BoolFlag{Name: "finish", Usage: "Trust those of before no longer. It happens by itself a day after the last node has followed."},
					&cli.BoolFlag{Name: "force", Usage: "With --finish: also if there are nodes that have not followed. They need a new token then."},
				),
			},
		},
	}
}

// dataFlags are what a command needs that only wants to find the data folder.
func dataFlags() []cli.Flag {
	var flags []cli.Flag
	for _, f := range configFlags("server") {
		if name := f.Names()[0]; name == "config" || name == "data-dir" {
			flags = append(flags, f)
		}
	}
	return flags
}

func dataFolder(c *cli.Context) (paths.Data, error) {
	cfg, err := loadConfig(c, "server")
	return paths.Data(cfg.DataDir), err
}

// checked is what check prints.
type checked struct {
	Certificates []pki.Found `json:"certificates"`
	pki.Progress
	// Unknown is why it is not known who has followed a change of authorities.
	Unknown string `json:"unknown,omitempty"`
}

func checkCertificates(c *cli.Context) error {
	data, err := dataFolder(c)
	if err != nil {
		return err
	}
	all, err := pki.Look(data, time.Now())
	if err != nil {
		return fmt.Errorf("%w: run this as root", err)
	}
	if len(all) == 0 {
		return fmt.Errorf("no certificates in %s: start labk on this PC, or name its folder with --data-dir", data)
	}
	now := checked{Certificates: all}
	// An agent has no such route, and nothing is said of it: that a change is under way, the disk tells.
	asked := control.Call(c.Context, paths.ControlSocket, "GET", pki.RotateCARoute, nil, &now.Progress)
	if asked != nil {
		if now.Progress.Rotation, err = pki.NewStore(data.ServerTLS(), time.Now).Rotation(); err != nil {
			return err
		}
	}
	if asked != nil && now.Rotation != nil {
		now.Unknown = asked.Error()
	}
	err = print(c, now, func() error {
		w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "NAME\tSUBJECT\tUSE\tFROM\tUNTIL\tRENEWED\tSTATE")
		for _, f := range all {
			renewed := "-"
			if f.Renew != nil {
				renewed = day(*f.Renew)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", f.Name, f.Subject, f.Use, day(f.From), day(f.Until), renewed, f.State)
		}
		if err := w.Flush(); err != nil || now.Rotation == nil {
			return err
		}
		fmt.Fprintf(c.App.Writer, "\nThe authorities were changed at %s; those of before are still trusted. %s\n", day(now.Rotation.Began), followed(now))
		return nil
	})
	if err != nil {
		return err
	}
	for _, f := range all {
		if f.Wrong() {
			return cli.Exit("", codeFailed)
		}
	}
	return nil
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04") }

func rotateCertificates(c *cli.Context) error {
	data, err := dataFolder(c)
	if err != nil {
		return err
	}
	var rotated pki.Rotated
	err = control.Call(c.Context, paths.ControlSocket, "POST", pki.RotateRoute, nil, &rotated)
	switch {
	case err == nil && len(rotated.Asked) > 0:
		fmt.Fprintf(c.App.Writer, "asked for anew: %s: labk starts anew now. Pods go on.\n", strings.Join(rotated.Asked, ", "))
		return nil
	case err == nil:
		fmt.Fprintln(c.App.Writer, "renewed:", strings.Join(rotated.Issued, ", "))
		return nil
	case !errors.Is(err, control.ErrNotRunning):
		return err
	}
	var names []string
	err = atRest(data, func() (err error) {
		names, err = pki.NewStore(data.ServerTLS(), time.Now).Forget()
		if err != nil {
			return err
		}
		kubelet, err := join.NodeFiles(data).ForgetKubelet()
		names = append(names, kubelet...)
		return err
	})
	if err != nil {
		return fmt.Errorf("remove certificates: %w", err)
	}
	if len(names) == 0 {
		return fmt.Errorf("no certificates in %s: start labk on this PC, or name its folder with --data-dir", data)
	}
	fmt.Fprintln(c.App.Writer, "labk does not run here; its next start issues anew:", strings.Join(names, ", "))
	return nil
}

// followed is a sentence about a change of authorities.
func followed(now checked) string {
	switch {
	case now.Unknown != "":
		return "Which nodes have followed is not known: " + now.Unknown
	case len(now.Behind) > 0:
		return "These nodes have not followed yet: " + strings.Join(now.Behind, ", ") + "."
	}
	return "All nodes have followed."
}

func rotateAuthorities(c *cli.Context) error {
	data, err := dataFolder(c)
	if err != nil {
		return err
	}
	change := pki.Change{Finish: c.Bool("finish"), Force: c.Bool("force")}
	if change.Force && !change.Finish {
		return usageError{errors.New("--force is for --finish: leave it out, or give both")}
	}
	store := pki.NewStore(data.ServerTLS(), time.Now)
	if _, err := os.Stat(store.Authority(pki.ServerCA).Cert); err != nil {
		return fmt.Errorf("look for the cluster's authorities: %w: run this on the server, as root", err)
	}
	err = control.Call(c.Context, paths.ControlSocket, "POST", pki.RotateCARoute, change, nil)
	when := "labk starts anew now"
	if errors.Is(err, control.ErrNotRunning) {
		when = "labk does not run here; it happens at its next start"
		err = atRest(data, func() error { return store.Change(change) })
	}
	if err != nil {
		return err
	}
	if change.Finish {
		fmt.Fprintf(c.App.Writer, "The authorities of before will not be trusted any more: %s. Pods go on.\n", when)
		return nil
	}
	fmt.Fprintf(c.App.Writer, "New authorities are made: %s. Pods go on, and agents follow by themselves.\n"+
		"`labk certificate check` tells which nodes have not; those of before are trusted until a day after the last has.\n", when)
	return nil
}

// atRest does something while no labk uses the data folder.
func atRest(data paths.Data, do func() error) error {
	if _, err := os.Stat(string(data)); err != nil {
		return err
	}
	lock, err := lockfile.AcquireLock(data.Lock())
	if err != nil {
		return err
	}
	defer lock.Release()
	return do()
}
