// Package databases starts real PostgreSQL and MariaDB servers for tests: Debian's programs, a new empty server in a folder of the
// test's own, on a unix socket there (and on a TCP address only if asked), as a user without rights. Nothing of the machine's own
// servers, settings or data is read or touched.
//
// A missing program fails the test (scripts/deps.sh --test installs it): a skipped test would pass for a tested one.
package databases

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// startTimeout bounds how long a server may take until it answers.
const startTimeout = 60 * time.Second

// Options of a server; the zero value is one that listens on its socket only.
type Options struct {
	// Address and Port make the server listen on TCP, too.
	Address string
	Port    int
	// CAFile, CertFile and KeyFile are for TLS on TCP; all or none. They are copied into the server's folder.
	CAFile, CertFile, KeyFile string
	// Wrap, if set, changes the command that runs the server, to let it run in a lab host for one. It must keep its SysProcAttr's credential.
	Wrap func(*exec.Cmd) *exec.Cmd
}

// Server is a database server of the test's own. Its methods are for one goroutine, those of a test.
type Server struct {
	t       testing.TB
	engine  engine
	options Options
	dir     string
	owner   *syscall.Credential
	process *exec.Cmd
	ended   chan struct{}
}

// engine is what differs between the two.
type engine interface {
	// prepare makes an empty server in the folder.
	prepare(s *Server) error
	// serve is the command that runs it in the foreground.
	serve(s *Server) (*exec.Cmd, error)
	// socket is the path of its unix socket.
	socket(s *Server) string
	endpoint(s *Server, database string) string
	// dsn is the driver of database/sql and what opens the database with it.
	dsn(s *Server, database string) (driver, name string)
}

// PostgreSQL starts a PostgreSQL server, which ends with the test. Its user is postgres, without a password.
func PostgreSQL(t testing.TB, options Options) *Server {
	t.Helper()
	return start(t, postgres{}, options)
}

// MariaDB starts a MariaDB server, which ends with the test. Its user is root, without a password.
func MariaDB(t testing.TB, options Options) *Server {
	t.Helper()
	return start(t, mariadb{}, options)
}

func start(t testing.TB, e engine, options Options) *Server {
	t.Helper()
	s := &Server{t: t, engine: e, options: options}
	if err := s.makeFolder(); err != nil {
		t.Fatalf("make a folder for the database server: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(s.dir) })
	if err := s.engine.prepare(s); err != nil {
		t.Fatalf("prepare a database server: %v", err)
	}
	s.Start()
	t.Cleanup(s.Kill)
	return s
}

// makeFolder makes the server's folder. Its path is short, since that of a unix socket has 107 bytes at most.
func (s *Server) makeFolder() error {
	dir, err := os.MkdirTemp("/tmp", "labk-db-")
	if err != nil {
		return err
	}
	s.dir = dir
	if os.Geteuid() != 0 {
		return nil
	}
	// Both refuse to run as root. "nobody" is everywhere, while postgres and mysql come with packages that also start a server.
	nobody, err := user.Lookup("nobody")
	if err != nil {
		return err
	}
	uid, err := strconv.ParseUint(nobody.Uid, 10, 32)
	if err != nil {
		return err
	}
	gid, err := strconv.ParseUint(nobody.Gid, 10, 32)
	if err != nil {
		return err
	}
	s.owner = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return os.Chown(dir, int(uid), int(gid))
}

// Endpoint is the address of a database in the server as labk's --datastore-endpoint takes it, over the socket. kine makes the database when it
// is not there.
func (s *Server) Endpoint(database string) string { return s.engine.endpoint(s, database) }

// Socket is the path of the server's unix socket, which is good in any network namespace that sees the folder.
func (s *Server) Socket() string { return s.engine.socket(s) }

// Start runs the server (again, after Kill) and waits until it takes connections.
func (s *Server) Start() {
	s.t.Helper()
	cmd, err := s.engine.serve(s)
	if err != nil {
		s.t.Fatal(err)
	}
	log, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if s.options.Wrap != nil {
		cmd = s.options.Wrap(cmd)
	}
	if err := cmd.Start(); err != nil {
		s.t.Fatalf("start the database server: %v", err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	s.process, s.ended = cmd, ended
	if err := s.wait(); err != nil {
		out, _ := os.ReadFile(s.logPath())
		s.t.Fatalf("wait for the database server: %v; it said:\n%s", err, out)
	}
}

// wait returns when the server answers on its socket, which is after it has recovered.
func (s *Server) wait() error {
	db, err := s.Open("")
	if err != nil {
		return err
	}
	defer db.Close()
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for {
		if err = db.PingContext(ctx); err == nil {
			return nil
		}
		select {
		case <-s.ended:
			return errors.New("it ended")
		case <-ctx.Done():
			return fmt.Errorf("it does not answer after %v: %w", startTimeout, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Open gives a database in the server for SQL, over the socket; the empty name is one that is always there. The caller closes it.
func (s *Server) Open(database string) (*sql.DB, error) {
	driver, name := s.engine.dsn(s, database)
	db, err := sql.Open(driver, name)
	if err != nil {
		return nil, fmt.Errorf("open the database %q: %w", database, err)
	}
	return db, nil
}

// Kill ends the server with SIGKILL, as a crash does, and waits for its end. Start brings it back with what it had.
func (s *Server) Kill() {
	if s.process == nil {
		return
	}
	// The group: PostgreSQL has a process per connection, which outlive their parent by a moment and hold its shared memory.
	_ = syscall.Kill(-s.process.Process.Pid, syscall.SIGKILL)
	<-s.ended
	s.process = nil
}

func (s *Server) logPath() string { return filepath.Join(s.dir, "log") }

// command is one that runs as the server's user, in a process group of its own that dies with the test.
func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = s.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "LC_ALL=C.UTF-8", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.owner, Setpgid: true, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// run runs one to its end.
func (s *Server) run(name string, args ...string) error {
	cmd := s.command(name, args...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", filepath.Base(name), err, strings.TrimSpace(string(out)))
	}
	return nil
}

// copyFile puts a file into the server's folder, readable by its user alone, and returns the new path.
func (s *Server) copyFile(from, name string) (string, error) {
	data, err := os.ReadFile(from)
	if err != nil {
		return "", err
	}
	to := filepath.Join(s.dir, name)
	if err := os.WriteFile(to, data, 0o600); err != nil {
		return "", err
	}
	if s.owner != nil {
		return to, os.Chown(to, int(s.owner.Uid), int(s.owner.Gid))
	}
	return to, nil
}

// copyTLS copies the files for TLS and returns their paths, in the order CA, certificate, key.
func (s *Server) copyTLS() (paths [3]string, err error) {
	for i, from := range []string{s.options.CAFile, s.options.CertFile, s.options.KeyFile} {
		if paths[i], err = s.copyFile(from, []string{"ca.crt", "server.crt", "server.key"}[i]); err != nil {
			return paths, fmt.Errorf("copy what TLS needs: %w", err)
		}
	}
	return paths, nil
}

// program finds one of Debian's, whose folders are not all in PATH.
func program(name string, folders ...string) (string, error) {
	for _, pattern := range folders {
		found, err := filepath.Glob(filepath.Join(pattern, name))
		if err == nil && len(found) > 0 {
			return found[len(found)-1], nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is not installed: run scripts/deps.sh --test", name)
	}
	return path, nil
}
