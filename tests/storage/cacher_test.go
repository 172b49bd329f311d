package storage

import (
	"context"
	"fmt"
	"testing"
	"time"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/features"
	apistorage "k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	upstream "k8s.io/apiserver/pkg/storage/testing"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/tools/cache"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
	"k8s.io/utils/clock"
)

// cached is the API server's cache of pods over a fixture.
type cached struct {
	*cacher.CacheDelegator
	cache *cacher.Cacher
	under *fixture
}

// newCached builds a cache, whose keys have a namespace or not, and waits until it is filled.
func newCached(t *testing.T, p place, namespaced bool) *cached {
	t.Helper()
	c := &cached{under: newFixture(t, p, "/registry")}
	var err error
	c.cache, err = cacher.NewCacherFromConfig(cacher.Config{
		Storage:             c.under,
		Versioner:           apistorage.APIObjectVersioner{},
		GroupResource:       podsResource,
		EventsHistoryWindow: cacher.DefaultEventFreshDuration,
		ResourcePrefix:      "/pods/",
		KeyFunc: func(o runtime.Object) (string, error) {
			if namespaced {
				return apistorage.NamespaceKeyFunc("/pods/", o)
			}
			return apistorage.NoNamespaceKeyFunc("/pods/", o)
		},
		GetAttrsFunc: podAttributes,
		IndexerFuncs: map[string]apistorage.IndexerFunc{"spec.nodeName": func(o runtime.Object) string { return o.(*example.Pod).Spec.NodeName }},
		Indexers: &cache.Indexers{
			"f:spec.nodeName":      func(o any) ([]string, error) { return []string{o.(*example.Pod).Spec.NodeName}, nil },
			"f:metadata.namespace": func(o any) ([]string, error) { return []string{o.(*example.Pod).Namespace}, nil },
		},
		NewFunc:     newPod,
		NewListFunc: newPodList,
		Codec:       c.under.codec,
		Clock:       clock.RealClock{},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.cache.Stop)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := c.cache.Wait(ctx); err != nil {
		t.Fatalf("fill the cache: %v", err)
	}
	c.CacheDelegator = cacher.NewCacheDelegator(c.cache, c.under)
	t.Cleanup(c.CacheDelegator.Stop)
	return c
}

func podAttributes(o runtime.Object) (labels.Set, fields.Set, error) {
	pod, ok := o.(*example.Pod)
	if !ok {
		return nil, nil, fmt.Errorf("%T is no pod", o)
	}
	return pod.Labels, fields.Set{
		"metadata.name": pod.Name, "metadata.namespace": pod.Namespace, "spec.nodeName": pod.Spec.NodeName,
		"spec.restartPolicy": string(pod.Spec.RestartPolicy), "status.phase": string(pod.Status.Phase),
	}, nil
}

// nothing is a storagetesting.KeyValidation and, as calls, a CallsValidation: the cache does not store, and may read as it likes.
func nothing(context.Context, *testing.T, string) {}
func calls(*testing.T, uint64, uint64)            {}

// compact compacts the datastore and waits until the cache has done so too, which looks every 15 s.
func (c *cached) compact(ctx context.Context, t *testing.T, resourceVersion string) {
	t.Helper()
	c.under.compact(ctx, t, resourceVersion)
	if utilfeature.DefaultFeatureGate.Enabled(features.ListFromCacheSnapshot) {
		want := fmt.Sprint(c.under.CompactRevision())
		waitFor(ctx, t, "the cache to be compacted", func() bool { return fmt.Sprint(c.CompactRevision()) == want })
	}
}

// seen is a cache whose creates return when the cache has them.
type seen struct{ *cached }

func (s seen) Create(ctx context.Context, key string, o, out runtime.Object, ttl uint64) error {
	if err := s.cached.Create(ctx, key, o, out, ttl); err != nil {
		return err
	}
	for ctx.Err() == nil {
		got := newPod()
		if err := s.Get(ctx, key, apistorage.GetOptions{ResourceVersion: "0", IgnoreNotFound: true}, got); err != nil {
			return err
		}
		if apiequality.Semantic.DeepEqual(got, out) {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return ctx.Err()
}

type cachedCheck struct {
	name string
	// flat is for pods without a namespace in their key.
	flat bool
	// fromOne marks the two that count on the first write having revision 2, as in an empty etcd. kine writes keys of its own to a new database elsewhere before anybody else.
	fromOne bool
	run     func(ctx context.Context, t *testing.T, c *cached)
}

// TestCacheSuite runs those of Kubernetes' checks that are for its API server's cache, which asks the datastore in its own way: lists, watches, progress.
func TestCacheSuite(t *testing.T) {
	all := backends(t)
	run := func(t *testing.T, checks []cachedCheck, serial bool) {
		for _, c := range checks {
			for _, b := range all {
				if c.fromOne && b.database != nil {
					continue
				}
				t.Run(c.name+"/"+b.name, func(t *testing.T) {
					if !serial {
						t.Parallel()
					}
					p := b.place(t)
					p.Compacts = compacting[c.name]
					c.run(t.Context(), t, newCached(t, p, !c.flat))
				})
			}
		}
	}
	for _, snapshots := range []bool{true, false} {
		t.Run(fmt.Sprintf("snapshots %v", snapshots), func(t *testing.T) {
			featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, features.ListFromCacheSnapshot, snapshots)
			run(t, cachedLists(snapshots), false)
		})
	}
	t.Run("objects and watches", func(t *testing.T) { run(t, cachedChecks(), false) })
	t.Run("one by one", func(t *testing.T) { run(t, cachedSerial(), true) })
}

func cachedLists(snapshots bool) []cachedCheck {
	checks := []cachedCheck{
		{name: "List", fromOne: !snapshots, run: func(ctx context.Context, t *testing.T, c *cached) {
			upstream.RunTestList(ctx, t, c, c.compact, true, c.under.lists)
		}},
		{name: "ConsistentList", run: func(ctx context.Context, t *testing.T, c *cached) {
			upstream.RunTestConsistentList(ctx, t, c, c.under.more, true, true, snapshots)
		}},
		{name: "GetListNonRecursive", run: func(ctx context.Context, t *testing.T, c *cached) {
			upstream.RunTestGetListNonRecursive(ctx, t, c.under.more, c)
		}},
	}
	if snapshots {
		checks = append(checks, cachedCheck{name: "CompactRevision", run: func(ctx context.Context, t *testing.T, c *cached) {
			upstream.RunTestCompactRevision(ctx, t, c, c.under.more, c.compact)
		}})
	}
	return checks
}

// cachedChecks has not WatchFromZero, half of which compacts inside the cache by what is not exported; TestStorageSuite has it.
func cachedChecks() []cachedCheck {
	return []cachedCheck{
		{name: "Create", run: func(ctx context.Context, t *testing.T, c *cached) { upstream.RunTestCreate(ctx, t, c, nothing) }},
		{name: "CreateWithTTL", run: func(ctx context.Context, t *testing.T, c *cached) { upstream.RunTestCreateWithTTL(ctx, t, c) }},
		{name: "ConditionalDelete", run: func(ctx context.Context, t *testing.T, c *cached) { upstream.RunTestConditionalDelete(ctx, t, c) }},
		{name: "DeleteWithConflict", run: func(ctx context.Context, t *testing.T, c *cached) { upstream.RunTestDeleteWithConflict(ctx, t, c) }},
		{name: "DeleteWithSuggestionAndConflict", run: func(ctx context.Context, t *testing.T, c *cached) {
			upstream.RunTestDeleteWithSuggestionAndConflict(ctx, t, c)
		}},
		{name: "ListPaging", run: func(ctx context.Context, t *testing.T, c *cached) { upstream.RunTestListPaging(ctx, t, c) }},
		{name: "GetListRecursivePrefix", run: func(ctx context.Context, t *testing.T, c *cached) { upstream.RunTestGetListRecursivePrefix(ctx, t, c) }},
		{name: "ListContinuation", run: func(ctx context.Context, t *testing.T, c *cached) { upstream.RunTestListContinuation(ctx, t, c, calls) }},
		{name: "ListContinuationWithFilter", run: func(ctx context.Context, t *testing.T, c *cached) {
			upstream.RunTestListContinuationWithFilter(ctx, t, c, calls)
		}},
		{name: "ListPaginationRareObject", run: func(ctx context.Context, t *testing.T, c *cached) {
			upstream.RunTestListPaginationRareObject(ctx, t, c, calls)
		}},
		{name: "NamespaceScopedList", run: func(ctx context.Context, t *testing.T, c *cached) { upstream.RunTestNamespaceScopedList(ctx, t, c) }},
		{name: "GuaranteedUpdateWithTTL", run: func(ctx context.Context, t *testing.T, c *cached) { upstream.RunTestGuaranteedUpdateWithTTL(ctx, t, c) }},
		{name: "GuaranteedUpdateWithConflict", run: func(ctx context.Context, t *testing.T, c *cached) {
			upstream.RunTestGuaranteedUpdateWithConflict(ctx, t, c)
		}},
		{name: "GuaranteedUpdateWithSuggestionAndConflict", run: func(ctx context.Context, t *testing.T, c *cached) {
			upstream.RunTestGuaranteedUpdateWithSuggestionAndConflict(ctx, t, c)
		}},
		{name: "Watch", run: func(ctx context.Context, t *testing.T, c *cached) { upstream.RunTestWatch(ctx, t, c) }},
		{name: "DeleteTriggerWatch", run: func(ctx context.Context, t *testing.T, c *cached) { upstream.RunTestDeleteTriggerWatch(ctx, t, c) }},
		{name: "WatchFromNonZero", run: func(ctx context.Context, t *testing.T, c *cached) { upstream.RunTestWatchFromNonZero(ctx, t, c) }},
		{name: "DelayedWatchDelivery", run: func(ctx context.Context, t *testing.T, c *cached) { upstream.RunTestDelayedWatchDelivery(ctx, t, c) }},
		{name: "WatcherTimeout", run: func(ctx context.Context, t *testing.T, c *cached) { upstream.RunTestWatcherTimeout(ctx, t, c) }},
		{name: "WatchDeleteEventObjectHaveLatestRV", run: func(ctx context.Context, t *testing.T, c *cached) {
			upstream.RunTestWatchDeleteEventObjectHaveLatestRV(ctx, t, c)
		}},
		{name: "WatchInitializationSignal", run: func(ctx context.Context, t *testing.T, c *cached) {
			upstream.RunTestWatchInitializationSignal(ctx, t, c)
		}},
		{name: "ClusterScopedWatch", flat: true, run: func(ctx context.Context, t *testing.T, c *cached) { upstream.RunTestClusterScopedWatch(ctx, t, c) }},
		{name: "NamespaceScopedWatch", run: func(ctx context.Context, t *testing.T, c *cached) { upstream.RunTestNamespaceScopedWatch(ctx, t, c) }},
		{name: "WatchDispatchBookmarkEvents", run: func(ctx context.Context, t *testing.T, c *cached) {
			upstream.RunTestWatchDispatchBookmarkEvents(ctx, t, c, true)
		}},
		{name: "WatchBookmarksWithCorrectResourceVersion", run: func(ctx context.Context, t *testing.T, c *cached) {
			upstream.RunTestOptionalWatchBookmarksWithCorrectResourceVersion(ctx, t, c)
		}},
		{name: "SendInitialEventsBackwardCompatibility", run: func(ctx context.Context, t *testing.T, c *cached) {
			upstream.RunSendInitialEventsBackwardCompatibility(ctx, t, c)
		}},
	}
}

// cachedSerial set gates themselves, or give an object a second to live.
func cachedSerial() []cachedCheck {
	return []cachedCheck{
		{name: "Get", run: func(ctx context.Context, t *testing.T, c *cached) { upstream.RunTestGet(ctx, t, c) }},
		{name: "WatchSemantics", fromOne: true, run: func(ctx context.Context, t *testing.T, c *cached) { upstream.RunWatchSemantics(ctx, t, seen{c}) }},
		{name: "WatchSemanticInitialEventsExtended", run: func(ctx context.Context, t *testing.T, c *cached) {
			upstream.RunWatchSemanticInitialEventsExtended(ctx, t, seen{c})
		}},
		{name: "WatchListMatchSingle", run: func(ctx context.Context, t *testing.T, c *cached) { upstream.RunWatchListMatchSingle(ctx, t, seen{c}) }},
	}
}
