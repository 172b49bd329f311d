// Package status says how the labk of this PC is: what runs, what it waits for, what is wrong. The labk that runs looks for faults again and again,
// tells of them (node events, metrics) and answers GET /status on the control socket; AtRest says what the data folder tells when none runs.
package status

import (
	"time"

	"github.com/labk/labk/pkg/health"
	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/process"
)

// State is how a labk is as a whole.
type State string

// The states.
const (
	Starting State = "starting"
	Up       State = "up"
	Stopping State = "stopping"
	// Stopped is that no labk runs.
	Stopped State = "stopped"
)

// Status is what labk status prints.
type Status struct {
	State State `json:"state"`
	// Role is server or agent; empty where none has ever run.
	Role    string `json:"role,omitempty"`
	Version string `json:"version,omitempty"`
	// PID and Since are those of the process; zero for Stopped.
	PID   int       `json:"pid,omitempty"`
	Since time.Time `json:"since,omitzero"`
	// Node is the name of this PC's node, Address its address.
	Node    string `json:"node,omitempty"`
	Address string `json:"address,omitempty"`
	// Server is the one that an agent belongs to.
	Server  string `json:"server,omitempty"`
	DataDir string `json:"dataDir"`
	// Components are those of the process, in the order of its start.
	Components []Component `json:"components,omitempty"`
	// Nodes are the cluster's; an agent knows only its own. NodesError is why they are not known.
	Nodes      []Node `json:"nodes,omitempty"`
	NodesError string `json:"nodesError,omitempty"`
	// Datastore is nil where there is none yet, and on an agent.
	Datastore *Datastore `json:"datastore,omitempty"`
	// Snapshots is nil where none are made.
	Snapshots    *Snapshots    `json:"snapshots,omitempty"`
	Certificates []Certificate `json:"certificates,omitempty"`
	// Faults are the results of probes that did not pass.
	Faults []health.Result `json:"faults"`
	// Last is the last run, when none runs.
	Last *process.Record `json:"last,omitempty"`
}

// Component is a part of the process.
type Component struct {
	Name  string          `json:"name"`
	State lifecycle.State `json:"state"`
	// Since is when the state began; zero for waiting.
	Since time.Time `json:"since,omitzero"`
	// WaitsFor names what a waiting one comes after.
	WaitsFor []string `json:"waitsFor,omitempty"`
	Error    string   `json:"error,omitempty"`
}

// Node is a node of the cluster as the API knows it.
type Node struct {
	Name    string `json:"name"`
	Ready   bool   `json:"ready"`
	Address string `json:"address,omitempty"`
	Version string `json:"version"`
	// Cordoned tells that no new pods come to it.
	Cordoned bool      `json:"cordoned,omitempty"`
	Since    time.Time `json:"since"`
}

// Datastore is what a server keeps the cluster in.
type Datastore struct {
	// Kind is one of config's constants: sqlite, etcd, postgres, mysql.
	Kind string `json:"kind"`
	// File is the database on this PC, Bytes its size.
	File  string `json:"file,omitempty"`
	Bytes int64  `json:"bytes,omitempty"`
	// Place is the URL of one elsewhere, without its password.
	Place string `json:"place,omitempty"`
}

// Snapshots is how those of the cluster stand.
type Snapshots struct {
	// Newest is its name, empty if there is none; Created when it was made.
	Newest  string    `json:"newest,omitempty"`
	Created time.Time `json:"created,omitzero"`
	Objects int64     `json:"objects,omitempty"`
	// Next is when the next is due; zero without a schedule.
	Next time.Time `json:"next,omitzero"`
	// Holder is the other node that has a copy of the newest; empty if none has.
	Holder string `json:"holder,omitempty"`
	Folder string `json:"folder"`
}

// Certificate is one of this PC's.
type Certificate struct {
	Name  string    `json:"name"`
	File  string    `json:"file"`
	Until time.Time `json:"until"`
}

// Well tells whether labk runs, is up and has no fault that keeps it from its work.
func (s Status) Well() bool { return s.State == Up && health.Err(s.Faults) == nil }
