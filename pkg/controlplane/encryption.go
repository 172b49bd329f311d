package controlplane

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/labk/labk/pkg/paths"
)

// encryption of Secrets at rest: XSalsa20 and Poly1305 with a key of this cluster's own; what was written before is still read.
const encryption = `apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: ["secrets"]
  providers:
  - secretbox:
      keys:
      - name: labk-1
        secret: %s
  - identity: {}
`

// EnsureEncryption writes the encryption configuration with a fresh key if there is none. An existing one is never touched: without its
// key the cluster's Secrets are lost.
func EnsureEncryption(path string) error {
	_, err := os.Stat(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	return paths.WriteFile(path, fmt.Appendf(nil, encryption, base64.StdEncoding.EncodeToString(key)), 0o600)
}
