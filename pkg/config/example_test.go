package config

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const exampleFile = "../../examples/config.yaml"

// TestExample fails when the example and the options differ.
func TestExample(t *testing.T) {
	if *update {
		if err := os.WriteFile(exampleFile, []byte(Example()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(exampleFile)
	if err != nil || string(data) != Example() {
		t.Errorf("%s is not what the comments in config.go say (%v): run this test with -update", exampleFile, err)
	}
	for _, o := range Options() {
		if o.Usage == "" {
			t.Errorf("%s is not explained", o.Name)
		}
	}
}

// As it is, the example sets nothing; with the # of a key taken away, each key is one that labk takes.
func TestExampleIsAConfiguration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.yaml")
	load := func(role, text string) Config {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := Load(Sources{File: path, Explicit: true, Env: noEnv, Role: role})
		if err == nil {
			err = c.Validate()
		}
		if err != nil {
			t.Fatalf("%s: %v", role, err)
		}
		return c
	}
	key := regexp.MustCompile(`(?m)^#([a-z-]+:|- )`)
	for _, role := range []string{"server", "agent"} {
		none := load(role, Example())
		all := load(role, key.ReplaceAllString(Example(), "$1"))
		for _, o := range Options() {
			if got := none.field(o); o.Default == "" && o.Name != "node-name" && !got.IsZero() {
				t.Errorf("%s: the example as it is sets %s to %v", role, o.Name, got)
			}
			got := all.field(o)
			switch {
			case !o.For(role):
			case o.Default != "" && got.Interface() != none.field(o).Interface():
				t.Errorf("%s: the example shows %v for %s, and its default is %s", role, got, o.Name, o.Default)
			case got.IsZero() && !o.IsBool():
				t.Errorf("%s: the example has no value for %s", role, o.Name)
			}
		}
	}
	if n := len(key.FindAllString(Example(), -1)); n < len(Options()) {
		t.Errorf("%d keys in the example, and %d options", n, len(Options()))
	}
	if strings.Contains(Example(), "\t") {
		t.Error("a tab in YAML")
	}
}
