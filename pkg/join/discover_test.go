package join

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/labk/labk/pkg/pki"
)

func makeCA(t *testing.T, name string, now func() time.Time) *pki.CA {
	t.Helper()
	ca, err := pki.NewStore(t.TempDir(), now).CA(name)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func hashOf(t *testing.T, ca *pki.CA) string {
	t.Helper()
	data, err := os.ReadFile(ca.Cert)
	if err != nil {
		t.Fatal(err)
	}
	hash, err := CAHashPEM(data)
	if err != nil {
		t.Fatal(err)
	}
	return hash
}

// serving issues a serving certificate with its chain.
func serving(t *testing.T, ca *pki.CA, l pki.Leaf) tls.Certificate {
	t.Helper()
	l.Name, l.CommonName = "api", "api"
	p, _, err := ca.Issue(l, false)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(p.Cert, p.Key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

// listen serves TLS with the certificate. asked tells whether somebody sent a request.
func listen(t *testing.T, cert tls.Certificate) (u *url.URL, asked func() bool) {
	t.Helper()
	requests := make(chan struct{}, 10)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { requests <- struct{}{} }))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	s.Config.ErrorLog = nil
	s.StartTLS()
	t.Cleanup(s.Close)
	u, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	return u, func() bool { return len(requests) > 0 }
}

// byToken is the trust of a PC that has only a token, which names this CA.
func byToken(hash string) trust { return trust{token: &Token{CAHash: hash}} }

func TestFindServer(t *testing.T) {
	ca, other := makeCA(t, "server-ca", time.Now), makeCA(t, "other", time.Now)
	here := pki.Leaf{IPs: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"}}
	right, foreign := serving(t, ca, here), serving(t, other, here)
	elsewhere := serving(t, makeCA(t, "server-ca", time.Now), pki.Leaf{IPs: []net.IP{net.IPv4(192, 0, 2, 1)}, DNSNames: []string{"first-pc"}})
	alone := foreign
	alone.Certificate = foreign.Certificate[:1]
	liar := foreign
	liar.Certificate = [][]byte{foreign.Certificate[0], right.Certificate[1]}
	ofElsewhere, err := x509.ParseCertificate(elsewhere.Certificate[1])
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		cert tls.Certificate
		hash string
		want string // part of the error; empty: it is found
	}{
		"right":                    {right, hashOf(t, ca), ""},
		"another authority":        {foreign, hashOf(t, ca), "not the server that the token is for"},
		"no authority":             {alone, hashOf(t, ca), "not a labk server"},
		"another's authority":      {liar, hashOf(t, ca), "certificate is not good"},
		"not for this name":        {elsewhere, CAHash(ofElsewhere), "is not for 127.0.0.1: use one of its names or addresses (192.0.2.1, first-pc), or start the server with --tls-san 127.0.0.1"},
		"the token is another's":   {right, someHash, "copy the token of this server"},
		"a leaf that has the hash": {right, leafHash(t, right), "not the server that the token is for"},
	} {
		t.Run(name, func(t *testing.T) {
			u, asked := listen(t, tc.cert)
			got, err := findServer(t.Context(), u, byToken(tc.hash))
			if tc.want != "" {
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("got %v, want %q", err, tc.want)
				}
				if errors.As(err, new(unreachableError)) {
					t.Error("it would be tried again")
				}
				if asked() {
					t.Error("a server that is not the right one was asked something")
				}
				return
			}
			if err != nil || len(got) != 1 || string(got[0].Raw) != string(tc.cert.Certificate[1]) || !asked() {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

func leafHash(t *testing.T, c tls.Certificate) string {
	t.Helper()
	leaf, err := x509.ParseCertificate(c.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	return CAHash(leaf)
}

func TestFindServerThatIsNone(t *testing.T) {
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for name, tc := range map[string]struct {
		address string
		passing bool
		want    string
	}{
		"plain HTTP":      {plain.Listener.Addr().String(), false, "does not speak TLS"},
		"nothing listens": {closed.Addr().String(), true, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := findServer(t.Context(), &url.URL{Scheme: "https", Host: tc.address}, byToken(someHash))
			if err == nil || !strings.Contains(err.Error(), tc.want) || errors.As(err, new(unreachableError)) != tc.passing {
				t.Errorf("got %T %v, want %q, passing: %v", err, err, tc.want, tc.passing)
			}
		})
	}
}

// A server whose clock was wrong when it made its certificate is found all the same, and the clocks are what is told.
func TestFindServerWithAnotherClock(t *testing.T) {
	ca := makeCA(t, "server-ca", func() time.Time { return time.Now().Add(48 * time.Hour) })
	u, _ := listen(t, serving(t, ca, pki.Leaf{IPs: []net.IP{net.IPv4(127, 0, 0, 1)}}))
	_, err := findServer(t.Context(), u, byToken(hashOf(t, ca)))
	if err == nil || !strings.Contains(err.Error(), "both clocks say") {
		t.Errorf("got %v", err)
	}
}

func TestCheckClock(t *testing.T) {
	server := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	leaf := &x509.Certificate{NotBefore: server.Add(-24 * time.Hour), NotAfter: server.Add(365 * 24 * time.Hour)}
	for name, tc := range map[string]struct {
		date string
		mine time.Time
		leaf *x509.Certificate
		want []string // parts of the error; none: it is well
	}{
		"the same":               {mine: server},
		"a little behind":        {mine: server.Add(-clockTolerance + time.Second)},
		"behind":                 {mine: server.Add(-time.Hour), want: []string{"this PC's clock says 2026-11-01 11:00 UTC", "the server's 2026-11-01 12:00 UTC", "timedatectl"}},
		"a flat battery":         {mine: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), want: []string{"2000-01-01", "set the clock that is wrong"}},
		"ahead, and valid yet":   {mine: server.Add(time.Hour)},
		"years ahead":            {mine: server.AddDate(3, 0, 0), want: []string{"2029-11-01", "set the clock that is wrong"}},
		"another time zone":      {mine: server.In(time.FixedZone("", 5*3600))},
		"no date":                {date: "none", mine: server.Add(-time.Hour)},
		"both beside it":         {mine: server, leaf: &x509.Certificate{NotBefore: server.Add(time.Hour), NotAfter: server.Add(2 * time.Hour)}, want: []string{"valid from 2026-11-01 13:00 UTC to 2026-11-01 14:00 UTC", "both clocks"}},
		"a certificate's end":    {mine: server, leaf: &x509.Certificate{NotBefore: server.Add(-2 * time.Hour), NotAfter: server.Add(-time.Hour)}, want: []string{"start the server again to renew it"}},
		"behind, before it, too": {mine: server.Add(-48 * time.Hour), want: []string{"this PC's clock says 2026-10-30 12:00 UTC"}},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.date == "" {
				tc.date = server.Format(http.TimeFormat)
			}
			if tc.leaf == nil {
				tc.leaf = leaf
			}
			err := checkClock(tc.date, tc.mine, tc.leaf)
			if (err != nil) != (len(tc.want) > 0) {
				t.Fatalf("got %v, want %q", err, tc.want)
			}
			for _, w := range tc.want {
				if !strings.Contains(fmt.Sprint(err), w) {
					t.Errorf("got %v, want %q", err, w)
				}
			}
		})
	}
}
