package holder

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/http"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	x509request "k8s.io/apiserver/pkg/authentication/request/x509"
)

// authority issues certificates.
type authority struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	a := authority{key: newKey(t)}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.Certificate = sign(t, template, template, a.key, a.key)
	return a
}

func (a authority) issue(t *testing.T, name string, end time.Time) *x509.Certificate {
	t.Helper()
	return sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: end, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, a.Certificate, newKey(t), a.key)
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t *testing.T, template, parent *x509.Certificate, own, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, own.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// upstream is Kubernetes' authenticator of certificates, with the number of times it was asked.
type upstream struct {
	authenticator.Request
	asked int
}

func (u *upstream) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	u.asked++
	return u.Request.AuthenticateRequest(r)
}

// newMemory returns a memory whose upstream trusts an authority, and whose clock stands still.
func newMemory(a authority) (*Memory, *upstream, *time.Time) {
	pool := x509.NewCertPool()
	pool.AddCert(a.Certificate)
	opts := x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	u := &upstream{Request: x509request.New(opts, x509request.CommonNameUserConversion)}
	m, now := New(u, "x-remote-user", "X-Remote-Extra-", "X-Own"), time.Now()
	m.now = func() time.Time { return now }
	return m, u, &now
}

func request(header http.Header, certificates ...*x509.Certificate) *http.Request {
	return &http.Request{Header: header, TLS: &tls.ConnectionState{PeerCertificates: certificates}}
}

func who(t *testing.T, m *Memory, r *http.Request) string {
	t.Helper()
	response, ok, _ := m.AuthenticateRequest(r)
	if !ok {
		return ""
	}
	return response.User.GetName()
}

func TestHoldersAreToldApart(t *testing.T) {
	a := newAuthority(t)
	m, u, _ := newMemory(a)
	for _, name := range []string{"anna", "ben"} {
		c := a.issue(t, name, time.Now().Add(time.Hour))
		for range 3 {
			if got := who(t, m, request(nil, c)); got != name {
				t.Errorf("got %q, want %q", got, name)
			}
		}
	}
	if u.asked != 2 {
		t.Errorf("upstream was asked %d times for two certificates", u.asked)
	}
}

func TestAnswersCountForAMoment(t *testing.T) {
	a := newAuthority(t)
	m, u, now := newMemory(a)
	c := a.issue(t, "anna", time.Now().Add(time.Hour))
	who(t, m, request(nil, c))
	*now = now.Add(kept)
	who(t, m, request(nil, c))
	if u.asked != 2 {
		t.Errorf("upstream was asked %d times, want once more after %s", u.asked, kept)
	}
	*now = now.Add(2 * kept)
	who(t, m, request(nil, a.issue(t, "ben", time.Now().Add(time.Hour))))
	if len(m.known) != 1 {
		t.Errorf("%d answers are kept, want only the last", len(m.known))
	}
}

func TestExpiredCertificatesAreForgotten(t *testing.T) {
	a := newAuthority(t)
	m, u, now := newMemory(a)
	end := time.Now().Add(kept / 2)
	c := a.issue(t, "anna", end)
	who(t, m, request(nil, c))
	*now = end
	who(t, m, request(nil, c))
	if u.asked != 2 {
		t.Error("an answer outlived its certificate")
	}
}

func TestStrangersStayStrangers(t *testing.T) {
	m, u, _ := newMemory(newAuthority(t))
	c := newAuthority(t).issue(t, "anna", time.Now().Add(time.Hour))
	for range 2 {
		if got := who(t, m, request(nil, c)); got != "" {
			t.Errorf("a certificate of another authority is %q's", got)
		}
	}
	if u.asked != 2 || len(m.known) != 0 {
		t.Errorf("upstream was asked %d times, %d answers are kept", u.asked, len(m.known))
	}
}

func TestOtherCredentialsAreNotRemembered(t *testing.T) {
	a := newAuthority(t)
	c := a.issue(t, "anna", time.Now().Add(time.Hour))
	for name, r := range map[string]*http.Request{
		"token":          request(http.Header{"Authorization": {"Bearer x"}}, c),
		"websocket's":    request(http.Header{"Sec-Websocket-Protocol": {"base64url.bearer.authorization.k8s.io.eA"}}, c),
		"proxy's":        request(http.Header{"X-Remote-User": {"ben"}}, c),
		"proxy's extra":  request(http.Header{"X-Remote-Extra-Scopes": {"x"}}, c),
		"proxy's own":    request(http.Header{"X-Own": {"ben"}}, c),
		"no certificate": request(nil),
		"no TLS":         {},
	} {
		t.Run(name, func(t *testing.T) {
			m, u, _ := newMemory(a)
			who(t, m, request(nil, c))
			for range 2 {
				who(t, m, r)
			}
			if u.asked != 3 {
				t.Errorf("upstream was asked %d times, want 3", u.asked)
			}
		})
	}
}
