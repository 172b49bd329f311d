package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/labk/labk/pkg/lab"
	"github.com/labk/labk/tests/images"
)

// pcs are two PCs with a systemd and a disk of their own, on which labk is installed.
type pcs struct {
	report        *report
	first, second *lab.Host
	program, next string // in the hosts; next is empty when there is none
}

// measureInstallation measures what a person waits for: install.sh, the line that joins, an upgrade, and the removal.
func measureInstallation(ctx context.Context, o options, r *report) (err error) {
	root, err := images.HostRoot(ctx, os.Getenv("LABK_TEST_CACHE"), images.PlainHost()...)
	if err != nil {
		return err
	}
	l, err := lab.Up(ctx, lab.Options{
		Name: "bench", Subnet: "10.77.200.0/24", Hosts: 2, Opt: filepath.Dir(o.binary), OwnerBound: true, Root: root, Systemd: true,
		Each: map[int]lab.HostOptions{1: {Name: "pc1"}, 2: {Name: "pc2"}},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Down(context.WithoutCancel(ctx))) }()
	p := &pcs{report: r, first: l.Host(1), second: l.Host(2), program: inHosts(o.binary)}
	if _, err := os.Stat(o.next); err == nil && filepath.Dir(o.next) == filepath.Dir(o.binary) {
		p.next = inHosts(o.next)
	}
	script, err := os.ReadFile("install.sh")
	if err != nil {
		return fmt.Errorf("find install.sh: %w: run bench in the checkout's folder", err)
	}
	return p.measure(ctx, string(script))
}

func (p *pcs) measure(ctx context.Context, script string) error {
	err := p.timed(rowInstall, func() error {
		cmd := p.first.Command(ctx, "env", "LABK_BINARY="+p.program, "sh", "-s")
		cmd.Stdin = strings.NewReader(script)
		return explained(cmd, nil)
	})
	if err != nil {
		return err
	}
	line, err := p.run(ctx, p.first, "labk token create --print-join")
	if err != nil {
		return err
	}
	err = p.timed(rowJoinLine, func() error {
		if _, err := p.run(ctx, p.second, line); err != nil {
			return err
		}
		_, err := p.run(ctx, p.first, "kubectl wait --for=condition=Ready node/pc2 --timeout=60s")
		return err
	})
	if err != nil {
		return err
	}
	// Something to remove: pods on both.
	_, err = p.run(ctx, p.first, "kubectl create deployment hello --image=docker.io/labk/hello:1 --replicas=6 && kubectl rollout status deployment/hello --timeout=60s")
	if err != nil {
		return err
	}
	if p.next != "" {
		if err := p.measureUpgrade(ctx); err != nil {
			return err
		}
	}
	for _, h := range []*lab.Host{p.second, p.first} {
		if err := p.timed(rowUninstall, func() error { _, err := p.run(ctx, h, "labk uninstall --yes"); return err }); err != nil {
			return err
		}
	}
	return nil
}

// measureUpgrade upgrades the server, and tells for how long its API gave no answer.
func (p *pcs) measureUpgrade(ctx context.Context) error {
	asking, stop := context.WithCancel(ctx)
	defer stop()
	away := make(chan time.Duration, 1)
	go func() { away <- p.longestSilence(asking) }()
	err := p.timed(rowUpgrade, func() error { _, err := p.run(ctx, p.first, "labk upgrade --from "+p.next); return err })
	stop()
	p.report.add(rowUpgradeAway, sample{Value: (<-away).Seconds()})
	return err
}

// longestSilence asks /readyz until ctx ends and returns the longest time between two answers.
func (p *pcs) longestSilence(ctx context.Context) (longest time.Duration) {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{
		DialContext:       p.first.Net().DialContext,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // whether it answers is all that is asked
		DisableKeepAlives: true,
	}}
	last := time.Now()
	for ctx.Err() == nil {
		if readyz(client) {
			longest = max(longest, time.Since(last))
			last = time.Now()
		}
		_ = pause(ctx, 2*poll)
	}
	return longest
}

func (p *pcs) timed(row string, f func() error) error {
	began := time.Now()
	err := f()
	if err == nil {
		p.report.add(row, sample{Value: time.Since(began).Seconds()})
	}
	return err
}

// run runs a script in a host, as a person at its terminal would, and returns what it prints.
func (p *pcs) run(ctx context.Context, h *lab.Host, script string) (string, error) {
	var out bytes.Buffer
	err := explained(h.Command(ctx, "bash", "-c", script), &out)
	return strings.TrimSpace(out.String()), err
}

// explained runs a command; its error contains what it complained about.
func explained(cmd *lab.Cmd, out *bytes.Buffer) error {
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	if out != nil {
		cmd.Stdout = out
	}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, complaint.String())
	}
	return nil
}
