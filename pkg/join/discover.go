package join

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"
)

const (
	// dialTimeout bounds one attempt to reach the server.
	dialTimeout = 5 * time.Second
	// clockTolerance is by how much this PC's clock may differ from the server's: certificates begin five minutes before they are made.
	clockTolerance = 4 * time.Minute
)

// unreachableError is a server that can't be reached now, and perhaps can in a moment.
type unreachableError struct{ error }

// findServer connects to the server and returns its CA as PEM. It knows the CA by its hash and the server by its name, and sends nothing but TLS's own
// greeting before both are right. An unreachableError may pass; any other error stays until somebody does something.
func findServer(ctx context.Context, server *url.URL, caHash string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*dialTimeout)
	defer cancel()
	pin := &pin{host: server.Hostname(), hash: caHash}
	transport := &http.Transport{
		DialContext:       (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSClientConfig:   &tls.Config{MinVersion: tls.VersionTLS12, ServerName: pin.host, InsecureSkipVerify: true, VerifyConnection: pin.verify},
		DisableKeepAlives: true, ForceAttemptHTTP2: true,
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.JoinPath("livez").String(), nil)
	if err != nil {
		return nil, err
	}
	response, err := transport.RoundTrip(request)
	if pin.err != nil {
		return nil, pin.err
	}
	if err != nil {
		var notTLS tls.RecordHeaderError
		if errors.As(err, &notTLS) {
			return nil, fmt.Errorf("it does not speak TLS: name the address and port of a labk server, such as https://first-pc:6443")
		}
		return nil, unreachableError{err}
	}
	response.Body.Close()
	if err := checkClock(response.Header.Get("Date"), time.Now(), pin.leaf); err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pin.ca.Raw}), nil
}

// pin verifies a connection by the CA's hash.
type pin struct {
	host, hash string

	ca, leaf *x509.Certificate
	err      error
}

// verify does not look at the clock: this PC's may be wrong, and only a server that is the right one can tell.
func (p *pin) verify(s tls.ConnectionState) error {
	p.err = p.check(s.PeerCertificates)
	return p.err
}

func (p *pin) check(chain []*x509.Certificate) error {
	if len(chain) == 0 {
		return errors.New("it shows no certificate")
	}
	for _, c := range chain {
		if c.IsCA && CAHash(c) == p.hash {
			p.ca = c
		}
	}
	last := chain[len(chain)-1]
	if p.ca == nil && last.IsCA {
		return fmt.Errorf("it is not the server that the token is for: the token names the CA %.12s..., and the server's is %.12s...: copy the token of this server, or correct --server", p.hash, CAHash(last))
	}
	if p.ca == nil {
		return errors.New("it is not a labk server: it does not show its certificate authority: correct --server, it needs the address and port of a labk server")
	}
	p.leaf = chain[0]
	roots := x509.NewCertPool()
	roots.AddCert(p.ca)
	_, err := p.leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: p.leaf.NotBefore.Add(time.Second)})
	if err != nil {
		return fmt.Errorf("its certificate is not good: %w", err)
	}
	if err := p.leaf.VerifyHostname(p.host); err != nil {
		return fmt.Errorf("its certificate is not for %s: use one of its names or addresses (%s), or start the server with --tls-san %s", p.host, names(p.leaf), p.host)
	}
	return nil
}

func names(c *x509.Certificate) string {
	out := ""
	for _, ip := range c.IPAddresses {
		if !ip.IsLoopback() {
			out += ip.String() + ", "
		}
	}
	if len(c.DNSNames) > 0 {
		out += c.DNSNames[len(c.DNSNames)-1]
	}
	return out
}

// checkClock compares this PC's clock with the server's Date header and with the server's certificate.
func checkClock(date string, now time.Time, leaf *x509.Certificate) error {
	theirs, err := http.ParseTime(date)
	if err != nil {
		return nil // nothing to compare with; what does not fit fails later
	}
	apart := now.Sub(theirs)
	wrong := apart < -clockTolerance || now.Before(leaf.NotBefore) || now.After(leaf.NotAfter)
	switch {
	case wrong && apart.Abs() > clockTolerance:
		return fmt.Errorf("this PC's clock says %s, the server's %s: set the clock that is wrong (timedatectl set-ntp true, or date --set), here or there",
			stamp(now), stamp(theirs))
	case wrong:
		return fmt.Errorf("the server's certificate is valid from %s to %s, and both clocks say %s: set the clocks, or start the server again to renew it",
			stamp(leaf.NotBefore), stamp(leaf.NotAfter), stamp(now))
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
