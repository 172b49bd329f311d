package logging

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

func TestOneFormat(t *testing.T) {
	var out bytes.Buffer
	s := NewSink(&out, true)
	s.Capture()
	klog.InfoS("from klog", "pod", klog.KRef("default", "a"))
	logrus.WithError(errors.New("why not")).Warn("from logrus")
	s.Logger().With("a", 1).WithGroup("g").Info("from slog", "b", "two words", slog.Group("in", "c", ""))
	s.Component("kubernetes").Log(t.Context(), slog.LevelInfo-1, "verbose")
	klog.Flush()
	want := []string{
		`INFO  \[kubernetes\] from klog pod\.name=a pod\.namespace=default`,
		`WARN  \[containerd\] from logrus error="why not"`,
		`INFO  from slog a=1 g\.b="two words" g\.in\.c=""`,
		`DEBUG \[kubernetes\] verbose`,
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != len(want) {
		t.Fatalf("got %q", lines)
	}
	for i, w := range want {
		if !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\S+ ` + w + `$`).MatchString(lines[i]) {
			t.Errorf("got %q, want %s", lines[i], w)
		}
	}
}

func TestComponentsAreQuiet(t *testing.T) {
	var out bytes.Buffer
	s := NewSink(&out, false)
	c := s.Component("kubernetes")
	c.Info("chatter")
	c.Error("too early")
	s.Logger().Info("ours")
	if strings.Contains(out.String(), "chatter") || strings.Contains(out.String(), "too early") || !strings.Contains(out.String(), "ours") {
		t.Errorf("got %q", out.String())
	}
	if held := s.Held(); len(held) != 1 || !strings.Contains(held[0], "too early") {
		t.Errorf("held %q", held)
	}
}

func TestHeldIsBounded(t *testing.T) {
	s := NewSink(&bytes.Buffer{}, false)
	for range 3 * held {
		s.Component("kubernetes").Error("again")
	}
	if n := len(s.Held()); n != held {
		t.Errorf("held %d", n)
	}
}

func TestFatalDoesNotEndTheProcess(t *testing.T) {
	s := NewSink(&bytes.Buffer{}, false)
	s.Capture()
	for _, give := range []func(...any){klog.Fatal, logrus.Fatal} {
		go func() { give("cannot go on") }()
		if err := <-s.Fatal(); !strings.Contains(err.Error(), "logging.TestFatal") {
			t.Errorf("got %v", err)
		}
	}
}

// The kubelet says these and then calls os.Exit, which would end this test too.
func TestLastWords(t *testing.T) {
	for _, words := range lastWords {
		s := NewSink(&bytes.Buffer{}, false)
		s.Capture()
		go func() {
			klog.Background().Error(errors.New("too many open files"), words)
			os.Exit(1)
		}()
		if err := <-s.Fatal(); !strings.Contains(err.Error(), words) || !strings.Contains(err.Error(), "too many open files") {
			t.Errorf("got %v", err)
		}
	}
}
