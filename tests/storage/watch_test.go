package storage

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// writers let clients change keys, each its own, until all have done their share. It returns the highest revision.
func writers(t *testing.T, client *kubernetes.Client, count, changes int, value string) (highest int64) {
	t.Helper()
	s := newStore(t, client)
	revisions := make([]int64, count)
	var all sync.WaitGroup
	for w := range count {
		all.Go(func() {
			key, now := fmt.Sprintf("%sw%d", prefix, w), int64(0)
			for i := range changes {
				var err error
				if now, err = change(s.ctx, client, key, fmt.Sprintf("%d-%d%s", w, i, value), now, i%5 == 4); err != nil {
					t.Errorf("change %s: %v", key, err)
					return
				}
				revisions[w] = max(revisions[w], now)
			}
		})
	}
	all.Wait()
	for _, revision := range revisions {
		highest = max(highest, revision)
	}
	return max(highest, s.revision())
}

// change creates, updates or deletes a key that nobody else writes, and returns its revision; 0 after a delete.
func change(ctx context.Context, client *kubernetes.Client, key, value string, now int64, remove bool) (int64, error) {
	if remove && now != 0 {
		got, err := client.OptimisticDelete(ctx, key, now, kubernetes.DeleteOptions{GetOnFailure: true})
		if err == nil && !got.Succeeded {
			err = fmt.Errorf("refused: it is %v", got.KV)
		}
		return 0, err
	}
	got, err := client.OptimisticPut(ctx, key, []byte(value), now, kubernetes.PutOptions{GetOnFailure: true})
	if err == nil && !got.Succeeded {
		err = fmt.Errorf("refused over %d: it is %v", now, got.KV)
	}
	return got.Revision, err
}

// TestWatchers lets many watchers follow many writers. Each resumes now and then, all ask for progress all the time, as the API server does when it wants to answer a list from
// memory: none may lose an event, see one twice or out of order, or be told of a revision before the events up to it.
func TestWatchers(t *testing.T) {
	each(t, backends(t), func(t *testing.T, b backend) {
		p := b.place(t)
		client := p.run(t)
		start := newStore(t, client).revision()
		var followers []*follower
		for range 10 {
			own := connect(t, p.endpoint())
			f := followBy(t, own, start+1, streams(b))
			f.askProgress(t, own)
			followers = append(followers, f)
		}
		highest := writers(t, client, 8, 60, "")
		var first []event
		for i, f := range followers {
			log := f.until(t, highest)
			if i == 0 {
				first = log
			} else if fmt.Sprint(log) != fmt.Sprint(first) {
				t.Errorf("two watchers saw different events: %d and %d of them", len(first), len(log))
			}
		}
		if len(first) != 8*60 {
			t.Errorf("%d events of %d changes", len(first), 8*60)
		}
	})
}

// streams says which streams the watches of a follower use, one after the other.
//
// etcd's server has two queues for a stream: progress asked for while the stream had no watch may be sent after the next watch's beginning, and the client takes it for that of
// the new watch. So a watch of etcd has a stream of its own. labk's own datastore and kine must do without.
func streams(b backend) func(context.Context) context.Context {
	if b.name != etcdName {
		return nil
	}
	var count atomic.Int64
	return func(ctx context.Context) context.Context {
		return metadata.AppendToOutgoingContext(ctx, "watch", fmt.Sprint(count.Add(1)))
	}
}

// TestProgress changes what a watcher does not watch: only progress can tell it of that revision, and must.
func TestProgress(t *testing.T) {
	each(t, backends(t), func(t *testing.T, b backend) {
		client := b.run(t)
		s := newStore(t, client)
		f := follow(t, client, 1)
		f.askProgress(t, client)
		for i := range 5 {
			f.until(t, s.put(fmt.Sprintf("/elsewhere/%d", i), "", 0))
			f.until(t, s.put(fmt.Sprintf("%s%d", prefix, i), "x", 0))
		}
	})
}

// TestSlowReader has a watch whose client does not read while far more is written than the connection holds. It must not hold up others, and gets everything when it reads.
func TestSlowReader(t *testing.T) {
	each(t, backends(t), func(t *testing.T, b backend) {
		p := b.place(t)
		client := p.run(t)
		start := newStore(t, client).revision()
		reader := connect(t, p.endpoint())
		stream := watchRaw(t, reader, start+1)
		quick := follow(t, client, start+1)
		const count, changes = 4, 100
		highest := writers(t, client, count, changes, string(make([]byte, 16<<10)))
		quick.until(t, highest)
		slow := &follower{last: start, state: map[string]version{}}
		for len(slow.all) < count*changes {
			got, err := stream.Recv()
			if err == nil && got.Canceled && b.database != nil {
				stream = watchRaw(t, reader, slow.last+1) // kine ends a watch that is far behind; the API server begins anew, too
				continue
			}
			if err != nil || got.Canceled {
				t.Fatalf("the slow watch ended after %d events: %v, %v", len(slow.all), got, err)
			}
			for _, e := range got.Events {
				slow.one((*clientv3.Event)(e))
			}
		}
		for _, wrong := range slow.wrong {
			t.Errorf("slow watch: %.200s", wrong)
		}
	})
}

// watchRaw begins a watch on a stream that is read only when the test reads it, and waits until the watch is there.
func watchRaw(t *testing.T, client *kubernetes.Client, from int64) pb.Watch_WatchClient {
	t.Helper()
	create := &pb.WatchCreateRequest{Key: []byte(prefix), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(prefix)), StartRevision: from, PrevKv: true}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	stream, err := pb.NewWatchClient(client.ActiveConnection()).Watch(ctx, grpc.MaxCallRecvMsgSize(math.MaxInt32))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		t.Fatal(err)
	}
	got, err := stream.Recv()
	if err != nil || !got.Created {
		t.Fatalf("begin a watch: %v, %v", got, err)
	}
	return stream
}

// TestWatchCompacted begins watches before, at and after a compaction.
func TestWatchCompacted(t *testing.T) {
	each(t, backends(t), func(t *testing.T, b backend) {
		p := b.place(t)
		p.Compacts = true
		client := p.run(t)
		s := newStore(t, client)
		revisions := []int64{s.put(prefix+"a", "0", 0)}
		for i := 1; i < 10; i++ {
			revisions = append(revisions, s.put(prefix+"a", fmt.Sprint(i), revisions[i-1]))
		}
		compacted := revisions[5]
		if _, err := s.Compact(s.ctx, compacted); err != nil {
			t.Fatal(err)
		}
		for i, from := range revisions {
			ctx, cancel := context.WithTimeout(s.ctx, 30*time.Second)
			var events int
			var ended error
			for got := range client.Watch(ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(from)) {
				if ended = got.Err(); ended != nil && got.CompactRevision != compacted {
					t.Errorf("from %d: ended with %v, compacted at %d, not %d", from, ended, got.CompactRevision, compacted)
				}
				if events += len(got.Events); ended != nil || events == len(revisions)-i {
					break
				}
			}
			cancel()
			// etcd begins at the compaction's own revision, whose event it has when the key lives; kine does not. Kubernetes asks for neither.
			gone, told := errors.Is(ended, rpctypes.ErrCompacted), events == len(revisions)-i
			if from < compacted && !gone || from > compacted && !told || !gone && !told {
				t.Errorf("from %d with a compaction at %d: %d events, %v", from, compacted, events, ended)
			}
		}
	})
}
