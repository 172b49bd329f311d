// Package health knows what can be wrong with a machine and with the labk that runs on it: each fault has a code, a cause and a remedy, and
// a probe that looks for it. `labk check` shows what the probes find; a server or agent runs them before it starts anything, and those whose
// answer can change again and again while it runs.
package health

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Severity is the most that a fault does.
type Severity string

// The severities.
const (
	// Fatal faults keep labk from starting, or from doing its work.
	Fatal Severity = "fatal"
	// Warning faults make something slower, weaker or absent.
	Warning Severity = "warning"
)

// Fault is something known that can be wrong. docs/faults.md lists them all.
type Fault struct {
	// Code never changes its meaning: scripts and searches depend on it.
	Code string
	// Title is the thing in question, as it follows the word "check".
	Title string
	// Cause says when this happens, Remedy what to do.
	Cause, Remedy string
	Severity      Severity
}

// Status is what a probe found.
type Status string

// The statuses.
const (
	Pass Status = "pass"
	Warn Status = "warn"
	Fail Status = "fail"
)

// Result is one probe's finding. Detail is always set; Remedy is not when the status is Pass.
type Result struct {
	Code   string `json:"code"`
	Title  string `json:"title"`
	Status Status `json:"status"`
	Detail string `json:"detail"`
	Remedy string `json:"remedy,omitempty"`
	// Late tells that the probe has not answered; its goroutine may still be there.
	Late bool `json:"-"`
}

// finding is a Result without what the probe's fault says anyway.
type finding struct {
	status         Status
	detail, remedy string
}

func pass(format string, args ...any) finding {
	return finding{status: Pass, detail: fmt.Sprintf(format, args...)}
}

func warn(format string, args ...any) finding {
	return finding{status: Warn, detail: fmt.Sprintf(format, args...)}
}

func fail(format string, args ...any) finding {
	return finding{status: Fail, detail: fmt.Sprintf(format, args...)}
}

// do replaces the fault's remedy by a more exact one.
func (f finding) do(format string, args ...any) finding {
	f.remedy = fmt.Sprintf(format, args...)
	return f
}

// Probe looks for one fault.
type Probe struct {
	Fault
	look func(ctx context.Context, h Host) finding
	// asRoot probes find nothing true for an ordinary user, who gets to read about LABK001 alone.
	asRoot bool
	// again is how often a running labk looks; zero for what cannot change meanwhile, or is in use by labk itself then.
	again time.Duration
	// live probes ask the labk that runs in this process: Host.Live.
	live bool
}

// How often a running labk looks again. A round must not cost anything that could be noticed, so what runs programs or reads all of /proc is looked
// at seldom.
const (
	Often  = time.Minute
	Seldom = time.Hour
)

// Again is how often a running labk looks for this fault: Often, Seldom, or 0 for never.
func (p Probe) Again() time.Duration { return p.again }

// Live tells whether only a running labk can look for this fault.
func (p Probe) Live() bool { return p.live }

// Run looks at the host. It changes nothing on disk, and in the kernel at most loads a module that labk needs.
func (p Probe) Run(ctx context.Context, h Host) Result {
	if p.asRoot && h.UID != 0 {
		return p.result(pass("not looked at: only root can"))
	}
	if p.live && h.Live == nil {
		return p.result(pass("not looked at: only the labk that runs can, see labk status"))
	}
	return p.result(p.look(ctx, h))
}

func (p Probe) result(f finding) Result {
	r := Result{Code: p.Code, Title: p.Title, Status: f.status, Detail: f.detail}
	if f.status != Pass {
		r.Remedy = f.remedy
		if r.Remedy == "" {
			r.Remedy = p.Remedy
		}
	}
	return r
}

// Limit is how long Run waits for its probes: longer than any takes that is going to answer.
const Limit = 10 * time.Second

// Run runs the probes all at once and returns their results in the order of the probes. One that does not end in time (a dead
// network file system can keep a process for ever) is left behind and reported as a warning.
func Run(ctx context.Context, h Host, probes []Probe) []Result {
	ctx, cancel := context.WithTimeout(ctx, Limit)
	defer cancel()
	answers := make([]chan Result, len(probes))
	for i, p := range probes {
		answers[i] = make(chan Result, 1)
		go func() { answers[i] <- p.Run(ctx, h) }()
	}
	results := make([]Result, len(probes))
	for i, p := range probes {
		select {
		case results[i] = <-answers[i]:
		case <-ctx.Done():
			results[i] = p.result(warn("no answer: %v", ctx.Err()).do("look for a file system that does not answer (df, mount)"))
			results[i].Late = true
		}
	}
	return results
}

// Error is what keeps labk from starting.
type Error struct {
	// Failed are the results with status Fail; at least one.
	Failed []Result
}

// Error implements error: one line a fault, each saying what was looked at, what is wrong and what to do.
func (e *Error) Error() string {
	lines := make([]string, len(e.Failed))
	for i, r := range e.Failed {
		lines[i] = fmt.Sprintf("check %s: %s: %s (%s)", r.Title, r.Detail, r.Remedy, r.Code)
	}
	return strings.Join(lines, "\n")
}

// Err is an *Error with the failed results, or nil when there are none.
func Err(results []Result) error {
	var failed []Result
	for _, r := range results {
		if r.Status == Fail {
			failed = append(failed, r)
		}
	}
	if len(failed) == 0 {
		return nil
	}
	return &Error{Failed: failed}
}

// HasCode tells whether err is or wraps an *Error with a fault of this code.
func HasCode(err error, code string) bool {
	var e *Error
	if !errors.As(err, &e) {
		return false
	}
	for _, r := range e.Failed {
		if r.Code == code {
			return true
		}
	}
	return false
}
