package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"k8s.io/client-go/rest"

	"github.com/labk/labk/pkg/lab"
)

const (
	// window is how much the server may send before it hears from the caller: more than any answer.
	window = 1 << 28
	// largestFrame is what the server may send in one piece.
	largestFrame = 1 << 20
)

// caller is a client of the API with one HTTP/2 connection and one request at a time. It is as lean as that allows, with no goroutine of its own and
// one write for each request: what it needs of the processor is missing to the server beside it. Not for several goroutines.
type caller struct {
	conn   *tls.Conn
	out    *bufio.Writer
	frames *http2.Framer
	header bytes.Buffer
	fields *hpack.Encoder

	authority string
	stream    uint32 // of the next request
	unspoken  uint32 // bytes received that the server was not yet told of
	body      bytes.Buffer
}

// protobufType is the content type of what callers send and accept.
const protobufType = "application/vnd.kubernetes.protobuf"

// newCaller connects from inside the host, with the credentials of cfg.
func newCaller(ctx context.Context, h *lab.Host, cfg *rest.Config) (*caller, error) {
	tlsConfig, err := rest.TLSConfigFor(cfg)
	if err != nil {
		return nil, err
	}
	const address = "127.0.0.1:6443"
	tlsConfig.NextProtos, tlsConfig.ServerName = []string{http2.NextProtoTLS}, "127.0.0.1"
	bare, err := h.Net().DialContext(ctx, "tcp4", address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(bare, tlsConfig)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to the API: %w", err), bare.Close())
	}
	c := &caller{conn: conn, out: bufio.NewWriterSize(conn, 16<<10), authority: address, stream: 1}
	c.frames = http2.NewFramer(c.out, bufio.NewReaderSize(conn, 64<<10))
	c.frames.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.frames.SetMaxReadFrameSize(largestFrame)
	c.frames.SetReuseFrames()
	c.fields = hpack.NewEncoder(&c.header)
	if err := c.greet(); err != nil {
		return nil, errors.Join(fmt.Errorf("connect to the API: %w", err), conn.Close())
	}
	return c, nil
}

func (c *caller) close() error { return c.conn.Close() }

// greet is the beginning of an HTTP/2 connection.
func (c *caller) greet() error {
	_, err := c.out.WriteString(http2.ClientPreface)
	return errors.Join(err,
		c.frames.WriteSettings(
			http2.Setting{ID: http2.SettingEnablePush, Val: 0},
			http2.Setting{ID: http2.SettingInitialWindowSize, Val: window},
			http2.Setting{ID: http2.SettingMaxFrameSize, Val: largestFrame},
		),
		c.frames.WriteWindowUpdate(0, window),
		c.out.Flush(),
	)
}

// do sends a request and returns the answer's body, which is valid until the next call. An answer that is no success is an error.
func (c *caller) do(method, path string, body []byte, encoding string) ([]byte, error) {
	status, answer, err := c.exchange(method, path, body, encoding)
	if err == nil && status/100 != 2 {
		err = fmt.Errorf("status %d: %q", status, answer)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, path, err)
	}
	return answer, nil
}

func (c *caller) exchange(method, path string, body []byte, encoding string) (int, []byte, error) {
	c.header.Reset()
	for _, f := range []hpack.HeaderField{
		{Name: ":method", Value: method}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: c.authority}, {Name: ":path", Value: path},
		{Name: "accept", Value: protobufType}, {Name: "content-type", Value: protobufType}, {Name: "user-agent", Value: "labk-bench"},
		{Name: "accept-encoding", Value: encoding},
	} {
		if f.Value == "" || f.Name == "content-type" && body == nil {
			continue
		}
		if err := c.fields.WriteField(f); err != nil {
			return 0, nil, err
		}
	}
	id := c.stream
	c.stream += 2
	err := c.frames.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.header.Bytes(), EndHeaders: true, EndStream: body == nil})
	if body != nil {
		err = errors.Join(err, c.frames.WriteData(id, true, body))
	}
	if err := errors.Join(err, c.out.Flush()); err != nil {
		return 0, nil, err
	}
	return c.answer(id)
}

// answer reads until the stream's end.
func (c *caller) answer(id uint32) (status int, body []byte, err error) {
	c.body.Reset()
	for {
		frame, err := c.frames.ReadFrame()
		if err != nil {
			return 0, nil, err
		}
		ended := false
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			if status, err = strconv.Atoi(f.PseudoValue("status")); err != nil {
				return 0, nil, err
			}
			ended = f.StreamEnded()
		case *http2.DataFrame:
			c.body.Write(f.Data())
			c.unspoken += f.Length
			ended = f.StreamEnded()
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = errors.Join(c.frames.WriteSettingsAck(), c.out.Flush())
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				err = errors.Join(c.frames.WritePing(true, f.Data), c.out.Flush())
			}
		case *http2.RSTStreamFrame:
			err = http2.StreamError{StreamID: f.StreamID, Code: f.ErrCode}
		case *http2.GoAwayFrame:
			err = fmt.Errorf("the server hangs up: %w", http2.ConnectionError(f.ErrCode))
		}
		if err == nil && c.unspoken > window/2 {
			err = errors.Join(c.frames.WriteWindowUpdate(0, c.unspoken), c.out.Flush())
			c.unspoken = 0
		}
		if err != nil {
			return 0, nil, err
		}
		if ended && frame.Header().StreamID == id {
			return status, c.body.Bytes(), nil
		}
	}
}

// gzipped asks for a compressed answer, as client-go does.
const gzipped = "gzip"

func (c *caller) get(path string) ([]byte, error) { return c.do(http.MethodGet, path, nil, "") }
