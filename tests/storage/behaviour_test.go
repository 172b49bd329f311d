package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
)

// store is a client with short words for what the tests do; what fails unexpectedly ends the test.
type store struct {
	*kubernetes.Client
	t   testing.TB
	ctx context.Context
}

func newStore(t testing.TB, client *kubernetes.Client) store { return store{client, t, t.Context()} }

// put creates (revision 0) or updates a key and returns the new revision.
func (s store) put(key, value string, revision int64, options ...kubernetes.PutOptions) int64 {
	s.t.Helper()
	got, err := s.OptimisticPut(s.ctx, key, []byte(value), revision, append(options, kubernetes.PutOptions{GetOnFailure: true})[0])
	if err != nil || !got.Succeeded {
		s.t.Fatalf("put %q over revision %d: %+v, %v", key, revision, got, err)
	}
	return got.Revision
}

func (s store) remove(key string, revision int64) int64 {
	s.t.Helper()
	got, err := s.OptimisticDelete(s.ctx, key, revision, kubernetes.DeleteOptions{GetOnFailure: true})
	if err != nil || !got.Succeeded {
		s.t.Fatalf("delete %q at revision %d: %+v, %v", key, revision, got, err)
	}
	return got.Revision
}

func (s store) get(key string, revision int64) *mvccpb.KeyValue {
	s.t.Helper()
	got, err := s.Kubernetes.Get(s.ctx, key, kubernetes.GetOptions{Revision: revision})
	if err != nil {
		s.t.Fatalf("get %q at revision %d: %v", key, revision, err)
	}
	return got.KV
}

// keys lists those of a prefix, in the order they come in.
func (s store) keys(prefix string, options ...clientv3.OpOption) []string {
	s.t.Helper()
	got, err := s.KV.Get(s.ctx, prefix, append(options, clientv3.WithPrefix())...)
	if err != nil {
		s.t.Fatalf("list %q: %v", prefix, err)
	}
	var keys []string
	for _, kv := range got.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys
}

func (s store) revision() int64 {
	s.t.Helper()
	got, err := s.Kubernetes.Get(s.ctx, prefix+"nothing", kubernetes.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return got.Revision
}

func (s store) equal(what string, got, want any) {
	s.t.Helper()
	if fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", want) {
		s.t.Errorf("%s: %#v, not %#v", what, got, want)
	}
}

// TestBehaviour has what the API server takes for granted of one client's requests, of every back end.
func TestBehaviour(t *testing.T) {
	behaviours := map[string]func(store, backend){
		"changes":                changes,
		"refused changes":        refusedChanges,
		"versions":               versions,
		"old revisions":          oldRevisions,
		"lists":                  lists,
		"lists at old revisions": oldLists,
		"odd keys":               oddKeys,
		"values":                 values,
		"compaction":             compaction,
	}
	all := backends(t)
	for name, test := range behaviours {
		t.Run(name, func(t *testing.T) {
			each(t, all, func(t *testing.T, b backend) {
				p := b.place(t)
				p.Compacts = true
				test(newStore(t, p.run(t)), b)
			})
		})
	}
}

func changes(s store, _ backend) {
	key := prefix + "a"
	before := s.revision()
	created := s.put(key, "1", 0)
	s.equal("a create's revision", created, before+1)
	updated := s.put(key, "2", created)
	s.equal("an update's revision", updated, created+1)
	kv := s.get(key, 0)
	s.equal("the value", string(kv.Value), "2")
	s.equal("the revisions", []int64{kv.CreateRevision, kv.ModRevision}, []int64{created, updated})
	removed := s.remove(key, updated)
	s.equal("a delete's revision", removed, updated+1)
	if kv := s.get(key, 0); kv != nil {
		s.t.Errorf("deleted, and still there: %v", kv)
	}
	again := s.put(key, "3", 0)
	kv = s.get(key, 0)
	s.equal("the revisions of one created anew", []int64{kv.CreateRevision, kv.ModRevision}, []int64{again, again})
}

func refusedChanges(s store, _ backend) {
	key, none := prefix+"a", prefix+"none"
	created := s.put(key, "1", 0)
	now := s.put(key, "2", created)
	cases := map[string]func() (succeeded bool, found *mvccpb.KeyValue, revision int64, err error){
		"create what is there": func() (bool, *mvccpb.KeyValue, int64, error) {
			got, err := s.OptimisticPut(s.ctx, key, []byte("x"), 0, kubernetes.PutOptions{GetOnFailure: true})
			return got.Succeeded, got.KV, got.Revision, err
		},
		"update an old version": func() (bool, *mvccpb.KeyValue, int64, error) {
			got, err := s.OptimisticPut(s.ctx, key, []byte("x"), created, kubernetes.PutOptions{GetOnFailure: true})
			return got.Succeeded, got.KV, got.Revision, err
		},
		"update a version to come": func() (bool, *mvccpb.KeyValue, int64, error) {
			got, err := s.OptimisticPut(s.ctx, key, []byte("x"), now+100, kubernetes.PutOptions{GetOnFailure: true})
			return got.Succeeded, got.KV, got.Revision, err
		},
		"update what is not there": func() (bool, *mvccpb.KeyValue, int64, error) {
			got, err := s.OptimisticPut(s.ctx, none, []byte("x"), now, kubernetes.PutOptions{GetOnFailure: true})
			return got.Succeeded, got.KV, got.Revision, err
		},
		"delete an old version": func() (bool, *mvccpb.KeyValue, int64, error) {
			got, err := s.OptimisticDelete(s.ctx, key, created, kubernetes.DeleteOptions{GetOnFailure: true})
			return got.Succeeded, got.KV, got.Revision, err
		},
	}
	for name, try := range cases {
		succeeded, found, revision, err := try()
		if err != nil || succeeded {
			s.t.Errorf("%s: succeeded %v, %v", name, succeeded, err)
		}
		want := "2"
		if strings.HasSuffix(name, "not there") {
			want = ""
		}
		s.equal(name+": the value that is told", string(found.GetValue()), want)
		s.equal(name+": the revision", revision, now)
		s.equal(name+": the key afterwards", s.get(key, 0).ModRevision, now)
	}
	s.equal("the keys afterwards", s.keys(prefix), []string{key})
	s.equal("the revision afterwards", s.revision(), now)
}

// versions are counted by kine over SQL for nobody: each of its keys has version 0, and no part of Kubernetes looks.
func versions(s store, b backend) {
	if b.database != nil {
		s.t.Log("kine over a database elsewhere does not count versions")
		return
	}
	key := prefix + "a"
	first := s.put(key, "1", 0)
	s.equal("the version of a new key", s.get(key, 0).Version, int64(1))
	second := s.put(key, "2", first)
	s.equal("the version after an update", s.get(key, 0).Version, int64(2))
	s.remove(key, second)
	s.put(key, "3", 0)
	s.equal("the version of one created anew", s.get(key, 0).Version, int64(1))
	s.equal("the version as it was", s.get(key, second).Version, int64(2))
}

func oldRevisions(s store, _ backend) {
	key := prefix + "a"
	created := s.put(key, "1", 0)
	updated := s.put(key, "2", created)
	removed := s.remove(key, updated)
	again := s.put(key, "3", 0)
	for revision, want := range map[int64]string{created - 1: "", created: "1", updated: "2", removed: "", again: "3"} {
		s.equal(fmt.Sprintf("the value %d revisions after the first", revision-created), string(s.get(key, revision).GetValue()), want)
	}
	for what, option := range map[string]clientv3.OpOption{"a key": nil, "a list": clientv3.WithPrefix(), "a count": clientv3.WithCountOnly()} {
		options := []clientv3.OpOption{clientv3.WithRev(again + 1)}
		if option != nil {
			options = append(options, option, clientv3.WithPrefix())
		}
		if _, err := s.KV.Get(s.ctx, key, options...); !errors.Is(err, rpctypes.ErrFutureRev) {
			s.t.Errorf("%s at a revision to come: %v", what, err)
		}
	}
}

func lists(s store, _ backend) {
	var all []string
	for i := range 25 {
		all = append(all, fmt.Sprintf("%sl/%02d", prefix, i))
	}
	for _, i := range []int{7, 24, 3, 11, 0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23} {
		s.put(all[i], fmt.Sprint(i), 0)
	}
	gone := s.put(prefix+"l/05x", "", 0)
	s.remove(prefix+"l/05x", gone)
	for _, other := range []string{prefix + "k", prefix + "l", prefix + "l0", prefix + "m/1"} {
		s.put(other, "", 0)
	}
	under := prefix + "l/"
	s.equal("all in order", s.keys(under), all)
	page, err := s.KV.Get(s.ctx, under, clientv3.WithPrefix(), clientv3.WithLimit(10))
	if err != nil {
		s.t.Fatal(err)
	}
	s.equal("a page", []any{len(page.Kvs), page.Count, page.More}, []any{10, int64(25), true})
	next, err := s.List(s.ctx, under, kubernetes.ListOptions{Limit: 100, Continue: string(page.Kvs[9].Key) + "\x00", Revision: page.Header.Revision})
	if err != nil {
		s.t.Fatal(err)
	}
	s.equal("the next page", []any{len(next.Kvs), string(next.Kvs[0].Key)}, []any{15, all[10]})
	count, err := s.Count(s.ctx, under, kubernetes.CountOptions{})
	s.equal("the count", []any{count, err}, []any{int64(25), nil})
	names, err := s.KV.Get(s.ctx, under, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, kv := range names.Kvs {
		if len(kv.Value) != 0 || kv.ModRevision == 0 {
			s.t.Errorf("keys only: %v", kv)
		}
	}
	exact, err := s.KV.Get(s.ctx, all[3], clientv3.WithRange(all[6]))
	if err != nil || len(exact.Kvs) != 3 {
		s.t.Errorf("a range without its end: %v, %v", exact, err)
	}
	empty, err := s.KV.Get(s.ctx, prefix+"z/", clientv3.WithPrefix())
	if err != nil || len(empty.Kvs) != 0 || empty.Count != 0 || empty.Header.Revision != s.revision() {
		s.t.Errorf("an empty list: %v, %v", empty, err)
	}
}

func oldLists(s store, _ backend) {
	a, b := prefix+"a", prefix+"b"
	one := s.put(a, "1", 0)
	two := s.put(b, "1", 0)
	three := s.put(a, "2", one)
	four := s.remove(b, two)
	for revision, want := range map[int64]string{one: "a=1 ", two: "a=1 b=1 ", three: "a=2 b=1 ", four: "a=2 "} {
		got, err := s.List(s.ctx, prefix, kubernetes.ListOptions{Revision: revision})
		if err != nil {
			s.t.Fatal(err)
		}
		var text string
		for _, kv := range got.Kvs {
			text += fmt.Sprintf("%s=%s ", strings.TrimPrefix(string(kv.Key), prefix), kv.Value)
		}
		s.equal(fmt.Sprintf("the list %d revisions later", revision-one), text, want)
		s.equal("its count", got.Count, int64(strings.Count(want, " ")))
	}
}

// oddKeys are those that a database may take for each other: by letter case, spaces at the end, patterns and bytes that are no text.
func oddKeys(s store, b backend) {
	odd := []string{"a", "a%", "a_", "ab", "a'b", "a\"b", "a\\b", "a;b", "a/b", strings.Repeat("n", 500)}
	if b.name != mariadbName {
		odd = append(odd, "A", "a ", "ä", "Ä", "日本") // kine has MariaDB compare names as ASCII without regard to case
	}
	if b.database == nil {
		odd = append(odd, "a\x00", "a\xff", "\xff\xfe") // kine keeps names as text elsewhere; no part of Kubernetes has other ones
	}
	for i, key := range odd {
		s.put(prefix+key, fmt.Sprint(i), 0)
	}
	var want []string
	for i, key := range odd {
		want = append(want, prefix+key)
		kv := s.get(prefix+key, 0)
		s.equal(fmt.Sprintf("the value of %q", key), string(kv.GetValue()), fmt.Sprint(i))
		s.equal("its key", string(kv.GetKey()), prefix+key)
	}
	slices.Sort(want)
	got := s.keys(prefix)
	if b.name == mariadbName {
		slices.Sort(got) // it sorts them as if they were all upper-case
	}
	s.equal("all, in the order of bytes", got, want)
	s.equal("those under a%", s.keys(prefix+"a%"), []string{prefix + "a%"})
	s.equal("those under a_", s.keys(prefix+"a_"), []string{prefix + "a_"})
	if b.name != mariadbName {
		s.equal("those under A", s.keys(prefix+"A"), []string{prefix + "A"})
	}
}

func values(s store, _ backend) {
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // the API server's largest request has 1.5 MB
	for name, value := range map[string][]byte{"empty": {}, "binary": {0, 1, 0xff, 0xfe, '\'', '\\', 0}, "large": large} {
		revision := s.put(prefix+name, string(value), 0)
		if kv := s.get(prefix+name, 0); kv == nil || !bytes.Equal(kv.Value, value) {
			s.t.Errorf("the value %s did not come back", name)
		}
		s.put(prefix+name, "after", revision)
		if kv := s.get(prefix+name, revision); kv == nil || !bytes.Equal(kv.Value, value) {
			s.t.Errorf("the value %s did not come back from the revision before", name)
		}
	}
}

func compaction(s store, _ backend) {
	a, b := prefix+"a", prefix+"b"
	one := s.put(a, "1", 0)
	two := s.put(a, "2", one)
	other := s.put(b, "1", 0)
	gone := s.remove(b, other)
	last := s.put(a, "3", two)
	if _, err := s.Compact(s.ctx, two); err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.KV.Get(s.ctx, a, clientv3.WithRev(one)); !errors.Is(err, rpctypes.ErrCompacted) {
		s.t.Errorf("get before the compaction: %v", err)
	}
	if _, err := s.KV.Get(s.ctx, prefix, clientv3.WithPrefix(), clientv3.WithRev(one)); !errors.Is(err, rpctypes.ErrCompacted) {
		s.t.Errorf("list before the compaction: %v", err)
	}
	s.equal("what was at the compaction", string(s.get(a, two).GetValue()), "2")
	s.equal("what was after it", string(s.get(b, other).GetValue()), "1")
	if _, err := s.Compact(s.ctx, two); !errors.Is(err, rpctypes.ErrCompacted) {
		s.t.Errorf("compact at the same revision again: %v", err)
	}
	if _, err := s.Compact(s.ctx, last+1000); !errors.Is(err, rpctypes.ErrFutureRev) {
		s.t.Errorf("compact at a revision to come: %v", err)
	}
	if _, err := s.Compact(s.ctx, last); err != nil {
		s.t.Fatal(err)
	}
	s.equal("all after all is compacted", s.keys(prefix), []string{a})
	s.equal("its value", string(s.get(a, 0).GetValue()), "3")
	if kv := s.get(b, 0); kv != nil {
		s.t.Errorf("deleted at %d, and back after a compaction: %v", gone, kv)
	}
	s.put(b, "2", 0)
	s.put(a, "4", last)
}
