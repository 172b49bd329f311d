package cli

import (
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/lifecycle"
)

// patience is after how long, and then how often, a line says what is still being waited for.
const patience = 10 * time.Second

// atOnce is how soon a step is done that is not worth a line.
const atOnce = 50 * time.Millisecond

// progress shows a person how a start goes: a line for each step done and, on a terminal, a spinner with the steps under way.
type progress struct {
	began time.Time
	debug bool

	mu      sync.Mutex
	w       io.Writer
	spin    bool
	waiting []string
	spins   int
	told    time.Time
	stop    chan struct{}
	done    sync.WaitGroup
	over    bool
}

func newProgress(w io.Writer, debug bool) *progress {
	file, ok := w.(*os.File)
	p := &progress{w: w, debug: debug, began: time.Now(), told: time.Now(), stop: make(chan struct{}), spin: ok && !debug && term.IsTerminal(int(file.Fd()))}
	p.done.Go(p.animate)
	return p
}

func (p *progress) animate() {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.mu.Lock()
			p.spins++
			if p.spin {
				p.drawSpinner()
			} else if len(p.waiting) > 0 && time.Since(p.told) > patience {
				p.line("still waiting for %s", strings.Join(p.waiting, ", "))
			}
			p.mu.Unlock()
		case <-p.stop:
			return
		}
	}
}

func (p *progress) drawSpinner() {
	if len(p.waiting) == 0 {
		return
	}
	frames := []rune("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏")
	fmt.Fprintf(p.w, "\r\033[K%c %s", frames[p.spins%len(frames)], strings.Join(p.waiting, ", "))
}

// line prints a line with the time since the beginning; the caller holds mu.
func (p *progress) line(format string, args ...any) {
	p.told = time.Now()
	if p.spin {
		fmt.Fprint(p.w, "\r\033[K")
	}
	fmt.Fprintf(p.w, "[%5.1fs] %s\n", time.Since(p.began).Seconds(), fmt.Sprintf(format, args...))
}

func (p *progress) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.line(format, args...)
}

// observe is a lifecycle observer.
func (p *progress) observe(e lifecycle.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = slices.DeleteFunc(p.waiting, func(s string) bool { return s == e.Component })
	switch e.State {
	case lifecycle.Starting:
		p.waiting = append(p.waiting, e.Component)
	case lifecycle.Ready:
		if e.Took < atOnce && !p.debug {
			return // nobody waited for it
		}
		p.line("%-24s ready after %.1f s", e.Component, e.Took.Seconds())
	case lifecycle.Failed:
		p.line("%-24s failed: %v", e.Component, e.Err)
	case lifecycle.Stopped:
		if e.Err != nil || e.Took > time.Second {
			p.line("%-24s stopped after %.1f s", e.Component, e.Took.Seconds())
		}
	}
}

// labUp says that a lab is up and what to do next.
func (p *progress) labUp(nodes []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = nil
	p.line("the lab is up; its nodes are %s", strings.Join(nodes, ", "))
	last := nodes[len(nodes)-1]
	for _, next := range [][2]string{
		{"kubectl get nodes", "any kubectl command, with this PC's files"},
		{"exec " + last + " -- CMD", "a command in a host, or a shell"},
		{"kill " + last, "a power cut; boot, cut and mend too"},
		{"status", "hosts, cables, processes and nodes"},
		{"down", "ends it and leaves nothing behind"},
	} {
		p.line("  labk lab %-22s %s", next[0], next[1])
	}
}

// up says that everything is ready and, on a server, what to do next.
func (p *progress) up(role string, node net.IP, cfg *config.Config) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting = nil
	if role == "agent" {
		p.line("this PC is the node %s (%s) of the cluster at %s", cfg.NodeName, node, cfg.Server)
		return
	}
	p.line("the cluster is up on %s; kubeconfig: %s", node, cfg.WriteKubeconfig)
	p.line("next: labk kubectl get nodes; on another PC: labk agent --server https://%s:%d --token TOKEN, with one of `labk token create`", node, cfg.HTTPSListenPort)
}

// end stops the spinner.
func (p *progress) end() {
	p.mu.Lock()
	over := p.over
	p.over = true
	if p.spin {
		fmt.Fprint(p.w, "\r\033[K")
	}
	p.mu.Unlock()
	if !over {
		close(p.stop)
		p.done.Wait()
	}
}
