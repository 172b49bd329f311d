package upgrade

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"runtime"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Source is where a new program comes from. It stages the program (Stage) and returns where it is; sum is the SHA-256 that the source promises, empty if it promises none.
type Source func(ctx context.Context, program string) (staged, sum string, err error)

// FromFile is a file of this PC.
func FromFile(path string) Source {
	return func(_ context.Context, program string) (string, string, error) {
		staged, err := Stage(path, program)
		return staged, "", err
	}
}

const (
	// fetchLimit bounds the whole download: 200 MB through a network in which a classroom downloads.
	fetchLimit = 15 * time.Minute
	// fetchTries is how often a server that is busy, or just restarting, is asked.
	fetchTries = 30
	// betweenTries is the time between.
	betweenTries = 2 * time.Second
)

// FromServer is the program that the server runs, which it hands out to everybody. The kubeconfig is a node's: it has the server's address and its CA.
func FromServer(kubeconfig string) Source {
	return func(ctx context.Context, program string) (staged, sum string, err error) {
		ctx, cancel := context.WithTimeout(ctx, fetchLimit)
		defer cancel()
		cfg, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
		if err != nil {
			return "", "", fmt.Errorf("find the server: %w: has this PC joined a cluster?", err)
		}
		anonymous := rest.AnonymousClientConfig(cfg)
		anonymous.NextProtos = []string{"http/1.1"} // quicker for one large file
		client, err := rest.HTTPClientFor(anonymous)
		if err != nil {
			return "", "", fmt.Errorf("find the server: %w", err)
		}
		client.Timeout = 0
		file, err := url.JoinPath(cfg.Host, "labk/bin/linux-"+runtime.GOARCH)
		if err != nil {
			return "", "", fmt.Errorf("find the server: %w", err)
		}
		err = get(ctx, client, file+".sha256", func(body io.Reader) error {
			line, err := io.ReadAll(io.LimitReader(body, 1<<10))
			sum, _, _ = strings.Cut(strings.TrimSpace(string(line)), " ")
			return err
		})
		if err != nil {
			return "", "", fmt.Errorf("fetch the server's program: %w", err)
		}
		err = get(ctx, client, file, func(body io.Reader) (err error) {
			staged, err = StageFrom(body, program)
			return err
		})
		if err != nil {
			return "", "", fmt.Errorf("fetch the server's program: %w", err)
		}
		return staged, sum, nil
	}
}

// get reads a page of the server, and asks again while it is busy.
func get(ctx context.Context, client *http.Client, page string, read func(io.Reader) error) error {
	var last error
	err := wait.ExponentialBackoffWithContext(ctx, wait.Backoff{Duration: betweenTries, Factor: 1, Steps: fetchTries}, func(ctx context.Context) (bool, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
		if err != nil {
			return false, err
		}
		response, err := client.Do(request)
		if errors.As(err, new(*tls.CertificateVerificationError)) {
			return false, err
		}
		if err != nil {
			last = err
			return false, nil
		}
		defer response.Body.Close()
		switch response.StatusCode {
		case http.StatusOK:
			return true, read(response.Body)
		case http.StatusServiceUnavailable, http.StatusTooManyRequests:
			last = errors.New(response.Status)
			return false, nil
		}
		return false, fmt.Errorf("%s: %s", page, response.Status)
	})
	if wait.Interrupted(err) && last != nil {
		return last
	}
	return err
}
