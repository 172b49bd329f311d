package etcd

import (
	"context"
	"fmt"
	"log/slog"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// bridge hands etcd's records to slog. Where etcd would end the process, it tells of the failure, and whoever wanted to end everything waits for the end.
type bridge struct {
	log    *slog.Logger
	fields []zapcore.Field
	gaveUp chan error
}

func newBridge(log *slog.Logger) *bridge {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &bridge{log: log, gaveUp: make(chan error, 1)}
}

func (b *bridge) logger() *zap.Logger {
	return zap.New(b, zap.WithFatalHook(b), zap.WithPanicHook(b))
}

// Enabled implements zapcore.Core.
func (b *bridge) Enabled(l zapcore.Level) bool {
	return b.log.Enabled(context.Background(), level(l))
}

// With implements zapcore.Core.
func (b *bridge) With(fields []zapcore.Field) zapcore.Core {
	c := *b
	c.fields = append(c.fields[:len(c.fields):len(c.fields)], fields...)
	return &c
}

// Check implements zapcore.Core.
func (b *bridge) Check(e zapcore.Entry, to *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) {
		return to.AddCore(e, b)
	}
	return to
}

// Write implements zapcore.Core.
func (b *bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	b.log.LogAttrs(context.Background(), level(e.Level), "etcd: "+e.Message, attrs(append(b.fields[:len(b.fields):len(b.fields)], fields...))...)
	return nil
}

// Sync implements zapcore.Core.
func (b *bridge) Sync() error { return nil }

// OnWrite implements zapcore.CheckWriteHook for records that end the process, and never returns.
func (b *bridge) OnWrite(e *zapcore.CheckedEntry, fields []zapcore.Field) {
	err := fmt.Errorf("etcd gave up: %s", e.Message)
	for _, a := range attrs(fields) {
		if a.Key == "error" {
			err = fmt.Errorf("%w: %s", err, a.Value)
		}
	}
	select {
	case b.gaveUp <- err:
	default:
	}
	select {}
}

func attrs(fields []zapcore.Field) []slog.Attr {
	out := make([]slog.Attr, 0, len(fields))
	for _, f := range fields {
		values := zapcore.NewMapObjectEncoder()
		f.AddTo(values)
		for key, value := range values.Fields {
			out = append(out, slog.Any(key, value))
		}
	}
	return out
}

func level(l zapcore.Level) slog.Level {
	switch {
	case l >= zapcore.ErrorLevel:
		return slog.LevelError
	case l == zapcore.WarnLevel:
		return slog.LevelWarn
	case l == zapcore.InfoLevel:
		return slog.LevelInfo
	}
	return slog.LevelDebug
}
