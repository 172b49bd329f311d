// Package install makes a labk that is started by hand one that belongs to the PC: configuration, a service of systemd or OpenRC,
// openings in the firewall. What it did it notes, so that uninstall and upgrade find it.
package install

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/labk/labk/pkg/paths"
)

// Record is what an installation has put on the PC (paths.InstallRecord). It is written before each thing that it names is made, so
// that an installation cut short can be taken away too: what it names may be missing.
type Record struct {
	// Role is "server" or "agent".
	Role string `json:"role"`
	// Version is of the program that wrote the record last.
	Version string `json:"version"`
	// Program is the path of the program that the service runs.
	Program string `json:"program"`
	// Links are those made beside the program (kubectl, ctr); each led to the program.
	Links []string `json:"links,omitempty"`
	// Config are the files of configuration that were written: the configuration, the token.
	Config []string `json:"config,omitempty"`
	// Service is how the PC runs labk; nil where there is neither systemd nor OpenRC.
	Service *Service `json:"service,omitempty"`
	// Firewall are the rules that were added to the PC's own firewall, in order.
	Firewall []Rule `json:"firewall,omitempty"`
}

// Service is a unit of systemd or a script of OpenRC.
type Service struct {
	// Manager is "systemd" or "openrc".
	Manager string `json:"manager"`
	// Name is what the manager calls it: labk.service, labk-agent.service; labk, labk-agent.
	Name string `json:"name"`
	// Files are the files that were written for it. A file whose content has another sum was changed by hand since.
	Files []File `json:"files"`
}

// File is a file as it was written.
type File struct {
	Path string `json:"path"`
	// SHA256 is of the content, in hexadecimal.
	SHA256 string `json:"sha256"`
}

// Rule is a change of the PC's firewall: the command that made it and the one that takes it back.
type Rule struct {
	// Firewall is "ufw" or "firewalld".
	Firewall string   `json:"firewall"`
	Add      []string `json:"add"`
	Remove   []string `json:"remove"`
}

// Load reads the record; without one it gives nil and no error: labk was never installed here, only run.
func Load() (*Record, error) { return load(paths.InstallRecord) }

func load(path string) (*Record, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading what was installed: %w", err)
	}
	r := &Record{}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("reading what was installed (%s): %w", path, err)
	}
	return r, nil
}

// Save writes the record in place of the one before.
func (r *Record) Save() error { return r.save(paths.InstallRecord) }

func (r *Record) save(path string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := paths.WriteFile(path, append(data, '\n'), 0o600); err != nil {
		return fmt.Errorf("noting what was installed: %w", err)
	}
	return nil
}
