package cli

import (
	"embed"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
)

// scripts are what a shell reads: each asks labk __complete, so that a new flag needs no new script.
//
//go:embed completion
var scripts embed.FS

// completeCommand is what the scripts call: the words after labk, the last one unfinished.
const completeCommand = "__complete"

func completionCommand() *cli.Command {
	command := &cli.Command{Name: "completion", Usage: "Print a script by which a shell completes labk's commands and flags"}
	for shell, how := range map[string]string{
		"bash": `eval "$(labk completion bash)"`, "zsh": `eval "$(labk completion zsh)"`, "fish": "labk completion fish | source",
	} {
		command.Subcommands = append(command.Subcommands, &cli.Command{Name: shell, Usage: "For " + shell + ": " + how, Action: func(c *cli.Context) error {
			if err := noArguments(c); err != nil {
				return err
			}
			script, err := scripts.ReadFile("completion/labk." + shell)
			if err != nil {
				return err
			}
			_, err = c.App.Writer.Write(script)
			return err
		}})
	}
	slices.SortFunc(command.Subcommands, func(a, b *cli.Command) int { return strings.Compare(a.Name, b.Name) })
	return command
}

// hiddenCompleteCommand prints what the last of its arguments could become, one a line: the word, a tab, and what it means.
func hiddenCompleteCommand() *cli.Command {
	return &cli.Command{Name: completeCommand, Hidden: true, SkipFlagParsing: true, HideHelp: true, Action: func(c *cli.Context) error {
		words := c.Args().Slice()
		if len(words) > 1 && words[0] == "kubectl" {
			return cli.Exit("", kubectl(append([]string{"kubectl", completeCommand}, words[1:]...)))
		}
		complete(c.App.Writer, c.App.Commands, words)
		return nil
	}}
}

// complete prints the candidates; none where a file, or anything else, may stand.
func complete(w io.Writer, commands []*cli.Command, words []string) {
	words = slices.DeleteFunc(slices.Clone(words), func(s string) bool { return s == "=" }) // bash makes words of --flag=value
	if len(words) == 0 {
		words = []string{""}
	}
	current := words[len(words)-1]
	var flags []cli.Flag
	var pending string // the flag whose value comes next
	for _, word := range words[:len(words)-1] {
		switch i := slices.IndexFunc(commands, func(c *cli.Command) bool { return c.HasName(word) }); {
		case pending != "":
			pending = ""
		case strings.HasPrefix(word, "-"):
			if f := flagOf(flags, word); f != nil && f.TakesValue() && !strings.Contains(word, "=") {
				pending = f.Names()[0]
			}
		case i >= 0:
			commands, flags = commands[i].Subcommands, commands[i].Flags
		}
	}
	offer := func(word, meaning string) {
		if strings.HasPrefix(word, current) {
			fmt.Fprintf(w, "%s\t%s\n", word, meaning)
		}
	}
	switch {
	case pending == "output":
		for _, format := range outputFormats {
			offer(format, "")
		}
	case pending != "":
	case strings.HasPrefix(current, "-"):
		for _, f := range flags {
			if described, ok := f.(cli.DocGenerationFlag); ok && visible(f) {
				_, meaning := placeholder(described.GetUsage())
				offer("--"+f.Names()[0], meaning)
			}
		}
	default:
		for _, c := range commands {
			if !c.Hidden {
				offer(c.Name, c.Usage)
			}
		}
	}
}

// flagOf finds a flag by a word of a command line, such as -o or --output=json.
func flagOf(flags []cli.Flag, word string) cli.DocGenerationFlag {
	name, _, _ := strings.Cut(strings.TrimLeft(word, "-"), "=")
	for _, f := range flags {
		if described, ok := f.(cli.DocGenerationFlag); ok && slices.Contains(f.Names(), name) {
			return described
		}
	}
	return nil
}
