package installer

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/install"
	"github.com/labk/labk/pkg/paths"
)

// files are those that were written, with what they were before.
type files []old

type old struct {
	path string
	data []byte
	mode fs.FileMode
	// made: there was none before.
	made bool
}

// write writes a file and remembers what it was. One that has the content already is left alone.
func (f *files) write(path string, data []byte, mode fs.FileMode) error {
	was := old{path: path, mode: mode}
	info, err := os.Stat(path)
	if err == nil {
		was.mode = info.Mode().Perm()
		was.data, err = os.ReadFile(path)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		was.made = true
	case err != nil:
		return err
	case bytes.Equal(was.data, data) && was.mode == mode:
		return nil
	}
	*f = append(*f, was)
	return paths.WriteFile(path, data, mode)
}

// changed tells whether anything was written that a labk which is up must be told of by a restart. It needs no token any more.
func (f files) changed() bool {
	return slices.ContainsFunc(f, func(o old) bool { return o.path != paths.TokenFile })
}

// restore takes everything back.
func (f *files) restore() (err error) {
	for _, was := range slices.Backward(*f) {
		if was.made {
			err = errors.Join(err, os.Remove(was.path))
		} else {
			err = errors.Join(err, paths.WriteFile(was.path, was.data, was.mode))
		}
	}
	*f = nil
	return err
}

// writeFiles writes configuration and unit, each after it is noted.
func (i *installation) writeFiles(ctx context.Context) error {
	if err := i.writeConfig(); err != nil {
		return err
	}
	if err := i.writeUnit(); err != nil {
		return err
	}
	if i.files.changed() {
		if err := i.manager.reload(ctx); err != nil {
			return err
		}
	}
	if i.SkipEnable {
		return nil
	}
	return i.manager.enable(ctx, i.service.Name())
}

// writeConfig puts what the command line and the environment give into the configuration; the token gets a file of its own.
func (i *installation) writeConfig() error {
	text, err := os.ReadFile(i.configFile())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	settings := slices.DeleteFunc(slices.Clone(i.given), func(s config.Setting) bool { return s.Name == "token" || s.Name == "token-file" })
	if err := i.adopt(); err != nil {
		return err
	}
	newToken := i.gives("token") || i.gives("token-file")
	if newToken {
		settings = append(settings, config.Setting{Name: "token"}, config.Setting{Name: "token-file", Value: paths.TokenFile})
	}
	if text, err = config.Merge(text, settings); err != nil {
		return err
	}
	if newToken {
		i.makes(paths.TokenFile)
	}
	if len(text) > 0 {
		i.makes(paths.ConfigFile)
	}
	if err := i.record.Save(); err != nil {
		return err
	}
	if newToken {
		if err := i.files.write(paths.TokenFile, []byte(i.token+"\n"), 0o600); err != nil {
			return err
		}
	}
	if len(text) == 0 {
		return nil
	}
	return i.files.write(paths.ConfigFile, text, 0o600)
}

// makes notes a file of configuration as labk's own, if there is none yet.
func (i *installation) makes(path string) {
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) && !slices.Contains(i.record.Config, path) {
		i.record.Config = append(i.record.Config, path)
	}
}

// adopt notes the files as labk's own that the uninstallation before has kept: what is written below may change them.
func (i *installation) adopt() error {
	kept, err := install.LoadKept()
	for _, path := range kept.Files() {
		if !slices.Contains(i.record.Config, path) {
			i.record.Config = append(i.record.Config, path)
		}
	}
	return err
}
