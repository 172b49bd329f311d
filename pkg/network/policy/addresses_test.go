package policy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// result is a file as the CNI library writes it.
func result(namespace, name, ip string) string {
	return fmt.Sprintf(`{"kind":"cniCacheV1","containerId":"c","config":"e30=","ifName":"eth0","networkName":"labk","netns":"/run/netns/x",
"cniArgs":[["IgnoreUnknown","1"],["K8S_POD_NAMESPACE",%q],["K8S_POD_NAME",%q],["K8S_POD_INFRA_CONTAINER_ID","c"],["K8S_POD_UID","u"]],
"result":{"cniVersion":"1.0.0","ips":[{"address":%q,"gateway":"10.42.0.1","interface":1}]}}`, namespace, name, ip)
}

func TestAddresses(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "results")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("labk-old-eth0", result("a", "old", "10.42.0.2/24"))
	write("labk-lo-lo", `{"cniArgs":[["K8S_POD_NAMESPACE","a"],["K8S_POD_NAME","old"]],"result":{}}`)
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(folder, "labk-old-eth0"), past, past); err != nil {
		t.Fatal(err)
	}

	changed := make(chan struct{}, 1)
	a := newAddresses(folder, func() { kick(changed) })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- a.run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	want := func(what, want string) {
		t.Helper()
		limit := time.After(10 * time.Second)
		for fmt.Sprint(a.all()) != want {
			select {
			case <-changed:
			case <-limit:
				t.Fatalf("%s: got %v, want %s", what, a.all(), want)
			}
		}
	}
	want("what is there", "map[10.42.0.2:a/old]")
	write("labk-new-eth0", result("a", "new", "10.42.0.3/24"))
	want("a new one", "map[10.42.0.2:a/old 10.42.0.3:a/new]")
	write("labk-next-eth0", result("b", "next", "10.42.0.2/24"))
	want("the newer of two that claim an address", "map[10.42.0.2:b/next 10.42.0.3:a/new]")
	write("labk-broken-eth0", `{"cniArgs":[["K8S_`)
	if err := os.Remove(filepath.Join(folder, "labk-new-eth0")); err != nil {
		t.Fatal(err)
	}
	want("one less", "map[10.42.0.2:b/next]")
	write("labk-broken-eth0", result("a", "whole", "10.42.0.4/24"))
	want("one written in two parts", "map[10.42.0.2:b/next 10.42.0.4:a/whole]")
}
