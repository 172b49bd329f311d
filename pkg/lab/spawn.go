package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// initOrder is what the parent tells a host's init, once it is in its cgroups.
type initOrder struct {
	Name       string // host name
	MachineID  string
	Hosts      string // the content of /etc/hosts
	Gateway    string
	LabDir     string // hidden from the host
	Dir        string // the host's disk
	Opt        string // shown at OptDir, if any
	Root       string // under the host's overlay, if any
	Systemd    bool
	OwnerBound bool
	Cgroups    []hierarchy
}

const (
	initEnv   = "LABK_LAB_INIT" // tells MaybeInit what the process is
	orderFD   = 3
	answerFD  = 4
	initReady = "ready\n"
)

// startInit starts the host's pid 1 and returns when it has made the host. keeper is closed when pid 1 is dead and reaped.
func (h *Host) startInit(ctx context.Context) (init process, keeper <-chan struct{}, err error) {
	p, err := newInitProcess(h.lab.state.Options.InitCommand, filepath.Join(h.dir(), "init.log"))
	if err != nil {
		return process{}, nil, err
	}
	defer p.close()
	reaped := make(chan struct{})
	started := make(chan error, 1)
	go func() {
		defer close(reaped)
		// The thread that starts init must live as long as init: its end is what PR_SET_PDEATHSIG tells. It stays locked, and
		// so ends with this goroutine.
		_ = onThread(func() error { return p.run(h.Net().path, started) }) // it ends by being killed: no news
	}()
	if err := <-started; err != nil {
		<-reaped
		return process{}, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = p.cmd.Process.Kill() })
	defer stop()
	if err = h.instruct(p); err == nil {
		init, err = identify(p.cmd.Process.Pid)
	}
	if err != nil {
		_ = p.cmd.Process.Kill()
		<-reaped
		return process{}, nil, err
	}
	return init, reaped, nil
}

// instruct puts init into its cgroups, gives it its order and reads its answer.
func (h *Host) instruct(p *initProcess) error {
	for i := range h.lab.state.Cgroups {
		procs := filepath.Join(h.lab.state.Cgroups[i].hostGroup(h.index), "cgroup.procs")
		if err := os.WriteFile(procs, []byte(strconv.Itoa(p.cmd.Process.Pid)), 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("put its init into cgroup: %w", err)
		}
	}
	o := &h.lab.state.Options
	order := initOrder{
		Name: h.Name(), MachineID: h.MachineID(), Hosts: h.hostsFile(), Gateway: h.lab.Gateway().String(), LabDir: o.Dir, Dir: h.dir(),
		Opt: o.Opt, Root: o.Root, Systemd: o.Systemd, OwnerBound: o.OwnerBound, Cgroups: h.lab.state.Cgroups,
	}
	encodeErr := json.NewEncoder(p.order).Encode(order)
	_ = p.order.Close()
	answer, err := io.ReadAll(p.answer) // init closes it when it becomes the shell or systemd, or dies
	if string(answer) == initReady {
		return nil
	}
	if err == nil {
		err = encodeErr
	}
	log, _ := os.ReadFile(p.cmd.Stderr.(*os.File).Name())
	return fmt.Errorf("its init (%s) failed: %s %s: %w", strings.Join(p.cmd.Args, " "), answer, log, errOr(err, errInitDied))
}

// initProcess is a host's init while it is being started, with the parent's and the child's ends of two pipes.
type initProcess struct {
	cmd           *exec.Cmd
	order, answer *os.File
	toClose       []*os.File
}

func newInitProcess(argv []string, logPath string) (*initProcess, error) {
	p := &initProcess{}
	log, logErr := os.Create(logPath)
	orderRead, orderWrite, orderErr := os.Pipe()
	answerRead, answerWrite, answerErr := os.Pipe()
	p.toClose = []*os.File{log, orderRead, orderWrite, answerRead, answerWrite}
	if err := errors.Join(logErr, orderErr, answerErr); err != nil {
		p.close()
		return nil, err
	}
	p.order, p.answer = orderWrite, answerRead
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Dir = "/"
	p.cmd.Env = append(os.Environ(), initEnv+"=1")
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.ExtraFiles = []*os.File{orderRead, answerWrite} // orderFD, answerFD
	p.cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid:     true, // an interrupt typed at the owner's terminal is not for the host
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWPID,
	}
	return p, nil
}

// run starts init from inside the network namespace, reports that on started, and waits for init's end.
func (p *initProcess) run(netns string, started chan<- error) error {
	err := enterNetns(netns)
	if err == nil {
		err = p.cmd.Start()
	}
	if err == nil {
		// the child's ends, or its death would not be seen
		for _, f := range p.cmd.ExtraFiles {
			_ = f.Close()
		}
	}
	started <- err
	if err != nil {
		return err
	}
	return p.cmd.Wait()
}

// close closes what is still open.
func (p *initProcess) close() {
	for _, f := range p.toClose {
		_ = f.Close()
	}
}
