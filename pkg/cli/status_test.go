package cli

import (
	"strings"
	"testing"
	"time"

	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/process"
	"github.com/labk/labk/pkg/status"
)

func TestShowStatus(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.Local)
	began := now.Add(-3 * time.Hour)
	for name, tc := range map[string]struct {
		s    status.Status
		want []string // lines, with single spaces
	}{
		"server": {status.Status{
			State: status.Up, Role: "server", Version: "v1", PID: 7, Since: began, Node: "pc1", Address: "192.168.1.10",
			Components:   []status.Component{{Name: "kubelet", State: lifecycle.Ready}},
			Nodes:        []status.Node{{Name: "pc1", Ready: true, Address: "192.168.1.10", Version: "v1", Since: began}, {Name: "pc2", Cordoned: true, Version: "v0", Since: began}},
			Datastore:    &status.Datastore{File: "/d/state.db", Bytes: 3 << 20},
			Certificates: []status.Certificate{{Name: "ca", Until: now.AddDate(9, 0, 0)}, {Name: "admin", Until: now.AddDate(1, 0, 0)}},
		}, []string{
			"labk server up v1, pid 7, since 2026-11-22 09:00:00 (3 h)", "node pc1, 192.168.1.10", "datastore 3.0 MiB /d/state.db",
			"certificates 2 admin ends first, at 2027-11-22 12:00:00", "components 1 of 1 ready",
			"nodes Ready pc1 192.168.1.10 v1 3 h", "NotReady, cordoned pc2 v0 3 h", "faults none",
		}},
		"agent that starts": {status.Status{
			State: status.Starting, Role: "agent", Version: "v1", PID: 7, Since: now.Add(-5 * time.Second), Node: "pc2", Server: "https://pc1:6443", NodesError: "no route",
			Components: []status.Component{
				{Name: "faults", State: lifecycle.Ready}, {Name: "join", State: lifecycle.Starting, Since: now.Add(-90 * time.Second)},
				{Name: "kubelet", State: lifecycle.Waiting, WaitsFor: []string{"containerd", "join"}}, {Name: "x", State: lifecycle.Failed, Since: now, Error: "crashed"},
			},
			Certificates: []status.Certificate{{Name: "machine", Until: now.Add(-time.Hour)}},
			Faults:       []health.Result{{Code: "LABK084", Title: "start", Status: health.Warn, Detail: "not ready: join", Remedy: "wait"}},
		}, []string{
			"labk agent starting v1, pid 7, since 2026-11-22 11:59:55 (5 s)", "node pc2, of the cluster at https://pc1:6443", "certificates 1 machine ended first, at 2026-11-22 11:00:00",
			"components 1 of 4 ready", "starting join, for 1 min", "waiting kubelet, for containerd, join", "failed x: crashed, for 0 s", "nodes unknown no route",
			"faults warn LABK084 start: not ready: join", "-> wait",
		}},
		"never run": {status.Status{State: status.Stopped, DataDir: "/d"}, []string{"labk does not run nor has it run with the data folder /d", "faults none"}},
		"stopped": {status.Status{State: status.Stopped, Role: "server", Last: &process.Record{Version: "v1", Began: began, Ended: now.Add(-time.Minute)}}, []string{
			"labk server does not run v1 began at 2026-11-22 09:00:00 and was stopped at 2026-11-22 11:59:00 (1 min ago)", "faults none",
		}},
		"ended": {status.Status{State: status.Stopped, Role: "server", Last: &process.Record{Version: "v1", Began: began, Ended: now.AddDate(0, 0, -3), Error: "kubelet ended"}}, []string{
			"labk server does not run v1 began at 2026-11-22 09:00:00 and ended at 2026-11-19 12:00:00 (3 days ago): kubelet ended", "faults none",
		}},
		"killed": {status.Status{State: status.Stopped, Role: "agent", Last: &process.Record{Version: "v1", Began: began}}, []string{
			"labk agent does not run v1 began at 2026-11-22 09:00:00 and did not end in order: it was killed, or the power was cut", "faults none",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			if err := showStatus(&out, tc.s, now); err != nil {
				t.Fatal(err)
			}
			var got []string
			for line := range strings.Lines(out.String()) {
				got = append(got, strings.Join(strings.Fields(line), " "))
			}
			if strings.Join(got, "\n") != strings.Join(tc.want, "\n") {
				t.Errorf("got:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
			}
		})
	}
}
