package uninstall

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// settings are what a service gives labk beside its configuration.
type settings struct {
	command string // the command line, with what follows it in the unit
	env     map[string]string
}

// settings reads the unit below root with what may be added to it: drop-ins, files of variables.
func (u unit) settings(root string) settings {
	s := settings{env: map[string]string{}}
	name := strings.TrimSuffix(u.name, ".service")
	if !u.systemd {
		more, _ := os.ReadFile(filepath.Join(root, "etc/conf.d", name)) // none: nothing added
		s.command = withoutComments(u.text + "\n" + string(more))       // which sets command_args, as the script does
		s.addVariables(string(more))
		return s
	}
	text := u.text
	for _, folder := range []string{"usr/lib", "run", "etc"} {
		for _, file := range present(filepath.Join(root, folder, "systemd/system", u.name+".d", "*.conf")) {
			more, _ := os.ReadFile(file) // one that systemd cannot read either adds nothing
			text += "\n" + string(more)
		}
	}
	text = withoutComments(text)
	files := []string{"/etc/default/" + name}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "Environment":
			for _, word := range words(value) {
				s.addVariables(word)
			}
		case "EnvironmentFile":
			files = append(files, strings.TrimPrefix(value, "-"))
		}
	}
	for _, file := range files {
		more, _ := os.ReadFile(filepath.Join(root, file)) // as above
		s.addVariables(string(more))
	}
	if at := commandLine.FindAllStringIndex(text, -1); at != nil {
		s.command = text[at[len(at)-1][0]:] // the last counts
	}
	return s
}

func withoutComments(text string) string { return comment.ReplaceAllString(text, "") }

// addVariables reads lines of KEY=VALUE, where the value may have quotes around it.
func (s settings) addVariables(text string) {
	for line := range strings.Lines(text) {
		key, value, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		if ok && strings.HasPrefix(key, "LABK_") {
			s.env[key] = strings.Trim(value, `"'`)
		}
	}
}

// dataDir is the data folder that the command line names, or the environment; empty if neither does.
func (s settings) dataDir() string { return s.option(dataDirFlag, "LABK_DATA_DIR") }

// config is the same for the file of configuration.
func (s settings) config() string { return s.option(configFlag, "LABK_CONFIG") }

func (s settings) option(flag *regexp.Regexp, variable string) string {
	if all := flag.FindAllStringSubmatch(s.command, -1); all != nil {
		return all[len(all)-1][1]
	}
	return s.env[variable]
}

var (
	comment     = regexp.MustCompile(`(?m)^\s*[#;].*$`)
	commandLine = regexp.MustCompile(`(?m)^\s*ExecStart=.*labk`)
	dataDirFlag = regexp.MustCompile(`--data-dir[= ]+["']?([^\s"']+)`)
	configFlag  = regexp.MustCompile(`(?:--config|\s-c)[= ]+["']?([^\s"']+)`)
	wordForm    = regexp.MustCompile(`"([^"]*)"|'([^']*)'|(\S+)`)
)

// words are those of a line of a unit, where quotes hold a word together.
func words(line string) (all []string) {
	for _, m := range wordForm.FindAllStringSubmatch(line, -1) {
		all = append(all, m[1]+m[2]+m[3])
	}
	return all
}
