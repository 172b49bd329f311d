package kubeconfig

import (
	"os"
	"path/filepath"
	"testing"

	"k8s.io/client-go/tools/clientcmd"

	"github.com/labk/labk/pkg/paths"
)

func TestHolds(t *testing.T) {
	dir := t.TempDir()
	path, cert := filepath.Join(dir, "kubeconfig.yaml"), filepath.Join(dir, "admin.pem")
	put := func(path, text string) {
		t.Helper()
		if err := paths.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(cert, "certificate and key")
	if Holds(path, cert) {
		t.Error("a file that is not there")
	}
	if err := Write(path, Options{Server: "https://127.0.0.1:6443", CA: cert, Cert: cert, Key: cert}); err != nil {
		t.Fatal(err)
	}
	if !Holds(path, cert) {
		t.Error("not as it was written")
	}
	c, err := clientcmd.LoadFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c.Contexts["labk"].Namespace = "lab" // kubectl config set-context
	if err := clientcmd.WriteToFile(*c, path); err != nil {
		t.Fatal(err)
	}
	if !Holds(path, cert) {
		t.Error("not with another namespace")
	}
	put(cert, "renewed")
	if Holds(path, cert) {
		t.Error("the certificate of before")
	}
	put(path, "{")
	if Holds(path, cert) {
		t.Error("a file that is damaged")
	}
	if err := os.Remove(cert); err != nil {
		t.Fatal(err)
	}
	if Holds(path, cert) {
		t.Error("a certificate that is not there")
	}
}
