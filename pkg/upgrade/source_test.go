package upgrade

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/labk/labk/pkg/kubeconfig"
	"github.com/labk/labk/pkg/pki"
)

// handout is a server that hands out a program.
type handout struct {
	program, sum string
	status       int
	busy         int // so many requests for the program are asked to come again
	asked        []string
}

func (h *handout) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.asked = append(h.asked, r.URL.Path+" by "+fmt.Sprint(r.TLS.PeerCertificates))
	switch {
	case h.status != 0:
		w.WriteHeader(h.status)
	case strings.HasSuffix(r.URL.Path, ".sha256"):
		fmt.Fprintf(w, "%s  labk\n", h.sum)
	case h.busy > 0:
		h.busy--
		w.WriteHeader(http.StatusServiceUnavailable)
	default:
		w.Write([]byte(h.program))
	}
}

func TestFromServer(t *testing.T) {
	h := &handout{program: "the new program", sum: "abc", busy: 1}
	server := httptest.NewTLSServer(h)
	defer server.Close()
	folder := t.TempDir()
	program := filepath.Join(folder, "labk")
	staged, sum, err := FromServer(kubeconfigOf(t, server, true))(t.Context(), program)
	if err != nil || sum != "abc" {
		t.Fatalf("got %s, %v", sum, err)
	}
	has(t, staged, "the new program")
	file := "/labk/bin/linux-" + runtime.GOARCH
	if want := file + ".sha256 by []," + file + " by []," + file + " by []"; strings.Join(h.asked, ",") != want {
		t.Errorf("it asked %v, want %v", h.asked, want)
	}

	h.status = http.StatusNotFound
	if _, _, err := FromServer(kubeconfigOf(t, server, true))(t.Context(), program); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a server that hands out nothing: %v", err)
	}
}

// Nothing is taken from a server that only says that it is the one.
func TestFromAnotherServer(t *testing.T) {
	h := &handout{program: "the new program"}
	server := httptest.NewTLSServer(h)
	defer server.Close()
	program := filepath.Join(t.TempDir(), "labk")
	if _, _, err := FromServer(kubeconfigOf(t, server, false))(t.Context(), program); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v", err)
	}
	if len(h.asked) > 0 {
		t.Errorf("it asked %v", h.asked)
	}
}

// kubeconfigOf is a node's kubeconfig of the server; known tells that the server's certificate is the one of the CA in it.
func kubeconfigOf(t *testing.T, server *httptest.Server, known bool) string {
	t.Helper()
	folder := t.TempDir()
	store := pki.NewStore(folder, time.Now)
	if _, err := store.CA("other-ca"); err != nil {
		t.Fatal(err)
	}
	ca := store.Authority("other-ca").Cert
	if known {
		ca = filepath.Join(folder, "ca.crt")
		if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(folder, "kubeconfig")
	if err := kubeconfig.Write(path, kubeconfig.Options{Server: server.URL, CA: ca, Cert: ca, Key: ca, ByPath: true, Mode: 0o600}); err != nil {
		t.Fatal(err)
	}
	return path
}
