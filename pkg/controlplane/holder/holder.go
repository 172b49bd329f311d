// Package holder remembers for a moment who the holder of a client certificate is.
package holder

import (
	"crypto/sha256"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
)

// kept is how long an answer counts: as long as upstream's own about tokens. A certificate whose authority is no longer trusted is accepted for so much longer.
const kept = 10 * time.Second

// Memory is an authenticator that asks another one, and remembers its answers about client certificates for ten seconds or until they expire. Upstream verifies the
// signature anew for each request of a connection, which is a sixth of what a small one costs. Answers are shared: nobody may change them, as with tokens.
// Its method may be called concurrently.
type Memory struct {
	ask     authenticator.Request
	proxies []string // prefixes of headers
	now     func() time.Time

	mu    sync.Mutex
	known map[fingerprint]answer
}

// fingerprint is of all certificates that a client has shown.
type fingerprint [sha256.Size]byte

type answer struct {
	response *authenticator.Response
	until    time.Time
}

// New returns a memory of what ask answers. In the headers that begin as proxyHeaders do, a proxy in front says who its client is: what such requests are answered is not remembered.
func New(ask authenticator.Request, proxyHeaders ...string) *Memory {
	m := &Memory{ask: ask, now: time.Now, known: map[fingerprint]answer{}}
	for _, h := range proxyHeaders {
		m.proxies = append(m.proxies, http.CanonicalHeaderKey(h))
	}
	return m
}

// AuthenticateRequest implements authenticator.Request. Only who was recognised is remembered.
func (m *Memory) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	if !m.certificateOnly(r) {
		return m.ask.AuthenticateRequest(r)
	}
	of, now := fingerprintOf(r), m.now()
	if response := m.recall(of, now); response != nil {
		return response, true, nil
	}
	response, ok, err := m.ask.AuthenticateRequest(r)
	if !ok || err != nil {
		return response, ok, err
	}
	until := now.Add(kept)
	for _, c := range r.TLS.PeerCertificates {
		if c.NotAfter.Before(until) {
			until = c.NotAfter
		}
	}
	m.keep(of, answer{response, until}, now)
	return response, true, nil
}

func (m *Memory) recall(of fingerprint, now time.Time) *authenticator.Response {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a, ok := m.known[of]; ok && now.Before(a.until) {
		return a.response
	}
	return nil
}

// keep also forgets what no longer counts.
func (m *Memory) keep(of fingerprint, a answer, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for old, a := range m.known {
		if !now.Before(a.until) {
			delete(m.known, old)
		}
	}
	m.known[of] = a
}

func fingerprintOf(r *http.Request) (f fingerprint) {
	hash := sha256.New()
	for _, c := range r.TLS.PeerCertificates {
		hash.Write(c.Raw)
	}
	hash.Sum(f[:0])
	return f
}

// certificateOnly says whether a request has a certificate and nothing else by which its sender may be known: no token, nor what a proxy in front says.
func (m *Memory) certificateOnly(r *http.Request) bool {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return false
	}
	for name := range r.Header {
		if name == "Authorization" || name == "Sec-Websocket-Protocol" || slices.ContainsFunc(m.proxies, func(p string) bool { return strings.HasPrefix(name, p) }) {
			return false
		}
	}
	return true
}
