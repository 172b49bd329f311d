package health

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/labk/labk/pkg/paths"
)

// Certificate is one of this PC's, as far as its dates go.
type Certificate struct {
	// Name is the file's, without ending; File is its whole path.
	Name, File  string
	From, Until time.Time
}

// Certificates reads the certificates of the data folder: the server's and the node's. Files that hold none, and what an ordinary user may not
// read, are left out.
func Certificates(data paths.Data) (all []Certificate) {
	for _, pattern := range []string{
		filepath.Join(data.ServerTLS(), "*.crt"), filepath.Join(data.ServerTLS(), "*.pem"), filepath.Join(data.AgentTLS(), "*.crt"),
		filepath.Join(data.AgentTLS(), "*-current.pem"), // the kubelet's: links to the newest
	} {
		files, _ := filepath.Glob(pattern) // an error is only one of the pattern
		for _, file := range files {
			if cert := firstCertificate(file); cert != nil {
				name := strings.TrimSuffix(strings.TrimSuffix(filepath.Base(file), filepath.Ext(file)), "-current")
				all = append(all, Certificate{Name: name, File: file, From: cert.NotBefore, Until: cert.NotAfter})
			}
		}
	}
	return all
}

// firstCertificate is that of a PEM file, nil if there is none.
func firstCertificate(name string) *x509.Certificate {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil
		}
		return cert
	}
	return nil
}
