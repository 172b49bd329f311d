package storage

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"k8s.io/apimachinery/pkg/api/apitesting"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/features"
	apistorage "k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/utils/clock"
)

// stored is what the fixture's transformer puts before each object.
const stored = "stored:"

var podsResource = schema.GroupResource{Resource: "pods"}

// etcd3Store is what etcd3.New returns, whose type has no name outside.
type etcd3Store interface {
	apistorage.Interface
	Close()
}

// fixture is the API server's storage of pods over one back end.
type fixture struct {
	etcd3Store
	client      *kubernetes.Client
	reads       *storagetesting.KVRecorder
	lists       *storagetesting.KubernetesRecorder
	codec       *breakableCodec
	transformer *changeable
	prefix      *storagetesting.PrefixTransformer
}

// newFixture builds one on the datastore of a place, which it runs. All keys of objects begin with root, which the suite wants to be empty for the store, and /registry for the cache.
func newFixture(t *testing.T, p place, root string) *fixture {
	t.Helper()
	f := &fixture{client: p.run(t)}
	f.lists = storagetesting.NewKubernetesRecorder(f.client.Kubernetes)
	f.reads = storagetesting.NewKVRecorder(f.client.KV, f.lists)
	f.client.KV, f.client.Kubernetes = f.reads, f.lists

	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, metav1.SchemeGroupVersion)
	for _, add := range []func(*runtime.Scheme) error{example.AddToScheme, examplev1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	f.codec = &breakableCodec{Codec: apitesting.TestCodec(serializer.NewCodecFactory(scheme), examplev1.SchemeGroupVersion)}
	f.prefix = storagetesting.NewPrefixTransformer([]byte(stored), false)
	f.transformer = &changeable{}
	f.transformer.set(f.prefix)

	compactor := etcd3.NewCompactor(f.client.Client, 0, clock.RealClock{}, nil)
	t.Cleanup(compactor.Stop)
	leases := etcd3.NewDefaultLeaseManagerConfig()
	leases.ReuseDurationSeconds = 1 // the suite waits for the end of a lease, 30 s at most
	versioner := apistorage.APIObjectVersioner{}
	store, err := etcd3.New(f.client, compactor, f.codec, newPod, newPodList, root, "/pods/", podsResource,
		f.transformer, leases, etcd3.NewDefaultDecoder(f.codec, versioner), versioner)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	f.etcd3Store = store
	return f
}

func newPod() runtime.Object     { return &example.Pod{} }
func newPodList() runtime.Object { return &example.PodList{} }

// UpdatePrefixTransformer implements storagetesting.InterfaceWithPrefixTransformer.
func (f *fixture) UpdatePrefixTransformer(modify storagetesting.PrefixTransformerModifier) func() {
	changed := *f.prefix
	return f.transformer.set(modify(&changed))
}

// UpdateTransformer implements storagetesting.InterfaceWithTransformerOverride.
func (f *fixture) UpdateTransformer(modify storagetesting.TransformerModifier) func() {
	return f.transformer.set(modify(f.transformer.get()))
}

// overridable is a storage over the fixture's, whose transformer the suite changes.
type overridable struct {
	apistorage.Interface
	store *fixture
}

// UpdateTransformer implements storagetesting.InterfaceWithTransformerOverride.
func (o overridable) UpdateTransformer(modify storagetesting.TransformerModifier) func() {
	return o.store.UpdateTransformer(modify)
}

// checkStored is a storagetesting.KeyValidation: what is in the datastore under the key has no resourceVersion of its own.
func (f *fixture) checkStored(ctx context.Context, t *testing.T, key string) {
	got, err := f.client.KV.Get(ctx, key)
	if err != nil || len(got.Kvs) != 1 {
		t.Fatalf("read %s: %v, %v", key, got, err)
	}
	data, ok := strings.CutPrefix(string(got.Kvs[0].Value), stored)
	object, err := runtime.Decode(f.codec, []byte(data))
	if err != nil || !ok {
		t.Fatalf("%s has %q: %v", key, got.Kvs[0].Value, err)
	}
	if pod := object.(*example.Pod); pod.ResourceVersion != "" {
		t.Errorf("%s is stored with resourceVersion %q", key, pod.ResourceVersion)
	}
}

// checkCalls is a storagetesting.CallsValidation: each object is read once, by as few pages as doubling their size allows.
func (f *fixture) checkCalls(t *testing.T, pageSize, objects uint64) {
	if got := f.prefix.GetReadsAndReset(); got != objects {
		t.Errorf("%d objects were read, not %d", got, objects)
	}
	const largest = 10000 // the API server's largest page
	want := uint64(1)
	if pageSize != 0 {
		for page, seen := pageSize, uint64(1); seen < objects; want++ {
			page = min(page*2, largest)
			seen += page
		}
	}
	if got := f.reads.GetReadsAndReset() + f.reads.GetStreamReadsAndReset(); got != want {
		t.Errorf("%d calls of the datastore, not %d", got, want)
	}
}

// compact is a storagetesting.Compaction, done as the API server does it; it waits until the store has noticed.
func (f *fixture) compact(ctx context.Context, t *testing.T, resourceVersion string) {
	t.Helper()
	revision, err := apistorage.APIObjectVersioner{}.ParseResourceVersion(resourceVersion)
	if err != nil {
		t.Fatal(err)
	}
	// The first call only learns how often others have compacted, if any have.
	version, _, _, err := etcd3.Compact(ctx, f.client.Client, 0, int64(revision))
	if err != nil {
		_, _, _, err = etcd3.Compact(ctx, f.client.Client, version, int64(revision))
	}
	if err != nil {
		t.Fatalf("compact at %d: %v", revision, err)
	}
	if utilfeature.DefaultFeatureGate.Enabled(features.ListFromCacheSnapshot) { // else the store does not look
		waitFor(ctx, t, "the store to notice a compaction", func() bool { return f.CompactRevision() == int64(revision) })
	}
}

// more is a storagetesting.IncreaseRVFunc.
func (f *fixture) more(ctx context.Context, t *testing.T) int64 {
	t.Helper()
	put, err := f.client.KV.Put(ctx, "another-key", "")
	if err != nil {
		t.Fatal(err)
	}
	return put.Header.Revision
}

// keys lists those of the pods, for estimating their size.
func (f *fixture) keys(ctx context.Context) ([]string, error) {
	got, err := f.client.KV.Get(ctx, "/pods/", clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, err
	}
	keys := make([]string, 0, len(got.Kvs))
	for _, kv := range got.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys, nil
}

// waitFor returns when a condition holds.
func waitFor(ctx context.Context, t testing.TB, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for !done() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

var errBroken = errors.New("broken by the test")

// changeable is a transformer that can be exchanged under a running store.
type changeable struct {
	now atomic.Pointer[value.Transformer]
}

func (c *changeable) get() value.Transformer { return *c.now.Load() }

// set exchanges it and returns what brings the one before back.
func (c *changeable) set(to value.Transformer) func() {
	before := c.now.Swap(&to)
	return func() { c.now.Store(before) }
}

// setFailing lets all reading fail, or no more.
func (c *changeable) setFailing(fail bool) {
	if failing, ok := c.get().(failingTransformer); ok && !fail {
		c.set(failing.Transformer)
	} else if !ok && fail {
		c.set(failingTransformer{c.get()})
	}
}

func (c *changeable) TransformFromStorage(ctx context.Context, data []byte, from value.Context) ([]byte, bool, error) {
	return c.get().TransformFromStorage(ctx, data, from)
}

func (c *changeable) TransformToStorage(ctx context.Context, data []byte, to value.Context) ([]byte, error) {
	return c.get().TransformToStorage(ctx, data, to)
}

type failingTransformer struct{ value.Transformer }

func (failingTransformer) TransformFromStorage(context.Context, []byte, value.Context) ([]byte, bool, error) {
	return nil, false, errBroken
}

// errCorrupt is the error of an object that cannot be read, as the store knows it from others.
func errCorrupt() error {
	_, _, err := etcd3.WithCorruptObjErrorHandlingTransformer(failingTransformer{}).TransformFromStorage(context.Background(), nil, nil)
	return err
}

// breakableCodec is one whose decoding can be made to fail.
type breakableCodec struct {
	runtime.Codec
	broken atomic.Bool
}

func (c *breakableCodec) setFailing(fail bool) { c.broken.Store(fail) }

func (c *breakableCodec) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if c.broken.Load() {
		return nil, nil, errBroken
	}
	return c.Codec.Decode(data, defaults, into)
}
