// Package paths names every file and folder that labk uses, so that nothing else builds one by hand.
package paths

import "path/filepath"

// Fixed places outside the data folder.
const (
	ConfigFile   = "/etc/labk/config.yaml"
	ConfigFolder = "/etc/labk/config.yaml.d"
	// TokenFile is where an installed labk reads the token to join with; InstallRecord says what was installed.
	TokenFile     = "/etc/labk/token"
	InstallRecord = "/etc/labk/install.json"
	// KeptRecord says which files of configuration `labk uninstall --keep-data` has left for the next installation.
	KeptRecord = "/etc/labk/kept.json"
	RunDir     = "/run/labk"
	// RegistryHosts has a folder per registry with containerd's hosts.toml: mirrors, CAs.
	RegistryHosts = "/etc/containerd/certs.d"
)

// Previous is where the program that was replaced last is kept: in the folder of the one in use, so that one rename brings it back.
func Previous(program string) string { return filepath.Join(filepath.Dir(program), ".labk.previous") }

// Staged is where a new program is put before it takes the place of the one in use.
func Staged(program string) string { return filepath.Join(filepath.Dir(program), ".labk.new") }

// Data is the data folder (config.Config.DataDir).
type Data string

func (d Data) join(elem ...string) string {
	return filepath.Join(append([]string{string(d)}, elem...)...)
}

// Lock is held for as long as a labk uses the folder; it contains the pid.
func (d Data) Lock() string { return d.join("lock") }

// LastRun is what the labk that runs, or ran last, left about itself (process.Record).
func (d Data) LastRun() string { return d.join("last-run.json") }

// Version is the file with the version of the program that used the folder last.
func (d Data) Version() string { return d.join("version") }

// Payload is the folder of unpacked payloads; PayloadBin is where the one in use is found, whatever its hash.
func (d Data) Payload() string    { return d.join("data") }
func (d Data) PayloadBin() string { return d.join("data", "current", "bin") }

// Database is SQLite's file. Before is its copy from before an upgrade to the version, with "*" the pattern of all of them; Failed is what an upgrade to the version left that
// was taken back.
func (d Data) Database() string             { return d.join("server", "db", "state.db") }
func (d Data) Before(version string) string { return d.join("server", "db", "before-"+version+".db") }
func (d Data) Failed(version string) string { return d.join("server", "db", "failed-"+version+".db") }

// Server is the folder of all that only a server has.
func (d Data) Server() string { return d.join("server") }

// Snapshots is where snapshots lie if nobody says otherwise, Copies where a node keeps those of its server.
func (d Data) Snapshots() string { return d.join("server", "snapshots") }
func (d Data) Copies() string    { return d.join("agent", "snapshots") }

// RestoreMaking is a restore that is being made ready, Restore one that is ready and takes its place at the next start, whatever happens meanwhile. Restored tells of the last one.
func (d Data) RestoreMaking() string { return d.join("server", "restore.new") }
func (d Data) Restore() string       { return d.join("server", "restore") }
func (d Data) Restored() string      { return d.join("server", "restored.json") }

// DatabaseFolder is where SQLite's file lies.
func (d Data) DatabaseFolder() string { return filepath.Dir(d.Database()) }

// Etcd is the folder of the member of etcd in this process, EtcdFile the file with its keys. Next is where a datastore that is to take the place of one of the above is made; Moving says that it is whole and what it replaces. Migrated is
// where the one goes that another kind took over from, with "*" the pattern of all of them.
func (d Data) Etcd() string     { return d.join("server", "etcd") }
func (d Data) EtcdFile() string { return d.join("server", "etcd", "member", "snap", "db") }
func (d Data) Next() string     { return d.join("server", "next") }
func (d Data) Moving() string   { return d.join("server", "moving.json") }
func (d Data) Migrated(kind, time string) string {
	if kind == "etcd" {
		return d.join("server", "etcd.migrated-"+time)
	}
	return d.join("server", "db.migrated-"+time)
}

// ServerTLS is the folder of CAs, leaves and service-account keys.
func (d Data) ServerTLS() string { return d.join("server", "tls") }

// ServerEtc is the folder of files that the control plane's components are configured with.
func (d Data) ServerEtc() string { return d.join("server", "etc") }

// Token is the file of the cluster's join secret.
func (d Data) Token() string { return d.join("server", "token") }

// Encryption is the configuration (with the key) by which the API server encrypts Secrets.
func (d Data) Encryption() string { return d.join("server", "etc", "encryption.yaml") }

// Containerd is containerd's root.
func (d Data) Containerd() string { return d.join("agent", "containerd") }

// Kubelet is the kubelet's root.
func (d Data) Kubelet() string { return d.join("agent", "kubelet") }

// AgentTLS is the folder of the node's certificates and kubeconfigs.
func (d Data) AgentTLS() string { return d.join("agent", "tls") }

// ClusterOptions is what an agent remembers of its cluster's options.
func (d Data) ClusterOptions() string { return d.join("agent", "etc", "cluster.json") }

// UpgradeRequest is the last upgrade that the server asked this PC for.
func (d Data) UpgradeRequest() string { return d.join("agent", "upgrade.json") }

// CNIConf is the folder of the CNI network list.
func (d Data) CNIConf() string { return d.join("agent", "etc", "cni", "net.d") }

// ResolvConf is the resolv.conf that pods get when the machine's own does not work inside them.
func (d Data) ResolvConf() string { return d.join("agent", "etc", "resolv.conf") }

// Run folder.
const (
	// KineSocket is the datastore's etcd endpoint.
	KineSocket = RunDir + "/kine/kine.sock"
	// ContainerdState is containerd's state folder, ContainerdSocket its address.
	ContainerdState  = RunDir + "/containerd"
	ContainerdSocket = ContainerdState + "/containerd.sock"
	// UpgradeLock is held while the program is being replaced.
	UpgradeLock = RunDir + "/upgrade.lock"
	// ControlSocket is where a running labk answers commands of this PC's root.
	ControlSocket = RunDir + "/control.sock"
	// Sysctls is how the kernel's settings were before labk started for the first time since the boot.
	Sysctls = RunDir + "/sysctl.json"
)

// CNIResults is where the CNI library, in containerd, notes what plugins have done for which pod.
const CNIResults = "/var/lib/cni/results"

// Pair names the two files of a certificate and its key.
type Pair struct{ Cert, Key string }
