package network

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestResolvConf(t *testing.T) {
	type servers struct{ outside, local []string }
	for name, tc := range map[string]struct {
		files      map[string]servers
		path, text string // path "": the own file
	}{
		"ordinary":         {map[string]servers{machineResolvConf: {outside: []string{"10.0.0.1"}}}, machineResolvConf, "nameserver 10.0.0.1\n"},
		"systemd-resolved": {map[string]servers{machineResolvConf: {local: []string{"127.0.0.53"}}, systemdResolvConf: {outside: []string{"10.0.0.1"}}}, systemdResolvConf, "nameserver 10.0.0.1\n"},
		"mixed":            {map[string]servers{machineResolvConf: {[]string{"10.0.0.1", "10.0.0.2"}, []string{"127.0.0.1"}}}, "", "nameserver 10.0.0.1\nnameserver 10.0.0.2\n"},
		"only local":       {map[string]servers{machineResolvConf: {local: []string{"127.0.0.1"}}}, "", "nameserver 192.168.1.5\n"},
		"none":             {nil, "", "nameserver 192.168.1.5\n"},
	} {
		t.Run(name, func(t *testing.T) {
			r := ResolvConf{
				Nameservers: func(path string) ([]string, []string) { return tc.files[path].outside, tc.files[path].local },
				Own:         filepath.Join(t.TempDir(), "etc", "resolv.conf"),
			}
			want := tc.path
			if want == "" {
				want = r.Own
			}
			if got := r.Path(); got != want {
				t.Errorf("path %s, want %s", got, want)
			}
			if err := r.Write(net.IPv4(192, 168, 1, 5)); err != nil {
				t.Fatal(err)
			}
			if text, err := os.ReadFile(r.Own); err != nil || string(text) != tc.text {
				t.Errorf("got %q, %v", text, err)
			}
		})
	}
}

func node(change func(*v1.Node)) *v1.Node {
	n := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "pc2", Annotations: map[string]string{
			annotationManaged: "true", annotationPublicIP: "192.168.1.6", annotationBackendType: "vxlan",
			annotationBackendData: `{"VNI":1,"VtepMAC":"aa:bb:cc:dd:ee:ff"}`,
		}},
		Spec: v1.NodeSpec{PodCIDR: "10.42.3.0/24"},
	}
	change(n)
	return n
}

func TestToLease(t *testing.T) {
	l, err := toLease(node(func(*v1.Node) {}))
	if err != nil || l.Subnet.String() != "10.42.3.0/24" || l.Attrs.PublicIP.String() != "192.168.1.6" || l.Attrs.BackendType != "vxlan" {
		t.Errorf("got %+v, %v", l, err)
	}
	for name, change := range map[string]func(*v1.Node){
		"no subnet":  func(n *v1.Node) { n.Spec.PodCIDR = "" },
		"no address": func(n *v1.Node) { delete(n.Annotations, annotationPublicIP) },
	} {
		if _, err := toLease(node(change)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestSameLease(t *testing.T) {
	old := node(func(*v1.Node) {})
	for name, tc := range map[string]struct {
		change func(*v1.Node)
		same   bool
	}{
		"heartbeat": {func(n *v1.Node) { n.ResourceVersion = "7"; n.Annotations["else"] = "x" }, true},
		"address":   {func(n *v1.Node) { n.Annotations[annotationPublicIP] = "192.168.1.7" }, false},
		"tunnel":    {func(n *v1.Node) { n.Annotations[annotationBackendData] = "{}" }, false},
		"subnet":    {func(n *v1.Node) { n.Spec.PodCIDR = "10.42.4.0/24" }, false},
		"left":      {func(n *v1.Node) { delete(n.Annotations, annotationManaged) }, false},
	} {
		if got := sameLease(old, node(tc.change)); got != tc.same {
			t.Errorf("%s: %v", name, got)
		}
	}
}
