// Package config holds labk's one configuration: a single struct that defaults, files, environment and command line fill in
// that order, each over the one before. The doc comments of the fields are the user's reference: help texts and
// docs/configuration.md are made from them (see Options).
package config

import (
	"os"
	"strings"
)

// Config is everything that can be set. The `name` tag is the option's name as a flag and as a key of config.yaml; the
// environment variable is LABK_ and the name in capitals with underscores. `role` limits an option to "server" or "agent". `shared` marks what
// all nodes of a cluster have from its server. `example` is a value for examples/config.yaml, for options without a default.
// A Config is filled once, before anything starts, and read-only from then on; an agent's shared options are set when it joins (Adopt), before anything that reads
// them starts.
type Config struct {
	// Folder for everything that labk keeps.
	DataDir string `name:"data-dir"`
	// Token that nodes join with. On a server: one to be accepted for ever (a passphrase will do); made on the first start when empty. On an agent: what
	// `labk token create` printed on the server; not needed any more once the PC has joined. Prefer token-file: a command line can be read by every user of
	// the machine.
	Token string `name:"token" example:"FROM-THE-SERVER"`
	// File to read the token from.
	TokenFile string `name:"token-file" example:"/etc/labk/token"`
	// Name of this machine's node. Default: its host name in lower case.
	NodeName string `name:"node-name" example:"pc1"`
	// Address of this machine's node. Default: the one that the default route leaves from.
	NodeIP string `name:"node-ip" example:"192.168.1.10"`
	// Labels to register the node with, KEY=VALUE.
	NodeLabels []string `name:"node-label" example:"room=101"`
	// Taints to register the node with, KEY=VALUE:EFFECT.
	NodeTaints []string `name:"node-taint" example:"gpu=yes:NoSchedule"`
	// Network interface for traffic between nodes. Default: the one that has node-ip.
	FlannelIface string `name:"flannel-iface" example:"eth0"`
	// Extra flags for the kubelet, NAME=VALUE.
	KubeletArgs []string `name:"kubelet-arg" example:"max-pods=50"`
	// Extra flags for kube-proxy, NAME=VALUE.
	KubeProxyArgs []string `name:"kube-proxy-arg" example:"v=2"`
	// Log everything that every component has to say.
	Debug bool `name:"debug"`

	// URL of the server to join, such as https://first-pc:6443.
	Server string `name:"server" role:"agent" example:"https://first-pc:6443"`

	// Port of the API, for clients and for nodes.
	HTTPSListenPort int `name:"https-listen-port" role:"server"`
	// Address that the API listens on. Default: all.
	BindAddress string `name:"bind-address" role:"server" example:"192.168.1.10"`
	// Address at which pods and nodes reach the API. Default: node-ip.
	AdvertiseAddress string `name:"advertise-address" role:"server" example:"192.168.1.10"`
	// More names and addresses for the API's certificate.
	TLSSANs []string `name:"tls-san" role:"server" example:"cluster.lab.example"`
	// Addresses of pods; one IPv4 CIDR.
	ClusterCIDR string `name:"cluster-cidr" role:"server" shared:"true"`
	// Addresses of services; one IPv4 CIDR.
	ServiceCIDR string `name:"service-cidr" role:"server" shared:"true"`
	// Address of the cluster's DNS, inside service-cidr. Default: its tenth.
	ClusterDNS string `name:"cluster-dns" role:"server" shared:"true" example:"10.43.0.10"`
	// DNS domain of the cluster.
	ClusterDomain string `name:"cluster-domain" role:"server" shared:"true"`
	// How pods reach pods on other nodes: vxlan, host-gw or none (bring your own CNI plugin).
	FlannelBackend string `name:"flannel-backend" role:"server" shared:"true"`
	// Do not enforce NetworkPolicies, and remove the rules of an earlier run.
	DisableNetworkPolicy bool `name:"disable-network-policy" role:"server" shared:"true"`
	// Datastore in this process: sqlite or etcd. What the other one has is taken over at the start.
	Datastore string `name:"datastore" role:"server"`
	// Datastore elsewhere: etcd (https://HOST:2379, several separated by commas), PostgreSQL (postgres://USER:PASSWORD@HOST/DATABASE), MySQL or MariaDB
	// (mysql://USER:PASSWORD@tcp(HOST:3306)/DATABASE). Empty: the one in this process. With a password prefer config.yaml or the environment: a command line can be read by every
	// user of the machine.
	DatastoreEndpoint string `name:"datastore-endpoint" role:"server" example:"postgres://labk:SECRET@db.lab.example/labk"`
	// File with the CA of the datastore elsewhere. Default: the CAs that the machine trusts.
	DatastoreCAFile string `name:"datastore-cafile" role:"server" example:"/etc/labk/datastore-ca.crt"`
	// File with the certificate to show to the datastore elsewhere.
	DatastoreCertFile string `name:"datastore-certfile" role:"server" example:"/etc/labk/datastore.crt"`
	// File with that certificate's key.
	DatastoreKeyFile string `name:"datastore-keyfile" role:"server" example:"/etc/labk/datastore.key"`
	// When to make a snapshot of the whole cluster, as cron writes it (minute hour day month weekday, in the local time), or such as @every 6h; off for never. One that was missed, as by a PC that was off, is made
	// soon after the start.
	SnapshotSchedule string `name:"snapshot-schedule" role:"server"`
	// How many snapshots of one kind (by schedule, before upgrades) are kept. Those made by hand stay.
	SnapshotRetention int `name:"snapshot-retention" role:"server"`
	// Folder for snapshots. Default: server/snapshots in data-dir.
	SnapshotDir string `name:"snapshot-dir" role:"server" example:"/mnt/backup/labk"`
	// Do not keep a copy of the newest snapshot on one of the other nodes.
	DisableSnapshotCopy bool `name:"disable-snapshot-copy" role:"server"`
	// Packaged components to leave out (coredns).
	Disable []string `name:"disable" role:"server" example:"coredns"`
	// Run the control plane only, no node.
	DisableAgent bool `name:"disable-agent" role:"server"`
	// Where to write the administrator's kubeconfig.
	WriteKubeconfig string `name:"write-kubeconfig" role:"server"`
	// Mode of that file, in octal.
	WriteKubeconfigMode string `name:"write-kubeconfig-mode" role:"server"`
	// Extra flags for kube-apiserver, NAME=VALUE.
	KubeAPIServerArgs []string `name:"kube-apiserver-arg" role:"server" example:"audit-log-path=/var/log/labk-audit.log"`
	// Extra flags for kube-scheduler, NAME=VALUE.
	KubeSchedulerArgs []string `name:"kube-scheduler-arg" role:"server" example:"v=2"`
	// Extra flags for kube-controller-manager, NAME=VALUE.
	KubeControllerManagerArgs []string `name:"kube-controller-manager-arg" role:"server" example:"node-monitor-grace-period=20s"`
}

// Default returns the configuration of a server that was given nothing.
func Default() Config {
	host, _ := os.Hostname()
	return Config{
		DataDir:             "/var/lib/labk",
		NodeName:            strings.ToLower(host),
		HTTPSListenPort:     6443,
		ClusterCIDR:         "10.42.0.0/16",
		ServiceCIDR:         "10.43.0.0/16",
		ClusterDomain:       "cluster.local",
		FlannelBackend:      "vxlan",
		SnapshotSchedule:    "0 */12 * * *",
		SnapshotRetention:   5,
		Datastore:           "sqlite",
		WriteKubeconfig:     "/etc/labk/kubeconfig.yaml",
		WriteKubeconfigMode: "0600",
	}
}
