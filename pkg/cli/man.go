package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/version"
)

func manCommand() *cli.Command {
	return &cli.Command{
		Name: "man", Usage: "Print labk's manual page: labk man | man -l -",
		Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			return man(c.App.Writer, c.App)
		},
	}
}

// man writes the manual page, in the macros of man(7).
func man(out io.Writer, app *cli.App) error {
	var b strings.Builder
	heading := func(text string) { fmt.Fprintf(&b, ".SH %s\n", text) }
	item := func(head, text string) { fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(head), roff(text)) }
	date, err := time.Parse(time.RFC3339, version.BuildDate)
	if err != nil {
		date = time.Unix(0, 0).UTC()
	}
	fmt.Fprintf(&b, ".TH LABK 1 %s \"labk %s\" \"labk\"\n", date.Format(time.DateOnly), version.Version)
	heading("NAME")
	fmt.Fprintf(&b, "labk \\- %s\n", roff(app.Usage))
	heading("SYNOPSIS")
	b.WriteString(".B labk\n.I COMMAND\n[flags]\n")
	heading("COMMANDS")
	for _, d := range describe(app.Name, app.Commands) {
		fmt.Fprintf(&b, ".SS %s\n%s.\n", roff(d.synopsis()), roff(strings.TrimSuffix(d.Usage, ".")))
		if d.role != "" {
			fmt.Fprintf(&b, "It takes all OPTIONS OF THE CONFIGURATION for %s.\n", articled(d.role))
		}
		for _, f := range d.flags {
			item(strings.TrimSpace(strings.Join(f.names, ", ")+" "+f.value), f.usage+preset(f.preset))
		}
	}
	heading("OPTIONS OF THE CONFIGURATION")
	fmt.Fprintf(&b, "%s\n", roff("Each can stand, a later one winning, in "+paths.ConfigFile+" as a key, in the environment, and on the command line as a flag."))
	for _, o := range config.Options() {
		text := o.Usage + preset(o.Default) + " [$" + o.Env() + "]"
		if o.Role != "" {
			text += " Only for " + articled(o.Role) + "."
		}
		item("--"+o.Name, text)
	}
	heading("FILES")
	for _, f := range [][2]string{
		{paths.ConfigFile, "The configuration; " + paths.ConfigFolder + "/*.yaml is read after it."},
		{config.Default().DataDir, "All that labk keeps."},
		{config.Default().WriteKubeconfig, "The administrator's kubeconfig, on a server."},
		{paths.ControlSocket, "Where a running labk answers this PC's root."},
	} {
		item(f[0], f[1])
	}
	heading("EXIT STATUS")
	item("0", "It is done.")
	item("1", "It failed.")
	item("2", "The command line or the configuration has a mistake; nothing has been changed.")
	heading("SEE ALSO")
	b.WriteString(roff("labk COMMAND --help, kubectl(1)") + "\n")
	_, err = io.WriteString(out, b.String())
	return err
}

func preset(value string) string {
	if value == "" {
		return ""
	}
	return " Default: " + value + "."
}

// roff protects a text on one line from being read as macros and escapes.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`, "`", "", "\n", " ").Replace(text)
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text
	}
	return text
}
