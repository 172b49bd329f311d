package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/labk/labk/pkg/digest"
	"github.com/labk/labk/pkg/paths"
)

// Kept are the files of configuration that an uninstallation has left for the next installation (paths.KeptRecord). They are labk's for as long as nobody changes them.
type Kept []File

// LoadKept reads what the last uninstallation has left; none if there is no record of it.
func LoadKept() (Kept, error) { return loadKept(paths.KeptRecord) }

func loadKept(path string) (Kept, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var k Kept
	if err == nil {
		err = json.Unmarshal(data, &k)
	}
	if err != nil {
		return nil, fmt.Errorf("reading what the last uninstallation kept: %w: remove %s, the configuration is yours then", err, path)
	}
	return k, nil
}

// Keep notes files, those that exist, for the next installation.
func Keep(files []string) error { return keep(paths.KeptRecord, files) }

func keep(path string, files []string) error {
	k := Kept{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("noting what is kept: %w", err)
		}
		k = append(k, File{Path: file, SHA256: digest.Of(data)})
	}
	if len(k) == 0 {
		return nil
	}
	data, err := json.MarshalIndent(k, "", "  ")
	if err == nil {
		err = paths.WriteFile(path, append(data, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("noting what is kept: %w", err)
	}
	return nil
}

// Files are the paths of those that are as they were.
func (k Kept) Files() (all []string) {
	for _, f := range k {
		if data, err := os.ReadFile(f.Path); err == nil && digest.Of(data) == f.SHA256 {
			all = append(all, f.Path)
		}
	}
	return all
}
