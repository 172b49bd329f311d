package storage

import (
	"context"
	"testing"

	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage/etcd3"
	upstream "k8s.io/apiserver/pkg/storage/testing"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/featuregate"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
)

// check is one of the checks that Kubernetes has for every storage of its API server.
type check struct {
	name string
	run  func(ctx context.Context, t *testing.T, f *fixture)
}

// group are checks that want the same feature gates, which are the whole process's.
type group struct {
	name  string
	gates map[featuregate.Feature]bool
	// serial keeps them from running beside each other, since they set gates themselves or must be done within a second.
	serial bool
	checks []check
}

// TestStorageSuite runs Kubernetes' checks of the API server's storage against each back end, each on a datastore of its own.
func TestStorageSuite(t *testing.T) {
	all := backends(t)
	for _, g := range groups() {
		t.Run(g.name, func(t *testing.T) {
			for gate, on := range g.gates {
				featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, gate, on)
			}
			for _, c := range g.checks {
				for _, b := range all {
					t.Run(c.name+"/"+b.name, func(t *testing.T) {
						if !g.serial {
							t.Parallel()
						}
						p := b.place(t)
						p.Compacts = compacting[c.name]
						c.run(t.Context(), t, newFixture(t, p))
					})
				}
			}
		})
	}
}

func groups() []group {
	return []group{
		{"objects", nil, false, objectChecks()},
		{"lists", nil, false, listChecks()},
		{"watches", nil, false, watchChecks()},
		{"one by one", nil, true, serialChecks()},
		{"unreadable objects", map[featuregate.Feature]bool{features.AllowUnsafeMalformedObjectDeletion: true}, false, unreadableChecks()},
		{"unreadable objects without the gate", map[featuregate.Feature]bool{features.AllowUnsafeMalformedObjectDeletion: false}, false, []check{
			{"GetListWithoutErrorAggregation", func(ctx context.Context, t *testing.T, f *fixture) {
				upstream.RunTestGetListWithoutErrorAggregation(ctx, t, f, errCorrupt())
			}},
		}},
		{"RangeStream", map[featuregate.Feature]bool{features.EtcdRangeStream: true}, false, streamChecks(true)},
		{"no RangeStream", map[featuregate.Feature]bool{features.EtcdRangeStream: false}, false, streamChecks(false)},
		// Snapshots in the cache read the compaction's key once more, which would be counted.
		{"no snapshots in the cache", map[featuregate.Feature]bool{features.ListFromCacheSnapshot: false}, false, []check{
			{"ListPaginationRareObject", func(ctx context.Context, t *testing.T, f *fixture) {
				upstream.RunTestListPaginationRareObject(ctx, t, f, f.checkCalls)
			}},
		}},
	}
}

// compacting are the checks that compact, which kine does not do when asked, as labk runs it.
var compacting = map[string]bool{"ListInconsistentContinuation": true, "CompactRevision": true, "WatchFromZero": true, "List": true}

func objectChecks() []check {
	return []check{
		{"Create", func(ctx context.Context, t *testing.T, f *fixture) { upstream.RunTestCreate(ctx, t, f, f.checkStored) }},
		{"CreateWithTTL", func(ctx context.Context, t *testing.T, f *fixture) { upstream.RunTestCreateWithTTL(ctx, t, f) }},
		{"CreateWithKeyExist", func(ctx context.Context, t *testing.T, f *fixture) { upstream.RunTestCreateWithKeyExist(ctx, t, f) }},
		{"UnconditionalDelete", func(ctx context.Context, t *testing.T, f *fixture) { upstream.RunTestUnconditionalDelete(ctx, t, f) }},
		{"ConditionalDelete", func(ctx context.Context, t *testing.T, f *fixture) { upstream.RunTestConditionalDelete(ctx, t, f) }},
		{"DeleteWithSuggestion", func(ctx context.Context, t *testing.T, f *fixture) { upstream.RunTestDeleteWithSuggestion(ctx, t, f) }},
		{"DeleteWithSuggestionAndConflict", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestDeleteWithSuggestionAndConflict(ctx, t, f)
		}},
		{"DeleteWithSuggestionOfDeletedObject", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestDeleteWithSuggestionOfDeletedObject(ctx, t, f)
		}},
		{"ValidateDeletionWithSuggestion", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestValidateDeletionWithSuggestion(ctx, t, f)
		}},
		{"ValidateDeletionWithOnlySuggestionValid", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestValidateDeletionWithOnlySuggestionValid(ctx, t, f)
		}},
		{"DeleteWithConflict", func(ctx context.Context, t *testing.T, f *fixture) { upstream.RunTestDeleteWithConflict(ctx, t, f) }},
		{"PreconditionalDeleteWithSuggestion", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestPreconditionalDeleteWithSuggestion(ctx, t, f)
		}},
		{"PreconditionalDeleteWithOnlySuggestionPass", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestPreconditionalDeleteWithOnlySuggestionPass(ctx, t, f)
		}},
		{"GuaranteedUpdate", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestGuaranteedUpdate(ctx, t, f, f.checkStored)
		}},
		{"GuaranteedUpdateWithTTL", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestGuaranteedUpdateWithTTL(ctx, t, f)
		}},
		{"GuaranteedUpdateChecksStoredData", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestGuaranteedUpdateChecksStoredData(ctx, t, f)
		}},
		{"GuaranteedUpdateWithConflict", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestGuaranteedUpdateWithConflict(ctx, t, f)
		}},
		{"GuaranteedUpdateWithSuggestionAndConflict", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestGuaranteedUpdateWithSuggestionAndConflict(ctx, t, f)
		}},
		{"TransformationFailure", func(ctx context.Context, t *testing.T, f *fixture) { upstream.RunTestTransformationFailure(ctx, t, f) }},
		{"KeySchema", func(ctx context.Context, t *testing.T, f *fixture) { upstream.RunTestKeySchema(ctx, t, f) }},
	}
}

func listChecks() []check {
	return []check{
		{"ListPaging", func(ctx context.Context, t *testing.T, f *fixture) { upstream.RunTestListPaging(ctx, t, f) }},
		{"GetListNonRecursive", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestGetListNonRecursive(ctx, t, f.more, f)
		}},
		{"GetListRecursivePrefix", func(ctx context.Context, t *testing.T, f *fixture) { upstream.RunTestGetListRecursivePrefix(ctx, t, f) }},
		{"ListContinuation", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestListContinuation(ctx, t, f, f.checkCalls)
		}},
		{"ListContinuationWithFilter", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestListContinuationWithFilter(ctx, t, f, f.checkCalls)
		}},
		{"ListInconsistentContinuation", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestListInconsistentContinuation(ctx, t, f, f.compact)
		}},
		{"ListResourceVersionMatch", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestListResourceVersionMatch(ctx, t, f)
		}},
		{"NamespaceScopedList", func(ctx context.Context, t *testing.T, f *fixture) { upstream.RunTestNamespaceScopedList(ctx, t, f) }},
		{"CompactRevision", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestCompactRevision(ctx, t, f, f.more, f.compact)
		}},
		{"Stats", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestStats(ctx, t, f, f.codec, f.prefix, false)
		}},
		{"StatsWithSizes", func(ctx context.Context, t *testing.T, f *fixture) {
			if err := f.EnableResourceSizeEstimation(f.keys); err != nil {
				t.Fatal(err)
			}
			upstream.RunTestStats(ctx, t, f, f.codec, f.prefix, true)
		}},
	}
}

func watchChecks() []check {
	return []check{
		{"Watch", func(ctx context.Context, t *testing.T, f *fixture) { upstream.RunTestWatch(ctx, t, f) }},
		{"ClusterScopedWatch", func(ctx context.Context, t *testing.T, f *fixture) { upstream.RunTestClusterScopedWatch(ctx, t, f) }},
		{"NamespaceScopedWatch", func(ctx context.Context, t *testing.T, f *fixture) { upstream.RunTestNamespaceScopedWatch(ctx, t, f) }},
		{"DeleteTriggerWatch", func(ctx context.Context, t *testing.T, f *fixture) { upstream.RunTestDeleteTriggerWatch(ctx, t, f) }},
		{"WatchFromZero", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestWatchFromZero(ctx, t, f, f.compact)
		}},
		{"WatchFromNonZero", func(ctx context.Context, t *testing.T, f *fixture) { upstream.RunTestWatchFromNonZero(ctx, t, f) }},
		{"DelayedWatchDelivery", func(ctx context.Context, t *testing.T, f *fixture) { upstream.RunTestDelayedWatchDelivery(ctx, t, f) }},
		{"WatchError", func(ctx context.Context, t *testing.T, f *fixture) { upstream.RunTestWatchError(ctx, t, f) }},
		{"WatchContextCancel", func(ctx context.Context, t *testing.T, f *fixture) { upstream.RunTestWatchContextCancel(ctx, t, f) }},
		{"WatcherTimeout", func(ctx context.Context, t *testing.T, f *fixture) { upstream.RunTestWatcherTimeout(ctx, t, f) }},
		{"WatchDeleteEventObjectHaveLatestRV", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestWatchDeleteEventObjectHaveLatestRV(ctx, t, f)
		}},
		{"WatchInitializationSignal", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestWatchInitializationSignal(ctx, t, f)
		}},
		{"ProgressNotify", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunOptionalTestProgressNotify(ctx, t, f, f.more)
		}},
		{"WatchDispatchBookmarkEvents", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestWatchDispatchBookmarkEvents(ctx, t, f, false)
		}},
		{"SendInitialEventsBackwardCompatibility", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunSendInitialEventsBackwardCompatibility(ctx, t, f)
		}},
		{"WatchErrorIsBlockingFurtherEvents", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunWatchErrorIsBlockingFurtherEvents(ctx, t, f)
		}},
	}
}

func unreadableChecks() []check {
	return []check{
		{"DeleteWithConflictAndMissingExpectedDecodeError", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestDeleteWithConflictAndMissingExpectedTransformOrDecodeError(ctx, t, f, f.codec.setFailing)
		}},
		{"DeleteExpectedTransformError", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestDeleteExpectedTransformOrDecodeError(ctx, t, f, f.transformer.setFailing)
		}},
		{"DeleteExpectedDecodeError", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestDeleteExpectedTransformOrDecodeError(ctx, t, f, f.codec.setFailing)
		}},
		{"DeleteWithSuggestionAndMissingExpectedError", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestDeleteWithSuggestionAndMissingExpectedTransformOrDecodeError(ctx, t, f)
		}},
		{"GetListWithErrorAggregation", func(ctx context.Context, t *testing.T, f *fixture) {
			deleter := etcd3.NewStoreWithUnsafeCorruptObjectDeletion(f, podsResource)
			upstream.RunTestGetListWithErrorAggregation(ctx, t, overridable{deleter, f}, errCorrupt())
		}},
		{"WatchWithUnsafeDelete", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestWatchWithUnsafeDelete(ctx, t, f, errCorrupt())
		}},
	}
}

// streamChecks are those of reading by RangeStream, or without it.
func streamChecks(stream bool) []check {
	return []check{
		{"List", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestList(ctx, t, f, f.compact, false, f.lists)
			if got := f.reads.GetStreamReadsAndReset(); (got > 0) != stream {
				t.Errorf("%d reads by RangeStream", got)
			}
		}},
		{"ConsistentList", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunTestConsistentList(ctx, t, f, f.more, false, true, false)
		}},
	}
}

// serialChecks set gates themselves; Get gives its object a second to live, and reads it beside other parts of itself.
func serialChecks() []check {
	return []check{
		{"Get", func(ctx context.Context, t *testing.T, f *fixture) { upstream.RunTestGet(ctx, t, f) }},
		{"WatchSemantics", func(ctx context.Context, t *testing.T, f *fixture) { upstream.RunWatchSemantics(ctx, t, f) }},
		{"WatchSemanticInitialEventsExtended", func(ctx context.Context, t *testing.T, f *fixture) {
			upstream.RunWatchSemanticInitialEventsExtended(ctx, t, f)
		}},
		{"WatchListMatchSingle", func(ctx context.Context, t *testing.T, f *fixture) { upstream.RunWatchListMatchSingle(ctx, t, f) }},
	}
}
