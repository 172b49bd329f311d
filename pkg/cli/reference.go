package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/labk/labk/pkg/config"
)

// described is a command as docs/commands.md and the man page describe it.
type described struct {
	*cli.Command
	// path is its whole name, such as "labk token create".
	path string
	// role is that of the configuration whose options it all has, empty if it has not.
	role string
	// flags are those that are not the configuration's.
	flags []describedFlag
}

type describedFlag struct {
	// names are "--output" and "-o"; value is what it takes, such as FORMAT, empty if nothing.
	names                []string
	value, usage, preset string
}

// describe lists a program's visible commands, each before its subcommands.
func describe(parent string, commands []*cli.Command) (all []described) {
	for _, c := range commands {
		if c.Hidden || c.Name == "help" {
			continue
		}
		d := described{Command: c, path: parent + " " + c.Name, role: roleOf(c.Flags)}
		for _, f := range c.Flags {
			flag, ok := f.(cli.DocGenerationFlag)
			if !ok || !visible(f) || d.role != "" && isOption(f.Names()[0], d.role) {
				continue
			}
			d.flags = append(d.flags, describeFlag(flag))
		}
		all = append(append(all, d), describe(d.path, c.Subcommands)...)
	}
	return all
}

func describeFlag(f cli.DocGenerationFlag) describedFlag {
	d := describedFlag{preset: strings.Trim(f.GetDefaultText(), `"`)}
	for _, name := range f.Names() {
		dashes := "--"
		if len(name) == 1 {
			dashes = "-"
		}
		d.names = append(d.names, dashes+name)
	}
	d.value, d.usage = placeholder(f.GetUsage())
	if !f.TakesValue() {
		d.value = ""
		if d.preset == "false" {
			d.preset = ""
		}
	} else if d.value == "" {
		d.value = "VALUE"
	}
	for _, env := range f.GetEnvVars() {
		d.usage += " [$" + env + "]"
	}
	return d
}

// placeholder takes the `WORD` out of a usage that stands for the flag's value.
func placeholder(usage string) (word, text string) {
	before, rest, ok := strings.Cut(usage, "`")
	word, after, closed := strings.Cut(rest, "`")
	if !ok || !closed || strings.ContainsAny(word, " .") {
		return "", usage
	}
	return word, before + word + after
}

func visible(f cli.Flag) bool {
	v, ok := f.(cli.VisibleFlag)
	return !ok || v.IsVisible()
}

// roleOf is the role all of whose options are among the flags.
func roleOf(flags []cli.Flag) string {
	for _, role := range []string{"server", "agent"} {
		if !slices.ContainsFunc(config.Options(), func(o config.Option) bool { return o.For(role) && flagOf(flags, o.Name) == nil }) {
			return role
		}
	}
	return ""
}

func isOption(name, role string) bool {
	return slices.ContainsFunc(config.Options(), func(o config.Option) bool { return o.Name == name && o.For(role) })
}

// synopsis is how the command is written.
func (d described) synopsis() string {
	text := d.path
	if len(d.Subcommands) > 0 {
		text += " COMMAND"
	}
	if len(d.flags) > 0 || d.role != "" {
		text += " [flags]"
	}
	if d.ArgsUsage != "" {
		text += " " + d.ArgsUsage
	} else if d.SkipFlagParsing {
		text += " [ARGS...]"
	}
	return text
}

const commandsHead = `# Commands

Exit codes: 0 when it is done, 1 when it failed, 2 for a mistake in the command line or in the configuration; before code 2 nothing has been changed. Where there is ` + "`-o`" + `, json and
yaml have the same fields in each release.

<!-- Made from the commands themselves: go test ./pkg/cli -run TestCommandsDoc -update -->
`

// markdown is docs/commands.md.
func markdown(app *cli.App) string {
	var b strings.Builder
	b.WriteString(commandsHead)
	for _, d := range describe(app.Name, app.Commands) {
		fmt.Fprintf(&b, "\n## %s\n\n%s.\n\n    %s\n", d.path, strings.TrimSuffix(d.Usage, "."), d.synopsis())
		if d.role != "" {
			fmt.Fprintf(&b, "\nAll options of [configuration.md](configuration.md) for %s", articled(d.role))
			if len(d.flags) > 0 {
				b.WriteString(", and")
			}
			b.WriteString(":\n")
		}
		if len(d.flags) > 0 {
			b.WriteString("\n| flag | default | |\n| --- | --- | --- |\n")
		}
		for _, f := range d.flags {
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", strings.TrimSpace(strings.Join(f.names, ", ")+" "+f.value), f.preset, f.usage)
		}
	}
	return b.String()
}

// articled is a role with its article.
func articled(role string) string {
	if role == "agent" {
		return "an agent"
	}
	return "a " + role
}
