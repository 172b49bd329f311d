package dump

import (
	"context"
	"errors"
	"fmt"
	"io"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Info is what a stream contains.
type Info struct {
	Revision int64
	Objects  int64
}

// TTL tells in how many seconds what has the lease ends.
type TTL func(ctx context.Context, lease int64) (seconds int64, err error)

// KineTTL is for kine's etcd face: its leases are numbers of seconds.
func KineTTL(_ context.Context, lease int64) (int64, error) { return lease, nil }

// EtcdTTL is for etcd itself, which is asked once for each lease. What has ended but is still there gets one second.
func EtcdTTL(client *clientv3.Client) TTL {
	known := map[int64]int64{}
	return func(ctx context.Context, lease int64) (int64, error) {
		if seconds, ok := known[lease]; ok {
			return seconds, nil
		}
		answer, err := client.TimeToLive(ctx, clientv3.LeaseID(lease))
		if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return 0, err
		}
		seconds := int64(1)
		if err == nil && answer.TTL > 0 {
			seconds = answer.TTL
		}
		known[lease] = seconds
		return seconds, nil
	}
}

// The range of Kubernetes' keys: all begin with a slash. compact_rev_key, in which an API server and kine note how far they have compacted, is outside: a restored datastore begins anew there.
// kine understands only a plain range: its SQL can't compare with a zero byte.
const (
	first = "/"
	end   = "0" // what comes after all that begins with a slash
)

// A page is as many objects as bring about pageBytes, so that neither side holds much at a time.
const (
	firstPage = 100
	maxPage   = 1000
	pageBytes = 4 << 20
)

// tries is how often a dump is begun when its revision was compacted away in the middle.
const tries = 3

// ErrCompacted tells that the revision was compacted away before all of it was read; what was written is worth nothing. Begin anew.
var ErrCompacted = errors.New("the datastore was compacted in the meantime: try again")

// rewinder is a file.
type rewinder interface {
	io.WriteSeeker
	Truncate(size int64) error
}

// From writes the newest revision of a datastore, read by pages through etcd's protocol while others write. A revision that is compacted away in the middle is ErrCompacted; a file is begun anew first.
func From(ctx context.Context, client *clientv3.Client, ttl TTL, w io.Writer) (Info, error) {
	file, again := w.(rewinder)
	for try := 1; ; try++ {
		info, err := from(ctx, client, ttl, w)
		if err == nil {
			return info, nil
		}
		if again && errors.Is(err, ErrCompacted) && try < tries {
			if _, err = file.Seek(0, io.SeekStart); err == nil {
				err = file.Truncate(0)
			}
			if err == nil {
				continue
			}
		}
		return Info{}, fmt.Errorf("dump the datastore: %w", err)
	}
}

func from(ctx context.Context, client *clientv3.Client, ttl TTL, w io.Writer) (Info, error) {
	// A key that is never there answers with the newest revision. Every page is read at that: what kine calls the revision of a page without one can be older than what the page shows.
	newest, err := client.Get(ctx, first)
	if err != nil {
		return Info{}, err
	}
	info := Info{Revision: newest.Header.Revision}
	out := NewWriter(w, info.Revision)
	next, limit := first, int64(firstPage)
	for {
		page, err := client.Get(ctx, next, clientv3.WithRange(end), clientv3.WithLimit(limit), clientv3.WithRev(info.Revision))
		if errors.Is(err, rpctypes.ErrCompacted) {
			return Info{}, ErrCompacted
		}
		if err != nil {
			return Info{}, err
		}
		size, err := write(ctx, out, page, ttl)
		if err != nil {
			return Info{}, err
		}
		n := int64(len(page.Kvs))
		info.Objects += n
		if !page.More || n == 0 {
			return info, out.Close()
		}
		next = string(page.Kvs[n-1].Key) + "\x00"
		limit = min(max(1, pageBytes*n/max(1, size)), maxPage)
	}
}

// write writes a page and says how many bytes it has.
func write(ctx context.Context, out *Writer, page *clientv3.GetResponse, ttl TTL) (size int64, err error) {
	for _, kv := range page.Kvs {
		r := Record{Key: kv.Key, Value: kv.Value, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version}
		if kv.Lease != 0 {
			if r.TTL, err = ttl(ctx, kv.Lease); err != nil {
				return 0, fmt.Errorf("ask when %q ends: %w", kv.Key, err)
			}
		}
		if err := out.Write(r); err != nil {
			return 0, err
		}
		size += int64(len(kv.Key) + len(kv.Value))
	}
	return size, nil
}
