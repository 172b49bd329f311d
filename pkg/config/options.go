package config

import (
	_ "embed"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"
)

//go:embed config.go
var source string

// Option describes a field of Config to people: flags, keys and documentation are made of it.
type Option struct {
	// Name as a flag and as a key of config.yaml.
	Name string
	// Role is server, agent, or empty for both.
	Role string
	// Usage is the field's doc comment, on one line.
	Usage string
	// Default is what the option is when it is given nowhere, as text; empty if there is none.
	Default string
	// Example is a value that shows what the option takes; the default where there is one.
	Example string
	index   int
	kind    reflect.Kind
	shared  bool
}

// Options lists all options in the order of Config's fields.
func Options() []Option {
	docs := comments()
	defaults := reflect.ValueOf(Default())
	t := defaults.Type()
	var out []Option
	for i := range t.NumField() {
		f := t.Field(i)
		o := Option{Name: f.Tag.Get("name"), Role: f.Tag.Get("role"), Usage: docs[f.Name], index: i, kind: f.Type.Kind(), shared: f.Tag.Get("shared") != ""}
		if v := defaults.Field(i); !v.IsZero() && f.Name != "NodeName" {
			o.Default = fmt.Sprint(v.Interface())
		}
		if o.Example = f.Tag.Get("example"); o.Example == "" {
			o.Example = fmt.Sprint(defaults.Field(i).Interface())
		}
		out = append(out, o)
	}
	return out
}

// For tells whether the option has a meaning for the role.
func (o Option) For(role string) bool { return o.Role == "" || o.Role == role }

// Env is the name of the option's environment variable.
func (o Option) Env() string {
	return "LABK_" + strings.ToUpper(strings.ReplaceAll(o.Name, "-", "_"))
}

// Kind is what the option takes, in words.
func (o Option) Kind() string {
	switch o.kind {
	case reflect.Slice:
		return "a list"
	case reflect.Bool:
		return "true or false"
	case reflect.Int:
		return "a number"
	}
	return "a text"
}

// IsList and IsBool tell how the option is given on a command line: several times, or without a value.
func (o Option) IsList() bool { return o.kind == reflect.Slice }
func (o Option) IsBool() bool { return o.kind == reflect.Bool }

// comments reads the doc comments of Config's fields out of this package's own source, so that they can't differ from it.
func comments() map[string]string {
	out := map[string]string{}
	file, err := parser.ParseFile(token.NewFileSet(), "config.go", source, parser.ParseComments)
	if err != nil {
		return out // the source compiled, so it parses
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || spec.Name.Name != "Config" {
			return true
		}
		for _, f := range spec.Type.(*ast.StructType).Fields.List {
			for _, name := range f.Names {
				out[name.Name] = strings.Join(strings.Fields(f.Doc.Text()), " ")
			}
		}
		return false
	})
	return out
}
