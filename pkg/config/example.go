package config

import (
	"fmt"
	"strings"
)

const exampleHead = `# labk's configuration: /etc/labk/config.yaml, with every key that there is. Each one is switched off by a # and shows its
# default, or where it has none an example; take the # away to set it. One file may serve servers and agents: each reads what is meant for it.
# The environment (LABK_ and the key in capitals) wins over this file, the command line (--key) over both. What is wrong here ends labk with
# exit code 2 before anything is changed.
# Made from the comments in pkg/config/config.go: go test ./pkg/config -run TestExample -update
`

// exampleWidth is how long a line of comment may be.
const exampleWidth = 110

// Example is a configuration file with every key explained and none set (examples/config.yaml).
func Example() string {
	var b strings.Builder
	b.WriteString(exampleHead)
	for _, part := range []struct{ role, heading string }{{"", "Servers and agents"}, {"agent", "Agents"}, {"server", "Servers"}} {
		fmt.Fprintf(&b, "\n##### %s #####\n", part.heading)
		for _, o := range Options() {
			if o.Role == part.role {
				b.WriteString("\n" + comment(o.Usage) + o.exampleKey())
			}
		}
	}
	return b.String()
}

// exampleKey is the option as a line of YAML, or two, behind a #.
func (o Option) exampleKey() string {
	switch {
	case o.IsList():
		return fmt.Sprintf("#%s:\n#- %s\n", o.Name, quote(o.Example))
	case o.IsBool(), o.Kind() == "a number":
		return fmt.Sprintf("#%s: %s\n", o.Name, o.Example)
	}
	return fmt.Sprintf("#%s: %s\n", o.Name, quote(o.Example))
}

// quote protects what YAML would take for a number.
func quote(text string) string {
	if strings.Trim(text, "0123456789") == "" {
		return fmt.Sprintf("%q", text)
	}
	return text
}

// comment breaks a text into lines that begin with a # and a space.
func comment(text string) string {
	var b strings.Builder
	line := "#"
	for _, word := range strings.Fields(text) {
		if len(line)+1+len(word) > exampleWidth {
			b.WriteString(line + "\n")
			line = "#"
		}
		line += " " + word
	}
	return b.String() + line + "\n"
}
