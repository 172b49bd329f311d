package join

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
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

// findServer connects to the server and returns those of the CAs of the trust that its certificate comes from. It knows the server by one of these and by its name, and
// sends nothing but TLS's own greeting before both are right. An unreachableError may pass; any other error stays until somebody does something.
func findServer(ctx context.Context, server *url.URL, t trust) ([]*x509.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*dialTimeout)
	defer cancel()
	pin := &pin{host: server.Hostname(), trust: t}
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
	return pin.cas, nil
}

// pin verifies a connection by hashes of CAs. One is enough: a server whose authority was changed shows the present one, the one of before, and what binds the two.
type pin struct {
	host  string
	trust trust

	cas  []*x509.Certificate // those that are right, in the order of the trust's hashes
	leaf *x509.Certificate
	err  error
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
	p.leaf = chain[0]
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	var bad error
	for _, hash := range p.trust.hashes() {
		ca := named(chain, hash)
		if ca == nil {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(ca)
		_, err := p.leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: p.leaf.NotBefore.Add(time.Second)})
		if err != nil {
			bad = fmt.Errorf("its certificate is not good: %w", err)
			continue
		}
		p.cas = append(p.cas, ca)
	}
	last := chain[len(chain)-1]
	switch {
	case len(p.cas) > 0:
	case bad != nil:
		return bad
	case last.IsCA:
		return p.trust.refuse(CAHash(last))
	default:
		return errors.New("it is not a labk server: it does not show its certificate authority: correct --server, it needs the address and port of a labk server")
	}
	if err := p.leaf.VerifyHostname(p.host); err != nil {
		return fmt.Errorf("its certificate is not for %s: use one of its names or addresses (%s), or start the server with --tls-san %s", p.host, names(p.leaf), p.host)
	}
	return nil
}

// refuse is the error of a server that shows another CA.
func (t trust) refuse(shown string) error {
	if t.token != nil {
		return fmt.Errorf("it is not the server that the token is for: the token names the CA %.12s..., and the server's is %.12s...: copy the token of this server, or correct --server", t.token.CAHash, shown)
	}
	return fmt.Errorf("it is not the server that this PC knows: this PC knows the CA %.12s... of its cluster, and the server's is %.12s...: if the authorities were changed while this PC was off, "+
		"give it a new token (run `labk token create` on the server); if it is another server, correct --server", t.known[0], shown)
}

// named returns the CA with the hash, nil if there is none. Of two certificates for the same key it is the one that the CA has signed itself, not what binds it to the CA of before.
func named(chain []*x509.Certificate, hash string) (ca *x509.Certificate) {
	for _, c := range chain {
		if c.IsCA && CAHash(c) == hash && (ca == nil || bytes.Equal(c.RawIssuer, c.RawSubject)) {
			ca = c
		}
	}
	return ca
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
