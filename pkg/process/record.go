package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/paths"
	"github.com/labk/labk/pkg/version"
)

// Record is what a run leaves in the data folder, for people who ask later how it ended.
type Record struct {
	Role    string    `json:"role"`
	Version string    `json:"version"`
	Node    string    `json:"node"`
	Began   time.Time `json:"began"`
	// Ended is zero while labk runs, and after an end that it did not live to see: killed, or a power cut.
	Ended time.Time `json:"ended,omitzero"`
	// Error is why it ended by itself; empty when it was asked to.
	Error string `json:"error,omitempty"`
}

// Role is what runs on this machine: server or agent.
func Role(h health.Host) string {
	if h.Server {
		return "server"
	}
	return "agent"
}

// ReadRecord reads the record of the last run; it is nil where there was none.
func ReadRecord(data paths.Data) (*Record, error) {
	text, err := os.ReadFile(data.LastRun())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read how labk last ended: %w: run this as root", err)
	}
	r := new(Record)
	if json.Unmarshal(text, r) != nil {
		return nil, nil // cut off by a power cut: as good as none
	}
	return r, nil
}

// began writes the record of a run that begins. labk does not fail for want of it: a full disk has a fault of its own.
func began(o Options, data paths.Data) Record {
	r := Record{Role: Role(o.Host), Version: version.Version, Node: o.Config.NodeName, Began: time.Now().UTC()}
	r.write(data)
	return r
}

// end writes how the run ended.
func (r Record) end(data paths.Data, err error) {
	r.Ended = time.Now().UTC()
	if err != nil {
		r.Error = err.Error()
	}
	r.write(data)
}

func (r Record) write(data paths.Data) {
	text, err := json.Marshal(r)
	if err == nil {
		_ = paths.WriteFile(data.LastRun(), append(text, '\n'), 0o600)
	}
}
