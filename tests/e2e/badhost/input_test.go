package badhost

import (
	"testing"

	"github.com/labk/labk/tests/e2e/cluster"
)

const configFile = "/etc/labk/config.yaml"

// server is a command line of labk server.
func server(args ...string) []string { return append([]string{"labk", "server"}, args...) }

func withConfig(text string) map[string]string { return map[string]string{configFile: text} }

func badInput() []mistake {
	return []mistake{
		{name: "unknown command", argv: []string{"labk", "sever"}, code: usage, want: []string{`"sever"`, "labk --help"}},
		{name: "unknown flag", argv: server("--nonsense"), code: usage, want: []string{"nonsense", "labk server --help"}},
		{name: "argument", argv: server("now"), code: usage, want: []string{`"now"`, "labk server --help"}},
		{name: "flag of a wrong type", argv: server("--https-listen-port=many"), code: usage, want: []string{"https-listen-port", "many"}},
		{name: "unknown key", files: withConfig("# mine\nnode-name: a\ncluster-cdir: 10.1.0.0/16\n"), argv: server(), code: usage,
			want: []string{configFile, "line 3", "cluster-cdir"}},
		{name: "wrong type", files: withConfig("debug: perhaps\n"), argv: server(), code: usage, want: []string{configFile, "line 1", "debug", "true or false"}},
		{name: "bad syntax", files: withConfig("node-name: a\n\tdebug: true\n"), argv: server(), code: usage, want: []string{configFile, "line 2"}},
		{name: "unknown key in the folder", files: map[string]string{configFile + ".d/10-more.yaml": "\nnonsense: 1\n"}, argv: server(), code: usage,
			want: []string{configFile + ".d/10-more.yaml", "line 2", "nonsense"}},
		{name: "no such file", argv: server("--config", "/etc/labk/none.yaml"), code: usage, want: []string{"/etc/labk/none.yaml"}},
		{name: "environment", argv: append([]string{"env", "LABK_DEBUG=perhaps"}, server()...), code: usage, want: []string{"LABK_DEBUG", "perhaps"}},
		{name: "malformed CIDR", argv: server("--cluster-cidr=10.42.0.0/33"), code: usage, want: []string{"cluster-cidr", "10.42.0.0/33"}},
		{name: "bits beyond the prefix", argv: server("--service-cidr=10.43.0.1/16"), code: usage, want: []string{"service-cidr", "10.43.0.1/16", "10.43.0.0/16"}},
		{name: "overlapping CIDRs", argv: server("--cluster-cidr=10.0.0.0/8"), code: usage, want: []string{"cluster-cidr", "overlaps", "service-cidr"}},
		{name: "DNS outside its CIDR", argv: server("--cluster-dns=10.99.0.10"), code: usage, want: []string{"cluster-dns", "10.99.0.10"}},
		{name: "kubelet flag", argv: server("--kubelet-arg=no-such-flag=1"), code: usage, want: []string{"kubelet-arg", "no-such-flag"}},
		{name: "kubelet flag's value", argv: server("--kubelet-arg=max-pods=many"), code: usage, want: []string{"kubelet-arg", "max-pods"}},
		{name: "API server flag", argv: server("--kube-apiserver-arg=no-such-flag=1"), code: usage, want: []string{"kube-apiserver-arg", "no-such-flag"}},
		{name: "node address", argv: server("--node-ip=192.0.2.1"), code: usage, want: []string{"node-ip", "192.0.2.1"}},
		{name: "component", argv: server("--disable=corndns"), code: usage, want: []string{"disable", "corndns", "coredns"}},
		{name: "output format", argv: []string{"labk", "check", "-o", "xml"}, code: usage, want: []string{"xml", "json"}},
	}
}

func TestBadInput(t *testing.T) {
	c := cluster.Start(t, cluster.Options{DontStart: true})
	for _, m := range badInput() {
		t.Run(m.name, func(t *testing.T) { m.try(t, c) })
	}
}
