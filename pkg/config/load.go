package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Sources says where Load looks.
type Sources struct {
	// File must exist if Explicit is set; Folder holds more of them, read in the order of their names.
	File, Folder string
	Explicit     bool
	// Env returns an environment variable (os.LookupEnv).
	Env func(key string) (string, bool)
	// Flags are the options given on the command line, by name, each with all its values.
	Flags map[string][]string
	// Role is server or agent.
	Role string
	// Warn, if set, is told what is unwise: one sentence each.
	Warn func(string)
}

// Load fills a configuration: defaults, then the file, then the folder's, then the environment, then the flags. An error about a file
// names it and the line.
func Load(s Sources) (Config, error) {
	c := Default()
	files, err := s.files()
	if err != nil {
		return c, err
	}
	for _, file := range files {
		if err := s.readFile(&c, file); err != nil {
			return c, err
		}
	}
	for _, o := range Options() {
		if !o.For(s.Role) {
			continue
		}
		if v, ok := s.Env(o.Env()); ok {
			if err := c.set(o, []string{v}, o.Env()); err != nil {
				return c, err
			}
		}
		if v, ok := s.Flags[o.Name]; ok {
			if err := c.set(o, v, "--"+o.Name); err != nil {
				return c, err
			}
		}
	}
	if c.TokenFile != "" {
		s.warnReadable(c.TokenFile)
	}
	return c, nil
}

// warnReadable warns of a file with a secret that every user of the machine can read.
func (s Sources) warnReadable(path string) {
	info, err := os.Stat(path)
	if err == nil && info.Mode().Perm()&0o004 != 0 && s.Warn != nil {
		s.Warn(fmt.Sprintf("every user of this PC can read the token in %s: run chmod 600 %s", path, path))
	}
}

func (s Sources) files() ([]string, error) {
	var out []string
	_, err := os.Stat(s.File)
	switch {
	case err == nil:
		out = append(out, s.File)
	case s.Explicit:
		return nil, &Error{"config", fmt.Sprintf("can't read %s: %v", s.File, err), "name a file that is there"}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, &Error{"config", err.Error(), "make it readable"}
	}
	more, err := filepath.Glob(filepath.Join(s.Folder, "*.yaml"))
	if err != nil {
		return nil, err
	}
	return append(out, more...), nil
}

func (s Sources) readFile(c *Config, path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return &Error{"config", err.Error(), "make it readable"}
	}
	var doc yaml.Node
	if err := yaml.NewDecoder(bytes.NewReader(data)).Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil
		}
		return syntaxError(path, err)
	}
	if len(doc.Content) == 0 || doc.Content[0].Tag == "!!null" {
		return nil
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		return at(path, top, "expected lines of KEY: VALUE", "write each option as its flag's name, a colon and its value")
	}
	options := map[string]Option{}
	for _, o := range Options() {
		options[o.Name] = o
	}
	for i := 0; i < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		o, ok := options[key.Value]
		if !ok {
			return at(path, key, fmt.Sprintf("unknown key %q", key.Value), "see `labk server --help` for the options there are")
		}
		if !o.For(s.Role) {
			continue // one file may serve both roles
		}
		if o.Name == "token" {
			s.warnReadable(path)
		}
		if err := value.Decode(c.field(o).Addr().Interface()); err != nil {
			return at(path, value, fmt.Sprintf("%s wants %s", o.Name, o.Kind()), "correct the value")
		}
	}
	return nil
}

func at(path string, n *yaml.Node, problem, remedy string) error {
	return &Error{fmt.Sprintf("%s line %d", path, n.Line), problem, remedy}
}

var lineNumber = regexp.MustCompile(`line (\d+): (.*)`)

func syntaxError(path string, err error) error {
	if m := lineNumber.FindStringSubmatch(err.Error()); m != nil {
		return &Error{fmt.Sprintf("%s line %s", path, m[1]), "not YAML: " + m[2], "correct the syntax"}
	}
	return &Error{path, err.Error(), "correct the syntax"}
}

// set gives an option its values; from is where they stood, for the error.
func (c *Config) set(o Option, values []string, from string) error {
	f := c.field(o)
	last := values[len(values)-1]
	switch f.Kind() {
	case reflect.String:
		f.SetString(last)
	case reflect.Slice:
		var all []string
		for _, v := range values {
			// A component's flag may have commas in its value; labels, names and addresses have none.
			if strings.HasSuffix(o.Name, "-arg") {
				all = append(all, v)
			} else {
				all = append(all, strings.Split(v, ",")...)
			}
		}
		f.Set(reflect.ValueOf(all))
	case reflect.Bool:
		v, err := strconv.ParseBool(last)
		if err != nil {
			return &Error{from, fmt.Sprintf("%q is neither true nor false", last), "use true or false"}
		}
		f.SetBool(v)
	case reflect.Int:
		v, err := strconv.Atoi(last)
		if err != nil {
			return &Error{from, fmt.Sprintf("%q is no number", last), "use a number"}
		}
		f.SetInt(int64(v))
	}
	return nil
}

func (c *Config) field(o Option) reflect.Value { return reflect.ValueOf(c).Elem().Field(o.index) }
