package storage

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"os"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// canary is a key that no request of the fuzzing may touch, and its value.
const canary, alive = "~canary", "alive"

// FuzzBytes sends requests made of any bytes: the first says which kind, the others are the message.
func FuzzBytes(f *testing.F) {
	target := newTarget(f)
	for kind, message := range seedRequests() {
		data, err := proto.Marshal(message)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(byte(kind), data)
	}
	f.Fuzz(func(t *testing.T, kind byte, data []byte) {
		message := requestOf(kind)
		if proto.Unmarshal(data, message) != nil {
			t.Skip("no message, which gRPC itself refuses")
		}
		target.send(t, message)
	})
}

// FuzzShapes sends requests put together from the parts that those of Kubernetes are made of, in any combination.
func FuzzShapes(f *testing.F) {
	target := newTarget(f)
	for i := range 64 {
		f.Add([]byte{byte(i), byte(i * 7), byte(i * 13), 1, byte(i * 3), 2, 0, byte(i * 31), 5, byte(i), 9, 4, 1, 0, 3, byte(i * 11)})
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d := &dice{data}
		for range 4 {
			target.send(t, d.request())
		}
	})
}

// requestOf is an empty request of a kind.
func requestOf(kind byte) proto.Message {
	all := []proto.Message{
		&pb.RangeRequest{}, &pb.PutRequest{}, &pb.TxnRequest{}, &pb.DeleteRangeRequest{}, &pb.CompactionRequest{},
		&pb.WatchCreateRequest{}, &pb.LeaseGrantRequest{}, &pb.LeaseRevokeRequest{},
	}
	return all[int(kind)%len(all)]
}

// seedRequests has one of each kind, in requestOf's order, and then more.
func seedRequests() []proto.Message {
	key := []byte(prefix + "a")
	mod := func(revision int64) *pb.Compare {
		return &pb.Compare{Key: key, Target: pb.Compare_MOD, Result: pb.Compare_EQUAL, TargetUnion: &pb.Compare_ModRevision{ModRevision: revision}}
	}
	put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: []byte("v")}}}
	get := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}
	remove := &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: key}}}
	return []proto.Message{
		&pb.RangeRequest{Key: []byte(prefix), RangeEnd: []byte(clientv3.GetPrefixRangeEnd(prefix)), Limit: 10},
		&pb.PutRequest{Key: key, Value: []byte("v"), PrevKv: true},
		&pb.TxnRequest{Compare: []*pb.Compare{mod(0)}, Success: []*pb.RequestOp{put}, Failure: []*pb.RequestOp{get}},
		&pb.DeleteRangeRequest{Key: key},
		&pb.CompactionRequest{Revision: 3},
		&pb.WatchCreateRequest{Key: key, StartRevision: 2, PrevKv: true, ProgressNotify: true},
		&pb.LeaseGrantRequest{TTL: 10, ID: 5},
		&pb.LeaseRevokeRequest{ID: 5},
		&pb.RangeRequest{Key: key, Revision: math.MaxInt64},
		&pb.PutRequest{},
		&pb.TxnRequest{Compare: []*pb.Compare{mod(5)}, Success: []*pb.RequestOp{remove}, Failure: []*pb.RequestOp{get}},
		&pb.DeleteRangeRequest{},
		&pb.CompactionRequest{Revision: -1},
		&pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: -5, WatchId: 7},
		&pb.LeaseGrantRequest{TTL: math.MinInt64},
		&pb.LeaseRevokeRequest{},
	}
}

// target is a datastore under fuzzing.
type target struct {
	client *kubernetes.Client
	conn   grpc.ClientConnInterface
}

// newTarget runs labk's own datastore; LABK_TEST_STORAGE_BACKEND=etcd takes the other one that needs no server.
func newTarget(f *testing.F) *target {
	f.Helper()
	// kine ends the process when it finds itself in the wrong; a panic says where.
	logrus.StandardLogger().ExitFunc = func(int) { panic("kine has ended the process") }
	b := backend{name: sqliteName}
	if name := os.Getenv("LABK_TEST_STORAGE_BACKEND"); name != "" {
		b.name = name
	}
	client := b.run(f)
	newStore(f, client).put(canary, alive, 0)
	return &target{client, client.ActiveConnection()}
}

// dump is all that a datastore has.
type dump struct {
	revision int64
	all      []byte
	keys     int
}

func (g *target) dump(ctx context.Context, t *testing.T) dump {
	t.Helper()
	got, err := g.client.KV.Get(ctx, "\x00", clientv3.WithRange("\xff\xff\xff"))
	if err != nil {
		t.Fatalf("list all: %v", err)
	}
	d := dump{revision: got.Header.Revision, keys: len(got.Kvs)}
	for _, kv := range got.Kvs {
		if string(kv.Key) == canary && string(kv.Value) != alive {
			t.Fatalf("the canary has %q", kv.Value)
		}
		d.all = fmt.Appendf(d.all, "%q=%q %d %d\n", kv.Key, kv.Value, kv.CreateRevision, kv.ModRevision)
	}
	if !bytes.Contains(d.all, []byte(fmt.Sprintf("%q=%q", canary, alive))) {
		t.Fatal("the canary is gone")
	}
	return d
}

// send sends one request and looks at what it has done: an answer comes, a refused request changes nothing, and others are as they were.
func (g *target) send(t *testing.T, message proto.Message) {
	t.Helper()
	tame(message)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	before := g.dump(ctx, t)
	changed, err := g.ask(ctx, message)
	switch status.Code(err) {
	case codes.DeadlineExceeded, codes.Unavailable:
		t.Fatalf("no answer to %v: %v", message, err)
	case codes.Internal: // how labk answers when the face has panicked
		t.Fatalf("%T %v: %v", message, message, err)
	}
	after := g.dump(ctx, t)
	switch {
	case (err != nil || !changed) && (before.revision != after.revision || !bytes.Equal(before.all, after.all)):
		t.Fatalf("%T %v, answered with %v, changed\n%s(%d) to\n%s(%d)", message, message, err, before.all, before.revision, after.all, after.revision)
	case after.revision < before.revision || after.revision > before.revision+1:
		t.Fatalf("%T %v led from revision %d to %d", message, message, before.revision, after.revision)
	}
	if after.keys > 50 {
		g.clear(ctx, t)
	}
}

// ask sends it. changed tells whether it may have changed the data.
func (g *target) ask(ctx context.Context, message proto.Message) (changed bool, err error) {
	switch m := message.(type) {
	case *pb.RangeRequest:
		_, err = pb.NewKVClient(g.conn).Range(ctx, m, grpc.MaxCallRecvMsgSize(math.MaxInt32))
	case *pb.PutRequest:
		_, err = pb.NewKVClient(g.conn).Put(ctx, m)
		changed = true
	case *pb.TxnRequest:
		var got *pb.TxnResponse
		got, err = pb.NewKVClient(g.conn).Txn(ctx, m)
		changed = got.GetSucceeded() || len(m.Failure) > 0 && m.Failure[0].GetRequestRange() == nil
	case *pb.DeleteRangeRequest:
		_, err = pb.NewKVClient(g.conn).DeleteRange(ctx, m)
		changed = true
	case *pb.CompactionRequest:
		_, err = pb.NewKVClient(g.conn).Compact(ctx, m)
	case *pb.WatchCreateRequest:
		err = g.watch(ctx, m)
	case *pb.LeaseGrantRequest:
		_, err = pb.NewLeaseClient(g.conn).LeaseGrant(ctx, m)
	case *pb.LeaseRevokeRequest:
		_, err = pb.NewLeaseClient(g.conn).LeaseRevoke(ctx, m)
	}
	return changed, err
}

// watch begins a watch, asks for progress, and waits for the answer to the first.
func (g *target) watch(ctx context.Context, m *pb.WatchCreateRequest) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := pb.NewWatchClient(g.conn).Watch(ctx, grpc.MaxCallRecvMsgSize(math.MaxInt32))
	if err != nil {
		return err
	}
	for _, r := range []*pb.WatchRequest{
		{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: m}},
		{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}},
		{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: m.WatchId}}},
		{},
	} {
		if err := stream.Send(r); err != nil {
			return err
		}
	}
	got, err := stream.Recv()
	if err == nil && !got.Created && !got.Canceled {
		return fmt.Errorf("a watch begins with %v", got)
	}
	return err
}

// clear deletes all but the canary, so that looking at all stays quick.
func (g *target) clear(ctx context.Context, t *testing.T) {
	t.Helper()
	got, err := g.client.KV.Get(ctx, "\x00", clientv3.WithRange("\xff\xff\xff"), clientv3.WithKeysOnly())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range got.Kvs {
		if string(kv.Key) == canary {
			continue
		}
		if _, err := g.client.OptimisticDelete(ctx, string(kv.Key), kv.ModRevision, kubernetes.DeleteOptions{GetOnFailure: true}); err != nil {
			t.Fatalf("delete %q: %v", kv.Key, err)
		}
	}
}

// tame takes out of a request what would make the test itself wrong: a change of the canary, and a lease that ends while another request is looked at.
func tame(message proto.Message) {
	switch m := message.(type) {
	case *pb.PutRequest:
		tamePut(m)
	case *pb.TxnRequest:
		for _, op := range append(m.Success, m.Failure...) {
			if put := op.GetRequestPut(); put != nil {
				tamePut(put)
			}
			if remove := op.GetRequestDeleteRange(); remove != nil && string(remove.Key) == canary {
				remove.Key = nil
			}
		}
	}
}

func tamePut(m *pb.PutRequest) {
	if string(m.Key) == canary {
		m.Key = nil
	}
	if m.Lease > 0 && m.Lease < 1e5 {
		m.Lease += 1e5
	}
}

// dice makes choices of bytes; when they are used up, always the first choice.
type dice struct{ data []byte }

func (d *dice) roll(sides int) int {
	if len(d.data) == 0 {
		return 0
	}
	n := int(d.data[0]) % sides
	d.data = d.data[1:]
	return n
}

func (d *dice) key() []byte {
	return [][]byte{[]byte(prefix + "a"), []byte(prefix + "b"), nil, {0}, []byte("compact_rev_key"), []byte("compact_rev_key_apiserver"), []byte("/registry/health"), {0xff}, []byte(prefix + "%")}[d.roll(9)]
}

func (d *dice) revision() int64 {
	return []int64{0, 1, 2, 5, 20, -1, math.MaxInt64, math.MinInt64, 1 << 40}[d.roll(9)]
}

func (d *dice) rang() *pb.RangeRequest {
	ends := [][]byte{nil, {0}, []byte(prefix + "z"), {}, []byte("0")}
	return &pb.RangeRequest{
		Key: d.key(), RangeEnd: ends[d.roll(len(ends))], Revision: d.revision(), Limit: d.revision(), CountOnly: d.roll(2) == 1, KeysOnly: d.roll(2) == 1,
		SortOrder: pb.RangeRequest_SortOrder(d.roll(4)), Serializable: d.roll(2) == 1, MinModRevision: d.revision() % 3,
	}
}

func (d *dice) put() *pb.PutRequest {
	return &pb.PutRequest{
		Key: d.key(), Value: bytes.Repeat([]byte{'v'}, d.roll(200)), Lease: d.revision(), PrevKv: d.roll(2) == 1, IgnoreValue: d.roll(4) == 1, IgnoreLease: d.roll(4) == 1,
	}
}

func (d *dice) op() *pb.RequestOp {
	switch d.roll(5) {
	case 0:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: d.put()}}
	case 1:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: d.rang()}}
	case 2:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: d.key(), PrevKv: true}}}
	case 3:
		return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{}}}
	}
	return &pb.RequestOp{}
}

func (d *dice) compare() *pb.Compare {
	c := &pb.Compare{Key: d.key(), Result: pb.Compare_CompareResult(d.roll(4))}
	switch c.Target = pb.Compare_CompareTarget(d.roll(5)); c.Target {
	case pb.Compare_VERSION:
		c.TargetUnion = &pb.Compare_Version{Version: d.revision()}
	case pb.Compare_MOD:
		c.TargetUnion = &pb.Compare_ModRevision{ModRevision: d.revision()}
	}
	return c
}

func (d *dice) request() proto.Message {
	switch d.roll(6) {
	case 0:
		txn := &pb.TxnRequest{}
		for range d.roll(3) {
			txn.Compare = append(txn.Compare, d.compare())
		}
		for range d.roll(4) {
			txn.Success = append(txn.Success, d.op())
		}
		for range d.roll(3) {
			txn.Failure = append(txn.Failure, d.op())
		}
		return txn
	case 1:
		return d.rang()
	case 2:
		return d.put()
	case 3:
		return &pb.WatchCreateRequest{Key: d.key(), RangeEnd: d.key(), StartRevision: d.revision(), ProgressNotify: d.roll(2) == 1, WatchId: d.revision(), Fragment: d.roll(2) == 1}
	case 4:
		return &pb.CompactionRequest{Revision: d.revision(), Physical: d.roll(2) == 1}
	}
	return &pb.LeaseGrantRequest{TTL: d.revision(), ID: d.revision()}
}
