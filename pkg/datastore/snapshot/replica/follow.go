package replica

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/labk/labk/pkg/digest"
	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/paths"
)

const (
	// kept is how many copies a node keeps.
	kept = 2
	// suffix is that of the files, part of one that is not whole.
	suffix = ".snapshot"
	part   = ".part"
	// fetchLimit bounds one fetch, fetchTries and betweenTries how often a server is asked that does not answer well.
	fetchLimit   = 15 * time.Minute
	fetchTries   = 5
	betweenTries = 5 * time.Second
	// reserve is what a copy leaves free: pods need the disk more.
	reserve = 1 << 30
)

// FollowOptions of a follower.
type FollowOptions struct {
	// Folder is where the copies lie.
	Folder string
	// Kubeconfig is the node's.
	Kubeconfig, Node string
	// Say tells a person what happens: one line, as fmt.Sprintf.
	Say func(format string, args ...any)
}

// NewFollower returns the component of an agent that fetches what the server wants it to have, and keeps the newest two.
func NewFollower(o FollowOptions) lifecycle.Component {
	return lifecycle.NewTask("snapshot-copies", (&follower{FollowOptions: o}).run, nil)
}

type follower struct{ FollowOptions }

func (f *follower) run(ctx context.Context) error {
	cfg, err := clientcmd.BuildConfigFromFlags("", f.Kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		return err
	}
	own := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "nodes", "", fields.OneTermEqualSelector("metadata.name", f.Node))
	// The last request is all that matters: one that comes during a fetch waits, and takes the place of another that waits.
	wanted := make(chan string, 1)
	see := func(o any) {
		n, ok := o.(*corev1.Node)
		if !ok || n.Annotations[Annotation] == "" {
			return
		}
		select {
		case <-wanted:
		default:
		}
		wanted <- n.Annotations[Annotation]
	}
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: own, ObjectType: &corev1.Node{}, Transform: slim,
		Handler: cache.ResourceEventHandlerFuncs{AddFunc: see, UpdateFunc: func(old, o any) {
			if a, ok := old.(*corev1.Node); ok && a.Annotations[Annotation] == o.(*corev1.Node).Annotations[Annotation] {
				return // the kubelet tells of itself every few minutes
			}
			see(o)
		}},
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		informer.RunWithContext(ctx)
	}()
	defer func() { <-done }()
	for {
		select {
		case text := <-wanted:
			if err := f.follow(ctx, client, cfg, text); err != nil && ctx.Err() == nil {
				f.Say("the server wants this PC to keep a snapshot of it: %v", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// slim keeps of a Node what the follower needs.
func slim(o any) (any, error) {
	if n, ok := o.(*corev1.Node); ok {
		small := &corev1.Node{}
		small.Name, small.ResourceVersion, small.Annotations = n.Name, n.ResourceVersion, n.Annotations
		return small, nil
	}
	return o, nil
}

// follow gets what a request names, unless it is there, and says so on the Node.
func (f *follower) follow(ctx context.Context, client kubernetes.Interface, cfg *rest.Config, text string) error {
	r, err := Parse(text)
	if err != nil {
		return err
	}
	failure := f.ensure(ctx, cfg, r)
	if ctx.Err() != nil {
		return nil
	}
	s := State{SHA256: r.SHA256}
	if failure != nil {
		s.Problem = failure.Error()
	}
	for try := 1; ; try++ {
		limited, cancel := context.WithTimeout(ctx, 10*time.Second)
		err = annotate(limited, client, f.Node, StateAnnotation, s.String())
		cancel()
		if err == nil || try == fetchTries || !sleep(ctx, betweenTries) {
			return errors.Join(failure, err)
		}
	}
}

// ensure makes sure that the file is there and whole.
func (f *follower) ensure(ctx context.Context, cfg *rest.Config, r Request) error {
	file := filepath.Join(f.Folder, r.Name+suffix)
	if sum, err := digest.OfFile(file); err == nil && sum == r.SHA256 {
		return nil
	}
	if err := os.MkdirAll(f.Folder, 0o700); err != nil {
		return err
	}
	if err := f.prune(kept - 1); err != nil {
		return err
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(f.Folder, &fs); err != nil {
		return err
	}
	if free := fs.Bavail * uint64(fs.Bsize); free < uint64(r.Bytes)+reserve {
		return fmt.Errorf("%d MiB are free on its disk, and %d MiB are needed", free>>20, (uint64(r.Bytes)+reserve)>>20)
	}
	client, err := rest.HTTPClientFor(cfg)
	if err != nil {
		return err
	}
	for try := 1; ; try++ {
		err = f.fetch(ctx, client, cfg.Host, r, file)
		if err == nil || try == fetchTries || !sleep(ctx, betweenTries) {
			return err
		}
	}
}

func (f *follower) fetch(ctx context.Context, client *http.Client, server string, r Request, file string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, fetchLimit)
	defer cancel()
	address, err := url.JoinPath(server, Prefix, r.Name)
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10))
		return fmt.Errorf("the server says %s: %s", response.Status, strings.TrimSpace(string(text)))
	}
	out, err := os.OpenFile(file+part, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(file+part))
		}
	}()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, sum), io.LimitReader(response.Body, r.Bytes+1))
	if err := errors.Join(err, out.Sync(), out.Close()); err != nil {
		return err
	}
	if n != r.Bytes || hex.EncodeToString(sum.Sum(nil)) != r.SHA256 {
		return errors.New("what came is not what the server promised")
	}
	return paths.Rename(file+part, file)
}

// prune removes all copies but the newest n, and what was not finished.
func (f *follower) prune(n int) error {
	files, err := filepath.Glob(filepath.Join(f.Folder, "*"+suffix))
	if err != nil {
		return err
	}
	age := map[string]time.Time{}
	for _, file := range files {
		if info, err := os.Stat(file); err == nil {
			age[file] = info.ModTime()
		}
	}
	slices.SortFunc(files, func(a, b string) int { return age[b].Compare(age[a]) })
	parts, err := filepath.Glob(filepath.Join(f.Folder, "*"+suffix+part))
	for _, file := range append(files[min(n, len(files)):], parts...) {
		err = errors.Join(err, os.Remove(file))
	}
	return err
}

// sleep waits, and tells whether the context has not ended before.
func sleep(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}
