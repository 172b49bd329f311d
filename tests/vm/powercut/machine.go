package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/labk/labk/tests/powercut"
)

// diskSize is that of the disk of /var/lib/labk; memory is taken for what is written only.
const diskSize = 2 << 30

// machine is the virtual machine.
type machine struct {
	drive
	argv  []string // of QEMU, without the disk
	limit time.Duration
	disk  *powercut.Disk
	where string // the folder that shows it

	mount *powercut.Mount
	qemu  *exec.Cmd
	ended chan struct{}
	// config is what the guest told: how to reach its API.
	config chan *rest.Config
}

// newMachine makes a machine whose disk has an empty ext4.
func newMachine(d drive, argv []string, seed uint64, limit time.Duration) (*machine, error) {
	where, err := os.MkdirTemp("", "disk")
	if err != nil {
		return nil, err
	}
	m := &machine{drive: d, argv: argv, limit: limit, disk: powercut.New(seed, powercut.ByFile), where: where}
	if m.mount, err = m.disk.Mount(where, 0); err != nil {
		return nil, err
	}
	fresh, file := where+".ext4", m.file()
	defer os.Remove(fresh)
	for _, argv := range [][]string{
		{"truncate", "-s", fmt.Sprint(diskSize), fresh},
		{"mkfs.ext4", "-q", "-b", "4096", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-L", "labk", fresh},
		{"cp", "--sparse=always", fresh, file}, // by other processes: this one serves the disk
		{"sync", file, where},
	} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			return nil, errors.Join(fmt.Errorf("make the disk: %s: %w: %s", argv[0], err, out), m.off())
		}
	}
	return m, nil
}

func (m *machine) file() string { return filepath.Join(m.where, "disk.raw") }

// start switches the machine on.
func (m *machine) start() error {
	var err error
	if m.mount == nil {
		if m.mount, err = m.disk.Mount(m.where, 0); err != nil {
			return err
		}
	}
	argv := append(m.argv[1:len(m.argv):len(m.argv)], "-serial", "stdio", "-drive", fmt.Sprintf("file=%s,format=raw,if=virtio,cache=%s", m.file(), m.cache))
	m.qemu = exec.Command(m.argv[0], argv...)
	m.qemu.Stderr = os.Stderr
	m.qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	told, err := m.qemu.StdoutPipe()
	if err == nil {
		err = m.qemu.Start()
	}
	if err != nil {
		m.qemu = nil
		return fmt.Errorf("start QEMU: %w", err)
	}
	m.ended, m.config = make(chan struct{}), make(chan *rest.Config, 1)
	go func() { defer close(m.ended); m.listen(told) }()
	return nil
}

// listen reads what the guest tells until the machine is off.
func (m *machine) listen(from io.Reader) {
	lines := bufio.NewScanner(from)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		text, ok := strings.CutPrefix(line, "kubeconfig ")
		if !ok {
			fmt.Println("  guest:", line)
			continue
		}
		raw, err := base64.StdEncoding.DecodeString(text)
		config, err2 := clientcmd.RESTConfigFromKubeConfig(raw)
		if err = errors.Join(err, err2); err != nil {
			fmt.Println("  not a kubeconfig:", err)
			continue
		}
		m.config <- config
	}
}

// on switches the machine on and waits until its API is ready.
func (m *machine) on(ctx context.Context) (*rest.Config, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, m.limit)
	defer cancel()
	if err := m.start(); err != nil {
		return nil, err
	}
	var config *rest.Config
	select {
	case config = <-m.config:
	case <-m.ended:
		return nil, errors.New("the machine went off while it started: see above, and its console")
	case <-ctx.Done():
		return nil, fmt.Errorf("no labk in the machine after %v: see its console", time.Since(began).Round(time.Second))
	}
	client, err := kubernetes.NewForConfig(alone(config))
	if err != nil {
		return nil, err
	}
	for {
		err := client.RESTClient().Get().AbsPath("/readyz").Timeout(20 * time.Second).Do(ctx).Error()
		if err == nil {
			fmt.Printf("  ready after %v\n", time.Since(began).Round(time.Second))
			return config, nil
		}
		select {
		case <-time.After(time.Second / 2):
		case <-ctx.Done():
			return nil, fmt.Errorf("the API is not ready after %v: %w", time.Since(began).Round(time.Second), err)
		}
	}
}

// alone returns a configuration whose client has connections of its own.
func alone(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.Dial = dialer().DialContext // two dial functions are never taken for the same
	config.QPS = -1
	return config
}

// kill takes the power away.
func (m *machine) kill() {
	if m.qemu != nil {
		_ = m.qemu.Process.Kill() // it may have ended
	}
}

// off takes the power away and the disk out.
func (m *machine) off() error {
	if m.qemu != nil {
		m.kill()
		<-m.ended
		_ = m.qemu.Wait() // it was killed
		m.qemu = nil
	}
	if m.mount == nil {
		return nil
	}
	err := m.mount.Close()
	m.mount = nil
	return err
}
