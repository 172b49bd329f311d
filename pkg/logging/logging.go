// Package logging brings what labk and its components say into one stream with one format: klog (Kubernetes, flannel), logrus
// (containerd, kine), the standard library's log and slog.
package logging

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"
)

// held is how many of the components' complaints a Sink keeps.
const held = 40

// kubernetes is the component that klog's records are of.
const kubernetes = "kubernetes"

// Sink is where every record of the process ends. Without debug, of the components' records only errors count, and of these the last are kept
// in memory: components call errors what is daily life, such as a thing that is still starting or already gone, and what a
// person must know of a pod or a node is in its events. All methods may be called concurrently.
type Sink struct {
	debug bool

	fatal chan error

	mu   sync.Mutex
	w    io.Writer
	ring []string
}

// NewSink returns a sink that writes lines to w.
func NewSink(w io.Writer, debug bool) *Sink {
	return &Sink{w: w, debug: debug, fatal: make(chan error, 1)}
}

// Logger returns the logger of labk's own code: everything from Info on is written, with debug from Debug on.
func (s *Sink) Logger() *slog.Logger {
	level := slog.LevelInfo
	if s.debug {
		level = slog.LevelDebug
	}
	return slog.New(&handler{sink: s, level: level})
}

// Component returns the logger of an upstream component.
func (s *Sink) Component(name string) *slog.Logger {
	level := slog.LevelError
	if s.debug {
		level = slog.LevelDebug
	}
	return slog.New(&handler{sink: s, level: level, component: name})
}

// Capture directs klog, logrus and the standard library's log into the sink. These are one per process, so it is called once.
//
// Upstream ends the process from anywhere, by klog.Fatal and logrus.Fatal. Here that is one more way to fail: Fatal tells of it, and the goroutine
// that meant to end the process waits for its end.
func (s *Sink) Capture() {
	klog.SetSlogLogger(s.Component(kubernetes))
	klog.OsExit = s.exit
	logrus.StandardLogger().ExitFunc = s.exit
	logrus.SetOutput(io.Discard)
	logrus.SetLevel(logrus.ErrorLevel)
	if s.debug {
		logrus.SetLevel(logrus.InfoLevel)
	}
	logrus.AddHook(logrusHook{s.Component("containerd")})
	std := s.Component("log")
	log.SetFlags(0)
	log.SetOutput(lineWriter(func(line string) { std.Error(line) }))
}

// Fatal yields an error when a component wanted to end the process.
func (s *Sink) Fatal() <-chan error { return s.fatal }

func (s *Sink) exit(int) {
	s.giveUp(fmt.Errorf("%s gave up: `labk server --debug` shows why", culprit()))
}

// giveUp tells of the error and never returns.
func (s *Sink) giveUp(err error) {
	select {
	case s.fatal <- err:
	default:
	}
	select {}
}

// lastWords are what upstream's kubelet says right before it calls os.Exit, without any Fatal (Kubelet.initializeRuntimeDependentModules and Run). That must not end the process
// silently either: whoever says it does not come back from saying it.
var lastWords = [...]string{"Failed to start cAdvisor", "Kubelet failed to get node info", "Failed to start ContainerManager", "Failed to initialize internal modules"}

// culprit is the function that called klog's or logrus' Fatal. klog hands its last words on as ordinary information, so that they are seen at --debug only.
func culprit() string {
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	for {
		f, more := frames.Next()
		if f.Function != "" && !strings.Contains(f.Function, "k8s.io/klog/") && !strings.Contains(f.Function, "sirupsen/logrus.") {
			return f.Function
		}
		if !more {
			return "a component"
		}
	}
}

// Held returns the components' last errors oldest first: the likely reasons when a start fails. With debug they have been written already.
func (s *Sink) Held() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.ring...)
}

func (s *Sink) write(line string, component bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if component && !s.debug {
		if len(s.ring) == held {
			s.ring = s.ring[1:]
		}
		s.ring = append(s.ring, line)
		return
	}
	io.WriteString(s.w, line)
}

// handler formats a record as one line: time, level, component, message, key=value...
type handler struct {
	sink      *Sink
	level     slog.Level
	component string
	prefix    string // of groups
	attrs     string // already formatted
}

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %-5s ", r.Time.Format("2006-01-02T15:04:05.000Z07:00"), levelName(r.Level))
	if h.component != "" {
		fmt.Fprintf(&b, "[%s] ", h.component)
	}
	b.WriteString(strings.ReplaceAll(strings.TrimSpace(r.Message), "\n", " ⏎ "))
	b.WriteString(h.attrs)
	b.WriteString(attrs(r, h.prefix))
	b.WriteByte('\n')
	h.sink.write(b.String(), h.component != "")
	if h.component == kubernetes && slices.Contains(lastWords[:], r.Message) {
		h.sink.giveUp(fmt.Errorf("the kubelet gave up: %s%s", r.Message, attrs(r, "")))
	}
	return nil
}

// attrs are the record's attributes, each after a space.
func attrs(r slog.Record, prefix string) string {
	var text string
	r.Attrs(func(a slog.Attr) bool {
		text += format(prefix, a)
		return true
	})
	return text
}

// levelName names the level that l reaches; klog's V levels lie between slog's.
func levelName(l slog.Level) slog.Level {
	for _, named := range []slog.Level{slog.LevelError, slog.LevelWarn, slog.LevelInfo} {
		if l >= named {
			return named
		}
	}
	return slog.LevelDebug
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	for _, a := range attrs {
		c.attrs += format(h.prefix, a)
	}
	return &c
}

func (h *handler) WithGroup(name string) slog.Handler {
	c := *h
	c.prefix += name + "."
	return &c
}

func format(prefix string, a slog.Attr) string {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		var out string
		for _, in := range v.Group() {
			out += format(prefix+a.Key+".", in)
		}
		return out
	}
	text := v.String()
	if text == "" || strings.ContainsAny(text, " \"=\n\t") {
		text = strconv.Quote(text)
	}
	return " " + prefix + a.Key + "=" + text
}

// logrusHook hands logrus' entries to slog; logrus' own output is discarded.
type logrusHook struct{ to *slog.Logger }

func (logrusHook) Levels() []logrus.Level { return logrus.AllLevels }

func (h logrusHook) Fire(e *logrus.Entry) error {
	level := slog.LevelInfo
	switch e.Level {
	case logrus.PanicLevel, logrus.FatalLevel, logrus.ErrorLevel:
		level = slog.LevelError
	case logrus.WarnLevel:
		level = slog.LevelWarn
	case logrus.DebugLevel, logrus.TraceLevel:
		level = slog.LevelDebug
	}
	attrs := make([]slog.Attr, 0, len(e.Data))
	for k, v := range e.Data {
		attrs = append(attrs, slog.Any(k, v))
	}
	h.to.LogAttrs(context.Background(), level, e.Message, attrs...)
	return nil
}

type lineWriter func(string)

func (w lineWriter) Write(p []byte) (int, error) {
	w(string(p))
	return len(p), nil
}
