// Package kubeconfig writes the kubeconfigs of components and of the administrator, each complete in itself.
package kubeconfig

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/labk/labk/pkg/paths"
)

// Options say whom the kubeconfig is for.
type Options struct {
	// Server is the API's URL.
	Server string
	// CA, Cert and Key are the paths of PEM files; their content goes into the kubeconfig, or with ByPath their paths: whoever uses it then follows
	// their renewal.
	CA, Cert, Key string
	ByPath        bool
	// Mode of the file; zero means 0600.
	Mode fs.FileMode
}

// Write writes the kubeconfig to path.
func Write(path string, o Options) error {
	if o.Mode == 0 {
		o.Mode = 0o600
	}
	cluster := &clientcmdapi.Cluster{Server: o.Server, CertificateAuthority: o.CA}
	user := &clientcmdapi.AuthInfo{ClientCertificate: o.Cert, ClientKey: o.Key}
	const name = "labk"
	c := clientcmdapi.NewConfig()
	c.Clusters[name], c.AuthInfos[name] = cluster, user
	c.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	c.CurrentContext = name
	if !o.ByPath {
		if err := clientcmdapi.FlattenConfig(c); err != nil {
			return fmt.Errorf("write kubeconfig %s: %w", path, err)
		}
	}
	data, err := clientcmd.Write(*c)
	if err != nil {
		return fmt.Errorf("write kubeconfig %s: %w", path, err)
	}
	if err := paths.WriteFile(path, data, o.Mode); err != nil {
		return fmt.Errorf("write kubeconfig %s: %w", path, err)
	}
	return nil
}

// Holds tells whether the kubeconfig at path is there and has a user with the content of cert, whatever else is in it.
func Holds(path, cert string) bool {
	c, err := clientcmd.LoadFromFile(path)
	if err != nil {
		return false
	}
	data, err := os.ReadFile(cert)
	if err != nil {
		return false
	}
	for _, user := range c.AuthInfos {
		if bytes.Equal(user.ClientCertificateData, data) {
			return true
		}
	}
	return false
}
