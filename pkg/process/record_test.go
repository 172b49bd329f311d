package process

import (
	"errors"
	"os"
	"testing"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/paths"
)

func TestRecord(t *testing.T) {
	data := paths.Data(t.TempDir())
	read := func() *Record {
		t.Helper()
		r, err := ReadRecord(data)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := read(); r != nil {
		t.Errorf("before the first run: %+v", r)
	}
	o := Options{Config: &config.Config{NodeName: "pc1"}, Host: health.Host{Server: true}}
	running := began(o, data)
	if r := read(); r == nil || r.Role != "server" || r.Node != "pc1" || r.Began.IsZero() || !r.Ended.IsZero() {
		t.Errorf("of one that runs, or was killed: %+v", r)
	}
	running.end(data, errors.New("kubelet ended"))
	if r := read(); r.Ended.IsZero() || r.Error != "kubelet ended" {
		t.Errorf("after its end: %+v", r)
	}
	o.Host.Server = false
	began(o, data)
	if r := read(); r.Role != "agent" || !r.Ended.IsZero() || r.Error != "" {
		t.Errorf("of the next run: %+v", r)
	}
	if err := os.WriteFile(data.LastRun(), []byte(`{"role":"ser`), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := read(); r != nil {
		t.Errorf("torn by a power cut: %+v", r)
	}
}
