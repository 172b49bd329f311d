package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// hostPath is where commands in a host are looked for. A host with a root of its own is as a PC is: nothing comes before what is installed.
func hostPath(ownRoot bool) string {
	const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	if ownRoot {
		return path
	}
	return OptDir + ":" + path
}

// Cmd is a command inside a host. It is used like an exec.Cmd, with these differences: the name is looked up in the host; Env
// adds to a fresh environment (PATH, HOME, TERM) instead of replacing the caller's; Dir is /root unless set; output held open
// by a process that the command left behind is waited for only 5 s after its end (WaitDelay); SysProcAttr.Ptrace is the lab's;
// the process is reaped as soon as it ends, also before Wait: a zombie would keep its host's PID namespace from ending.
// A command dies with its host, not with the caller.
type Cmd struct {
	*exec.Cmd
	host  *Host
	pipes []*os.File    // the command's ends, to be closed when it has them
	ended chan struct{} // closed when err is set
	err   error
}

// Command prepares a command in the host; argv[0] is its name. The command is killed when ctx ends.
func (h *Host) Command(ctx context.Context, argv ...string) *Cmd {
	if len(argv) == 0 {
		argv = []string{""}
	}
	c := exec.CommandContext(ctx, "/bin/false")
	c.Path, c.Args, c.Err = "", argv, nil
	c.Dir, c.WaitDelay = "/root", 5*time.Second
	return &Cmd{Cmd: c, host: h, ended: make(chan struct{})}
}

// StdoutPipe returns what the command writes to its standard output, until it and all who inherited it have closed it. Close it
// when done; Wait does not.
func (c *Cmd) StdoutPipe() (io.ReadCloser, error) {
	r, w, err := c.pipe()
	c.Stdout = w
	return r, err
}

// StderrPipe is StdoutPipe for standard error.
func (c *Cmd) StderrPipe() (io.ReadCloser, error) {
	r, w, err := c.pipe()
	c.Stderr = w
	return r, err
}

func (c *Cmd) pipe() (r, w *os.File, err error) {
	if r, w, err = os.Pipe(); err == nil {
		c.pipes = append(c.pipes, w)
	}
	return r, w, err
}

// Wait waits for the end of a command that was started, and of the copying of its input and output.
func (c *Cmd) Wait() error {
	if c.Process == nil {
		return fmt.Errorf("host %s: wait for %s: it was not started", c.host.Name(), strings.Join(c.Args, " "))
	}
	<-c.ended
	return c.err
}

// Run starts the command and waits for its end. A failed command is an *exec.ExitError.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the command and returns its standard output; standard error is in the *exec.ExitError unless Stderr is set.
func (c *Cmd) Output() ([]byte, error) {
	var out, errout bytes.Buffer
	c.Stdout = &out
	if c.Stderr == nil {
		c.Stderr = &errout
	}
	err := c.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		exit.Stderr = errout.Bytes()
	}
	return out.Bytes(), err
}

// CombinedOutput runs the command and returns its standard output and standard error together.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.Bytes(), err
}

// Start starts the command. It is in the host's namespaces and cgroups before its first instruction.
func (c *Cmd) Start() error {
	err := c.start()
	for _, p := range c.pipes {
		_ = p.Close()
	}
	if err != nil {
		return fmt.Errorf("host %s: run %s: %w", c.host.Name(), strings.Join(c.Args, " "), err)
	}
	go func() {
		defer close(c.ended)
		c.err = c.Cmd.Wait()
	}()
	return nil
}

func (c *Cmd) start() error {
	state, err := c.host.running()
	if err != nil {
		return err
	}
	in, err := openDoors(state.Init, c.host)
	if err != nil {
		return err
	}
	defer in.close()
	c.Env = append([]string{"PATH=" + hostPath(c.host.lab.state.Options.Root != ""), "HOME=/root", "USER=root", "TERM=" + termOrDumb()}, c.Env...)
	if c.SysProcAttr == nil {
		c.SysProcAttr = &syscall.SysProcAttr{}
	}
	// Traced, the new process stops at its exec, and can be put into its cgroups. (Moving this thread instead is not possible
	// in cgroup v2, and a delegated subtree may not be entered from inside its namespace.)
	c.SysProcAttr.Ptrace = true
	return onThread(func() error {
		if err := in.enterNamespaces(); err != nil {
			return err
		}
		if err := c.lookUp(); err != nil {
			return err
		}
		if err := c.Cmd.Start(); err != nil {
			return err
		}
		if err := in.admit(c.Process.Pid); err != nil {
			_ = c.Process.Kill()
			_ = c.Cmd.Wait()
			c.Process = nil
			return err
		}
		return nil
	})
}

// lookUp finds the program; it runs inside the host.
func (c *Cmd) lookUp() error {
	name := c.Args[0]
	if strings.Contains(name, "/") {
		c.Path = name
		return nil
	}
	path := ""
	for _, v := range c.Env {
		if p, ok := strings.CutPrefix(v, "PATH="); ok {
			path = p // the last one counts
		}
	}
	for _, dir := range filepath.SplitList(path) {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			c.Path = file
			return nil
		}
	}
	return fmt.Errorf("no program %q in %s: %w", name, path, exec.ErrNotFound)
}

func termOrDumb() string {
	if term := os.Getenv("TERM"); term != "" {
		return term
	}
	return "dumb"
}

// doors are the open files through which a process gets into a host.
type doors struct {
	namespaces []*os.File
	groups     []*os.File // cgroup.procs
}

// openDoors opens them from outside, where their names mean something.
func openDoors(init process, h *Host) (*doors, error) {
	d := &doors{}
	if err := d.open(init, h); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (d *doors) open(init process, h *Host) error {
	for _, name := range []string{"cgroup", "ipc", "uts", "net", "pid", "mnt"} { // mnt last
		f, err := os.Open(fmt.Sprintf("/proc/%d/ns/%s", init.Pid, name))
		if err != nil {
			return err
		}
		d.namespaces = append(d.namespaces, f)
	}
	if !init.alive() { // or they might be those of another process
		return errors.New("it lost its power just now")
	}
	for i := range h.lab.state.Cgroups {
		group := h.lab.state.Cgroups[i].commandGroup(h.index)
		f, err := os.OpenFile(filepath.Join(group, "cgroup.procs"), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		d.groups = append(d.groups, f)
	}
	return nil
}

func (d *doors) close() {
	for _, f := range append(d.namespaces, d.groups...) {
		_ = f.Close()
	}
}

// enterNamespaces moves the calling thread; the PID namespace is that of its children only.
func (d *doors) enterNamespaces() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // threads that share their root cannot change it
		return fmt.Errorf("enter namespaces: %w", err)
	}
	for _, f := range d.namespaces {
		if err := unix.Setns(int(f.Fd()), 0); err != nil {
			return fmt.Errorf("enter namespace %s: %w", f.Name(), err)
		}
	}
	return nil
}

// admit puts the process, a child of this thread that stops at its exec, into the host's cgroups and lets it go.
func (d *doors) admit(pid int) error {
	for {
		// only looked at: if it was killed meanwhile, its end is for Wait
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WSTOPPED|unix.WEXITED|unix.WNOWAIT, nil)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for its start: %w", err)
		}
	}
	for _, f := range d.groups {
		_, err := f.WriteString(strconv.Itoa(pid))
		if err != nil && !errors.Is(err, unix.ESRCH) { // killed meanwhile
			return fmt.Errorf("put it into a cgroup: %w", err)
		}
	}
	if err := unix.PtraceDetach(pid); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("let it go: %w", err)
	}
	return nil
}
