package health

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/labk/labk/pkg/config"
)

var datastoreCases = []probeCase{
	{"LABK045", "none", func(*fake) {}, Pass, "0 MiB"},
	{"LABK045", "small", func(f *fake) { f.put(f.data().Database(), "SQLite") }, Pass, "0 MiB"},
	{"LABK045", "large", func(f *fake) { f.sparse(f.data().Database(), 3<<30) }, Warn, "3072 MiB"},
	{"LABK045", "large log", func(f *fake) { f.sparse(f.data().Database()+"-wal", 3<<30) }, Warn, "3072 MiB"},
	{"LABK045", "etcd", func(f *fake) { f.sparse(f.data().EtcdFile(), 3<<30) }, Warn, "3072 MiB"},
	{"LABK045", "agent", func(f *fake) { f.Server = false; f.sparse(f.data().Database(), 3<<30) }, Pass, "not here"},
	{"LABK046", "real", func(*fake) {}, Pass, "written in"},
	{"LABK046", "slow", func(f *fake) { f.writes(400*time.Millisecond, time.Second, 400*time.Millisecond) }, Warn, "0.4 s at best"},
	{"LABK046", "slow once", func(f *fake) { f.writes(time.Second, time.Millisecond) }, Pass, "1.0 ms"},
	{"LABK046", "full", func(f *fake) {
		f.WriteDisk = func(string) (time.Duration, error) { return 0, errors.New("no space") }
	}, Pass, "not looked at: no space"},
	{"LABK046", "datastore elsewhere", func(f *fake) { f.Config.DatastoreEndpoint = "postgres://db"; f.writes() }, Pass, "not needed"},
}

// liveCases are of a labk that runs: f.Live is there and empty before change.
var liveCases = []probeCase{
	{"LABK052", "none", live(func(*fake) {}), Pass, "no certificates yet"},
	{"LABK052", "young", live(func(f *fake) { f.certificate(f.data().ServerTLS()+"/ca.crt", f.Now.AddDate(-1, 0, 0)) }), Pass, "the next, ca, at 2035-11-22"},
	{"LABK052", "the kubelet will renew it", live(func(f *fake) {
		f.certificate(f.data().AgentTLS()+"/kubelet-client-current.pem", f.Now.AddDate(-9, 0, 0))
	}), Pass, "the next, kubelet-client"},
	{"LABK052", "old", live(func(f *fake) {
		f.certificate(f.data().ServerTLS()+"/ca.crt", f.Now.AddDate(-1, 0, 0))
		f.certificate(f.data().ServerTLS()+"/admin.pem", f.Now.AddDate(-9, -6, 0))
	}), Warn, "admin.pem ends at 2027-05-22 12:00 UTC and has not been renewed"},
	{"LABK052", "ended", live(func(f *fake) {
		f.certificate(f.data().AgentTLS()+"/kubelet-client-current.pem", f.Now.AddDate(-11, 0, 0))
	}), Fail, "kubelet-client-current.pem ended at 2025-11-22"},
	{"LABK053", "server", live(func(*fake) {}), Pass, "not needed"},
	{"LABK053", "same", live(func(f *fake) { f.serverSays(0, nil) }), Pass, "like this PC's"},
	{"LABK053", "ahead", live(func(f *fake) { f.serverSays(time.Hour, nil) }), Warn, "on the server"},
	{"LABK053", "behind", live(func(f *fake) { f.serverSays(-time.Minute, nil) }), Warn, "on the server"},
	{"LABK053", "away", live(func(f *fake) { f.serverSays(time.Hour, errors.New("refused")) }), Pass, "does not answer"},
	{"LABK063", "there", live(func(f *fake) { f.Live.Address = netip.MustParseAddr("127.0.0.1") }), Pass, "127.0.0.1 on lo"},
	{"LABK063", "gone", live(func(f *fake) { f.Live.Address = netip.MustParseAddr("192.0.2.1") }), Warn, "192.0.2.1 is on no interface"},
	{"LABK063", "unknown", live(func(*fake) {}), Pass, "not known yet"},
	{"LABK080", "server", live(func(*fake) {}), Pass, "this PC is the server"},
	{"LABK080", "answers", live(func(f *fake) { f.Config.Server = "https://pc1:6443"; f.serverSays(0, nil) }), Pass, "https://pc1:6443 answers"},
	{"LABK080", "away", live(func(f *fake) { f.serverSays(0, errors.New("no route to host")) }), Warn, "no route to host"},
	{"LABK080", "not joined", live(func(f *fake) { f.serverSays(0, ErrStarting) }), Pass, "still starting"},
	{"LABK081", "well", live(func(f *fake) { f.Live.API = answer(nil) }), Pass, "answers"},
	{"LABK081", "ill", live(func(f *fake) { f.Live.API = answer(errors.New("etcd: timeout")) }), Fail, "etcd: timeout"},
	{"LABK081", "agent", live(func(*fake) {}), Pass, "not on this PC"},
	{"LABK090", "here", live(func(f *fake) { f.Live.Datastore = answer(errors.New("away")) }), Pass, "not used"},
	{"LABK090", "well", live(func(f *fake) { f.elsewhere(nil) }), Pass, "postgres://labk@db/labk answers"},
	{"LABK090", "away", live(func(f *fake) { f.elsewhere(errors.New("connection refused")) }), Fail, "connection refused"},
	{"LABK091", "none", live(func(*fake) {}), Pass, "sqlite"},
	{"LABK091", "migrated", live(func(f *fake) { f.Config.Datastore = "etcd"; f.put(f.data().EtcdFile(), "x") }), Pass, "etcd"},
	{"LABK091", "not migrated", live(func(f *fake) { f.Config.Datastore = "etcd"; f.put(f.data().Database(), "x") }), Warn, "should be in etcd"},
	{"LABK091", "not migrated back", live(func(f *fake) { f.put(f.data().EtcdFile(), "x") }), Warn, "should be in sqlite"},
	{"LABK091", "elsewhere", live(func(f *fake) { f.elsewhere(nil); f.put(f.data().EtcdFile(), "x") }), Pass, "not here"},
	{"LABK092", "SQLite", live(func(*fake) {}), Pass, "not on this PC"},
	{"LABK092", "full", live(func(f *fake) { f.Live.Room = answer(errors.New("no more writes")) }), Fail, "no more writes"},
	{"LABK093", "well", live(func(f *fake) { f.Live.Writes = answer(nil) }), Pass, "changes are taken"},
	{"LABK093", "full", live(func(f *fake) { f.Live.Writes = answer(errors.New("no space is left")) }), Fail, "no space is left"},
	{"LABK082", "ill", live(func(f *fake) { f.Live.Kubelet = answer(errors.New("no answer on port 10250")) }), Fail, "no answer on port 10250"},
	{"LABK082", "starting", live(func(f *fake) { f.Live.Kubelet = answer(ErrStarting) }), Pass, "still starting"},
	{"LABK083", "ill", live(func(f *fake) { f.Live.Runtime = answer(errors.New("refused")) }), Fail, "refused"},
	{"LABK084", "quick", live(func(f *fake) { f.Live.Slow = func() []string { return nil } }), Pass, "no component"},
	{"LABK084", "slow", live(func(f *fake) { f.Live.Slow = func() []string { return []string{"join for 2m0s"} } }), Warn, "not ready: join for 2m0s"},
}

func live(change func(*fake)) func(*fake) {
	return func(f *fake) { f.Live = &Live{}; change(f) }
}

func answer(err error) func(context.Context) error { return func(context.Context) error { return err } }

// serverSays makes the fake an agent, whose server's clock is ahead.
func (f *fake) serverSays(ahead time.Duration, err error) {
	f.Server = false
	f.Live.Server = func(context.Context) (time.Time, error) { return time.Now().Add(ahead), err }
}

// writes are how long the disk takes, one time after another.
func (f *fake) writes(took ...time.Duration) {
	f.WriteDisk = func(string) (time.Duration, error) {
		next := took[0]
		took = took[1:]
		return next, nil
	}
}

// sparse makes a file that is long and takes no room.
func (f *fake) sparse(path string, size int64) {
	f.t.Helper()
	f.put(path, "")
	if err := os.Truncate(path, size); err != nil {
		f.t.Fatal(err)
	}
}

// What only a running labk can see is not a fault of a machine where none runs.
func TestLiveProbesAreQuietAtRest(t *testing.T) {
	f := newFake(t)
	for _, p := range Probes() {
		if r := p.Run(t.Context(), f.Host); p.Live() && r.Status != Pass {
			t.Errorf("%+v", r)
		}
		if p.Live() && p.Again() == 0 {
			t.Errorf("%s is never looked at", p.Code)
		}
	}
}

// BenchmarkOften is a round of what a running labk looks at once a minute, without the questions to its own components.
func BenchmarkOften(b *testing.B) {
	var often []Probe
	for _, p := range Probes() {
		if p.Again() == Often {
			often = append(often, p)
		}
	}
	cfg := config.Default()
	cfg.DataDir = b.TempDir()
	h := ThisHost(cfg, true, time.Time{})
	h.Live = &Live{Address: netip.MustParseAddr("127.0.0.1")}
	for i := range 20 {
		writeCertificate(b, fmt.Sprintf("%s/c%d.crt", h.data().ServerTLS(), i), h.Now)
	}
	for b.Loop() {
		Run(b.Context(), h, often)
	}
}

// elsewhere makes the datastore one that answers so.
func (f *fake) elsewhere(err error) {
	f.Config.DatastoreEndpoint = "postgres://labk:pw@db/labk"
	f.Live.Datastore = answer(err)
}
