// Package kubeconfig writes the kubeconfigs of components and of the administrator, each complete in itself.
package kubeconfig

import (
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
	// CA, Cert and Key are the paths of PEM files; their content goes into the kubeconfig.
	CA, Cert, Key string
	// Mode of the file; zero means 0600.
	Mode fs.FileMode
}

// Write writes the kubeconfig to path.
func Write(path string, o Options) error {
	if o.Mode == 0 {
		o.Mode = 0o600
	}
	var pem [3][]byte
	for i, file := range []string{o.CA, o.Cert, o.Key} {
		data, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("write kubeconfig %s: %w", path, err)
		}
		pem[i] = data
	}
	const name = "labk"
	c := clientcmdapi.NewConfig()
	c.Clusters[name] = &clientcmdapi.Cluster{Server: o.Server, CertificateAuthorityData: pem[0]}
	c.AuthInfos[name] = &clientcmdapi.AuthInfo{ClientCertificateData: pem[1], ClientKeyData: pem[2]}
	c.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	c.CurrentContext = name
	data, err := clientcmd.Write(*c)
	if err != nil {
		return fmt.Errorf("write kubeconfig %s: %w", path, err)
	}
	if err := paths.WriteFile(path, data, o.Mode); err != nil {
		return fmt.Errorf("write kubeconfig %s: %w", path, err)
	}
	return nil
}
