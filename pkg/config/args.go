package config

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"
)

// ApplyArgs sets the flags of an upstream component from the values of one of labk's *-arg options, each NAME=VALUE or
// NAME, with or without leading dashes. option is that option's name, for the error.
func ApplyArgs(fs *pflag.FlagSet, option string, args []string) error {
	for _, arg := range args {
		name, value, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		flag := fs.Lookup(name)
		if flag == nil {
			return &Error{Option: option, Problem: fmt.Sprintf("%q: the component has no flag %q", arg, name), Remedy: "see its upstream documentation for the flags it has"}
		}
		flag.Deprecated = "" // pflag would print to standard output what nobody there can do anything about
		if !hasValue {
			value = flag.NoOptDefVal
		}
		if err := fs.Set(name, value); err != nil {
			return &Error{Option: option, Problem: fmt.Sprintf("%q: %v", arg, err), Remedy: "give a value that the flag takes"}
		}
	}
	return nil
}

// Error is a mistake in the configuration: which option, what is wrong with it, what to do.
type Error struct {
	Option  string
	Problem string
	Remedy  string
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s: %s: %s", e.Option, e.Problem, e.Remedy)
}
