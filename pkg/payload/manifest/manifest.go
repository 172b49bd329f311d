// Package manifest describes the payload that labk carries inside: what the build writes (package/bundle) and labk reads
// (pkg/payload).
package manifest

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
)

// Names of the payload's files.
const (
	File     = "manifest.json"
	Programs = "bin.tar.zst"
	Images   = "images.tar.zst"
)

// Manifest lists everything in a payload.
type Manifest struct {
	// Hash names this payload; see Sum.
	Hash string `json:"hash"`
	// Programs are the files in the archive of programs, in its order.
	Programs []Program `json:"programs"`
	// Images are the images in the archive of images.
	Images []Image `json:"images"`
	// Archives are the compressed archives by file name.
	Archives map[string]Archive `json:"archives"`
}

// Program is one program of the payload.
type Program struct {
	Name   string `json:"name"`
	Mode   uint32 `json:"mode"`   // permission bits
	Size   int64  `json:"size"`   // bytes
	SHA256 string `json:"sha256"` // hexadecimal
}

// Image is one container image of the payload.
type Image struct {
	Ref    string `json:"ref"`    // full name with tag
	Digest string `json:"digest"` // of the image's manifest, sha256:...
}

// Archive is one compressed archive of the payload.
type Archive struct {
	Size   int64  `json:"size"`   // bytes, compressed
	SHA256 string `json:"sha256"` // hexadecimal, of the compressed bytes
}

// Sum is the hash over both archives, 32 hexadecimal digits: the name of the folder that the payload is unpacked into.
func (m *Manifest) Sum() string {
	h := sha256.New()
	for _, name := range []string{Programs, Images} {
		fmt.Fprintf(h, "%s %s\n", m.Archives[name].SHA256, name)
	}
	return hex.EncodeToString(h.Sum(nil))[:32]
}

// hashForm is what Sum returns.
var hashForm = regexp.MustCompile(`^[0-9a-f]{32}$`)

// IsHash tells whether s has the form of a payload's hash.
func IsHash(s string) bool { return hashForm.MatchString(s) }

// Parse reads a manifest and checks that it is complete and that no name in it leads out of a folder.
func Parse(data []byte) (*Manifest, error) {
	m := &Manifest{}
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("%s: %w", File, err)
	}
	for _, name := range []string{Programs, Images} {
		if a := m.Archives[name]; a.Size <= 0 || len(a.SHA256) != 64 {
			return nil, fmt.Errorf("%s: says nothing about %s", File, name)
		}
	}
	if m.Hash != m.Sum() {
		return nil, fmt.Errorf("%s: its hash does not fit its archives", File)
	}
	for _, p := range m.Programs {
		if p.Name == "" || p.Name == "." || p.Name == ".." || strings.ContainsRune(p.Name, '/') {
			return nil, fmt.Errorf("%s: a program is named %q", File, p.Name)
		}
	}
	return m, nil
}
