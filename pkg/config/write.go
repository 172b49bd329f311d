package config

import (
	"bytes"
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Setting is an option with a value, as it stands in config.yaml. Value is a string, bool, int or []string; nil takes the option out of the file.
type Setting struct {
	Name  string
	Value any
}

// Given are the options that the environment and the flags give, in the order of Config's fields: what remains of a command line when a service is made of it.
func (s Sources) Given() ([]Setting, error) {
	var c Config
	var all []Setting
	for _, o := range Options() {
		if !o.For(s.Role) {
			continue
		}
		values, from := s.Flags[o.Name], "--"+o.Name
		if len(values) == 0 {
			v, ok := s.Env(o.Env())
			if !ok {
				continue
			}
			values, from = []string{v}, o.Env()
		}
		if err := c.set(o, values, from); err != nil {
			return nil, err
		}
		all = append(all, Setting{o.Name, c.field(o).Interface()})
	}
	return all, nil
}

// Merge puts settings into the text of a config.yaml: in place of what was there for the option, else at the end. Everything else stays, comments included; when nothing
// changes, the text is the same to the byte.
func Merge(text []byte, settings []Setting) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(text, &doc); err != nil {
		return nil, syntaxError("config.yaml", err)
	}
	if len(doc.Content) == 0 || doc.Content[0].Tag == "!!null" {
		// Nothing but comments, perhaps: yaml does not keep those of an empty document.
		added, err := encodeAll(settings)
		return append(text, added...), err
	}
	top := doc.Content[0]
	if top.Kind != yaml.MappingNode {
		return nil, at("config.yaml", top, "expected lines of KEY: VALUE", "write each option as its flag's name, a colon and its value")
	}
	changed := false
	for _, s := range settings {
		did, err := s.putInto(top)
		if err != nil {
			return nil, err
		}
		changed = did || changed
	}
	if !changed {
		return text, nil
	}
	return encode(&doc)
}

// putInto changes the mapping; it tells whether it did.
func (s Setting) putInto(top *yaml.Node) (bool, error) {
	value := &yaml.Node{}
	if err := value.Encode(s.Value); err != nil {
		return false, fmt.Errorf("write %s into config.yaml: %w", s.Name, err)
	}
	for i := 0; i < len(top.Content); i += 2 {
		if top.Content[i].Value != s.Name {
			continue
		}
		old := top.Content[i+1]
		was, err := encode(old)
		if err != nil {
			return false, err
		}
		is, err := encode(value)
		if err != nil {
			return false, err
		}
		switch {
		case s.Value == nil:
			top.Content = slices.Delete(top.Content, i, i+2)
		case bytes.Equal(was, is):
			return false, nil
		default:
			value.LineComment, value.HeadComment, value.FootComment = old.LineComment, old.HeadComment, old.FootComment
			top.Content[i+1] = value
		}
		return true, nil
	}
	if s.Value == nil {
		return false, nil
	}
	top.Content = append(top.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: s.Name}, value)
	return true, nil
}

func encodeAll(settings []Setting) ([]byte, error) {
	top := &yaml.Node{Kind: yaml.MappingNode}
	for _, s := range settings {
		if _, err := s.putInto(top); err != nil {
			return nil, err
		}
	}
	if len(top.Content) == 0 {
		return nil, nil
	}
	return encode(top)
}

func encode(n *yaml.Node) ([]byte, error) {
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := e.Encode(n); err != nil {
		return nil, fmt.Errorf("write config.yaml: %w", err)
	}
	return out.Bytes(), nil
}
