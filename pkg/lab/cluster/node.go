package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/lab"
	"github.com/labk/labk/pkg/paths"
)

// Files in the hosts.
const (
	// LogFile is what labk writes, all starts one after another.
	LogFile = "/var/log/labk.log"
	// TokenFile is where an agent's host keeps the token that the agent joins with.
	TokenFile = "/etc/labk/token"
	// pidFile is gone after a power cut.
	pidFile = "/run/labk-lab/labk.pid"
)

const (
	pollEvery = 100 * time.Millisecond
	tailLines = 20
)

// Role of a node.
type Role string

// The roles.
const (
	Server Role = "server"
	Agent  Role = "agent"
)

// Node is labk in a host.
type Node struct {
	Host    *lab.Host
	cluster *Cluster
}

// Role is Server in the first host, and Agent in the others.
func (n *Node) Role() Role {
	if n.Host.Index() == 1 {
		return Server
	}
	return Agent
}

// Start boots the host if it is off, and starts labk in it if it is not running.
func (n *Node) Start(ctx context.Context) error {
	if err := n.Host.Boot(ctx); err != nil {
		return err
	}
	if _, running := n.Pid(); running {
		return nil
	}
	for n.dying() { // it still holds the lock of its data folder
		if err := pause(ctx); err != nil {
			return fmt.Errorf("wait for the end of labk in host %s: %w", n.Host.Name(), err)
		}
	}
	return n.start(ctx)
}

// dying tells whether labk has been killed and some of its threads are still there: its command line is gone by then.
func (n *Node) dying() bool {
	pid, running := n.Pid()
	if pid == 0 || running {
		return false
	}
	threads, err := n.Host.Path(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return false
	}
	entries, err := os.ReadDir(threads)
	line, lineErr := os.ReadFile(filepath.Join(filepath.Dir(threads), "cmdline"))
	return err == nil && lineErr == nil && len(line) == 0 && len(entries) > 1
}

// start starts labk detached in the booted host.
func (n *Node) start(ctx context.Context) error {
	argv := []string{filepath.Join(lab.OptDir, n.cluster.program), string(n.Role())}
	if n.Role() == Agent {
		if err := giveToken(ctx, n.cluster.lab.Host(1), n.Host); err != nil {
			return err
		}
		argv = append(argv, agentArgs(n.cluster.lab.Host(1))...)
	}
	// The shell ends at once, and the host's init adopts labk.
	script := `log=$1 pid=$2; shift 2; "$@" </dev/null >>"$log" 2>&1 & echo $! >"$pid"`
	cmd := n.Host.Command(ctx, append([]string{"sh", "-c", script, "sh", LogFile, pidFile}, argv...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // what is typed at the caller's terminal is not for labk
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("start labk in host %s: %w: %s", n.Host.Name(), err, out)
	}
	return nil
}

// agentArgs are the arguments of `labk agent` by which a host that has the TokenFile joins.
func agentArgs(server *lab.Host) []string {
	url := fmt.Sprintf("https://%s:%d", server.Name(), config.Default().HTTPSListenPort)
	return []string{"--server", url, "--token-file", TokenFile}
}

// giveToken copies the join token of the server in one host to another, as soon as there is one. The other keeps what it has when
// the server's host is off: an agent needs no token to come back.
func giveToken(ctx context.Context, server, agent *lab.Host) error {
	to, err := agent.Path(TokenFile)
	if err != nil {
		return err
	}
	for {
		token, err := readToken(server)
		if err == nil {
			return paths.WriteFile(to, token, 0o600)
		}
		if exists(to) {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("token for host %s: %w", agent.Name(), err)
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("token for host %s: the server in host %s has made none: %w", agent.Name(), server.Name(), err)
		}
	}
}

func readToken(server *lab.Host) ([]byte, error) {
	from, err := server.Path(paths.Data(config.Default().DataDir).Token())
	if err != nil {
		return nil, err
	}
	return os.ReadFile(from)
}

// Pid is labk's process as its host counts, and whether it is running; 0 when it was not started since the host's boot.
func (n *Node) Pid() (pid int, running bool) {
	file, err := n.Host.Path(pidFile)
	if err != nil {
		return 0, false
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		return 0, false
	}
	line, err := n.Host.Path(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return pid, false
	}
	// The number may be another process's by now; a zombie has no command line. The shell that is about to become labk has its words too.
	data, err = os.ReadFile(line)
	return pid, err == nil && strings.Contains(string(data), filepath.Join(lab.OptDir, n.cluster.program)+"\x00"+string(n.Role())+"\x00")
}

// Tail is the last lines of labk's log.
func (n *Node) Tail(lines int) string {
	file, err := n.Host.Path(LogFile)
	if err != nil {
		return err.Error()
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// pause waits one polling interval, or returns why ctx ended.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(pollEvery):
		return nil
	}
}
