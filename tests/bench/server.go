package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/labk/labk/pkg/lab"
)

// poll is how often something is asked that cannot be watched.
const poll = 10 * time.Millisecond

// startLimit bounds a start and all that is measured after it.
const startLimit = 15 * time.Minute

// server is a running labk, be it a server or an agent.
type server struct {
	host  *lab.Host
	meter *meter
	cmd   *lab.Cmd
	log   string // the file with what it said
	began time.Time
	usage reading // when it began
}

// start starts labk in the host. Time runs from the moment before its process is made.
func start(ctx context.Context, h *lab.Host, m *meter, log string, argv ...string) (*server, error) {
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	s := &server{host: h, meter: m, log: log, cmd: h.Command(ctx, argv...)}
	s.cmd.Stdout, s.cmd.Stderr = out, out
	if s.usage, err = m.read(); err != nil {
		return nil, err
	}
	s.began = time.Now()
	return s, s.cmd.Start()
}

// passed is a sample of the time since the start.
func (s *server) passed(at time.Time) (sample, error) {
	now, err := s.meter.read()
	return now.since(s.usage, at.Sub(s.began).Seconds()), err
}

// stop ends labk as systemd does and returns how long it took.
func (s *server) stop() (sample, error) {
	before, err := s.meter.read()
	if err != nil {
		return sample{}, err
	}
	began := time.Now()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return sample{}, err
	}
	ended := s.cmd.Wait()
	took := time.Since(began)
	if ended != nil { // a bad end has a duration too
		fmt.Fprintln(os.Stderr, "bench:", s.explain(fmt.Errorf("labk stopped with %w", ended)))
	}
	after, err := s.meter.read()
	return after.since(before, took.Seconds()), err
}

// explain adds the last lines that labk said to an error.
func (s *server) explain(err error) error {
	text, readErr := os.ReadFile(s.log)
	if readErr != nil || err == nil {
		return err
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return fmt.Errorf("%w; labk's last words:\n%s", err, bytes.Join(lines[max(0, len(lines)-15):], []byte("\n")))
}

// waitReadyz waits until /readyz says ok and returns when.
func (s *server) waitReadyz(ctx context.Context) (time.Time, error) {
	client := &http.Client{
		Transport: &http.Transport{
			DialContext: s.host.Net().DialContext,
			// whether it answers is all that is asked
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		},
		Timeout: 5 * time.Second,
	}
	defer client.CloseIdleConnections()
	if err := s.waitPort(ctx); err != nil {
		return time.Time{}, err
	}
	for {
		if readyz(client) {
			return time.Now(), nil
		}
		if err := pause(ctx, poll); err != nil {
			return time.Time{}, fmt.Errorf("wait for /readyz: %w", err)
		}
	}
}

// waitPort waits until the API's port is listened on: before that, asking is cheap only when nothing is prepared for the answer.
func (s *server) waitPort(ctx context.Context) error {
	return s.host.Net().Do(func() error { // on one thread, which stays in the host
		for {
			conn, err := net.Dial("tcp", "127.0.0.1:6443")
			if err == nil {
				return conn.Close()
			}
			if err := pause(ctx, poll); err != nil {
				return fmt.Errorf("wait for port 6443: %w", err)
			}
		}
	})
}

func readyz(client *http.Client) bool {
	r, err := client.Get("https://127.0.0.1:6443/readyz")
	if err != nil {
		return false
	}
	defer r.Body.Close()
	var body bytes.Buffer
	_, err = body.ReadFrom(r.Body) // to its end, so that the connection is used again
	return err == nil && r.StatusCode == http.StatusOK
}

// client returns a client with the administrator's kubeconfig, as soon as it is of use.
func (s *server) client(ctx context.Context) (kubernetes.Interface, error) {
	cfg, err := s.config(ctx)
	if err != nil {
		return nil, err
	}
	return kubernetes.NewForConfig(cfg)
}

// config is the administrator's, as soon as it is of use.
func (s *server) config(ctx context.Context) (*rest.Config, error) {
	root, err := s.host.Path("/")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(root, "etc/labk/kubeconfig.yaml")
	if err := s.waitPort(ctx); err != nil { // the file is written before
		return nil, err
	}
	cfg, err := clientcmd.BuildConfigFromFlags("", file)
	if err != nil {
		return nil, err
	}
	cfg.Dial = s.host.Net().DialContext
	cfg.ContentType, cfg.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	cfg.QPS = -1 // no limit
	return cfg, nil
}

// settle waits until labk has done what a start brings with it: less than 10 % of a core over two seconds, or 20 s have passed.
func (s *server) settle(ctx context.Context) error {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		before, err := s.meter.read()
		if err != nil {
			return err
		}
		if err := pause(ctx, 2*time.Second); err != nil {
			return err
		}
		after, err := s.meter.read()
		if err != nil {
			return err
		}
		if after.host-before.host < 0.2 {
			return nil
		}
	}
	return nil
}

var errGone = errors.New("labk has ended by itself")

// guard returns a context that ends when labk does, with that as its cause.
func (s *server) guard(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	ctx, stop := context.WithTimeout(ctx, startLimit)
	go func() {
		_ = s.cmd.Wait()
		cancel(errGone)
	}()
	return ctx, func() { stop(); cancel(nil) }
}
