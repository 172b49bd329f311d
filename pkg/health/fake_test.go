package health

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/labk/labk/pkg/config"
)

// fake is a machine in which everything is right, until a test case changes it.
type fake struct {
	Host
	t *testing.T
	// programs in PATH: what each prints, or the error it ends with.
	programs map[string]func(args []string) (string, error)
	// chains is what nft prints for "list chains" and "list table".
	chains map[string]string
	// zones and standardZone are firewalld's.
	zones, standardZone string
}

func prints(text string) func([]string) (string, error) {
	return func([]string) (string, error) { return text, nil }
}

func complains(text string) func([]string) (string, error) {
	return func([]string) (string, error) { return "", errors.New(text) }
}

var goodFiles = map[string]string{
	"proc/self/status":                       "Name:\tlabk\nCapEff:\t000001ffffffffff\n",
	"proc/filesystems":                       "nodev\tsysfs\nnodev\toverlay\n\text4\n",
	"proc/sys/net/bridge/x":                  "",
	"sys/module/vxlan/x":                     "",
	"proc/sys/kernel/osrelease":              "6.1.0-50-cloud-amd64\n",
	"proc/self/mounts":                       "proc /proc proc rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n",
	"sys/fs/cgroup/cgroup.controllers":       "cpuset cpu io memory hugetlb pids\n",
	"etc/protocols":                          "# made by hand\ntcp\t6\tTCP\nudp\t17\tUDP\n",
	"proc/swaps":                             "Filename\tType\tSize\tUsed\tPriority\n",
	"etc/resolv.conf":                        "# made by hand\nnameserver 192.168.1.1\n",
	"proc/net/route":                         "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\neth0\t00000000\t0102A8C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\neth0\t0002A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n",
	"proc/net/tcp":                           tcpHeader + "   0: 0100007F:1A2B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0\n",
	"proc/net/tcp6":                          tcpHeader,
	"proc/123/comm":                          "nginx\n",
	"proc/sys/fs/inotify/max_user_instances": "128\n",
	"proc/124/comm":                          "sleep\n",
	"proc/124/fd/not-a-link-to-a-socket":     "",
}

const tcpHeader = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

func newFake(t *testing.T) *fake {
	t.Helper()
	cfg := config.Default()
	cfg.DataDir = filepath.Join(t.TempDir(), "labk")
	f := &fake{t: t, Host: ThisHost(cfg, true, time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC))}
	f.Root, f.UID, f.Starting, f.Now = t.TempDir(), 0, true, time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for name, text := range goodFiles {
		f.write(name, text)
	}
	if err := os.MkdirAll(f.path("proc/123/fd"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("socket:[4711]", f.path("proc/123/fd/3")); err != nil {
		t.Fatal(err)
	}
	f.programs = map[string]func([]string) (string, error){
		"mount": prints(""), "modprobe": complains("modprobe: FATAL: Module not found"), "iptables": prints(""),
		"nft": func(args []string) (string, error) {
			switch args[0] {
			case "--version":
				return "nftables v1.0.6 (Lester Gooch #5)\n", nil
			case "list":
				return f.chains[args[1]], nil
			}
			return "", nil
		},
	}
	f.LookPath = func(name string) (string, error) {
		if f.programs[name] == nil {
			return "", errors.New(name + " is not in PATH")
		}
		return "/usr/sbin/" + name, nil
	}
	f.Command = func(_ context.Context, _, name string, args ...string) (string, error) {
		return f.programs[filepath.Base(name)](args)
	}
	f.StatFS = func(string) (FileSystem, error) { return goodFS, nil }
	return f
}

var goodFS = FileSystem{Type: 0xef53, Size: 100 << 30, Free: 50 << 30, Files: 1 << 20, FreeFiles: 1 << 19}

// lastVersion makes the data folder one that this version used last, and this program v1.37.1+labk1.
func (f *fake) lastVersion(text string) {
	f.Version = "v1.37.1+labk1"
	f.put(f.data().Version(), text)
}

// disk changes what the data folder's file system is.
func (f *fake) disk(change func(*FileSystem)) {
	fs := goodFS
	change(&fs)
	f.StatFS = func(string) (FileSystem, error) { return fs, nil }
}

// mount makes the second folder on the way to a file of the data folder one of another file system, as a mount at server/db or server/etcd does.
func (f *fake) mount(file string, kind int64) {
	below, _ := filepath.Rel(f.Config.DataDir, file)
	dir := filepath.Join(f.Config.DataDir, filepath.Join(strings.Split(below, "/")[:2]...))
	f.StatFS = func(path string) (FileSystem, error) {
		fs := goodFS
		switch path {
		case dir:
			fs.Type = kind
		case filepath.Dir(dir), f.Config.DataDir:
		default:
			return fs, os.ErrNotExist
		}
		return fs, nil
	}
}

func (f *fake) put(path, text string) { f.t.Helper(); put(f.t, path, text) }

func put(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (f *fake) write(name, text string) { f.t.Helper(); f.put(f.path(name), text) }

func (f *fake) remove(name string) {
	f.t.Helper()
	if err := os.RemoveAll(f.path(name)); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fake) without(programs ...string) {
	maps.DeleteFunc(f.programs, func(name string, _ func([]string) (string, error)) bool {
		for _, p := range programs {
			if p == name {
				return true
			}
		}
		return false
	})
}

func (f *fake) certificate(path string, begins time.Time) {
	f.t.Helper()
	writeCertificate(f.t, path, begins)
}

// writeCertificate writes one that begins at the given time.
func writeCertificate(t testing.TB, path string, begins time.Time) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: begins, NotAfter: begins.AddDate(10, 0, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	put(t, path, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
}
