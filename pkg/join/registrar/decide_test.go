package registrar

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/labk/labk/pkg/join"
)

var (
	now    = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	pc     = join.Machine{MACs: []string{"a"}}
	other  = join.Machine{MACs: []string{"b"}}
	server = join.Machine{MACs: []string{"s"}}
)

func TestAdmit(t *testing.T) {
	zero, one := 0, 1
	at := []net.IP{net.IPv4(10, 0, 0, 2)}
	rec := func(m join.Machine, age time.Duration) *record {
		return &record{Machine: m, Address: "10.0.0.2", Since: now.Add(-age)}
	}
	long := time.Hour
	for name, tc := range map[string]struct {
		claim  claim
		node   node
		reason string // empty: it is let in
		want   string
	}{
		"new":                        {claim{name: "pc1", machine: pc}, node{}, "", "a new node"},
		"no name":                    {claim{machine: pc}, node{}, join.ReasonForbidden, "can't be a node's name"},
		"capitals":                   {claim{name: "PC1", machine: pc}, node{}, join.ReasonForbidden, "--node-name"},
		"a space":                    {claim{name: "pc 1", machine: pc}, node{}, join.ReasonForbidden, "--node-name"},
		"the server's name":          {claim{name: "first", machine: pc}, node{}, join.ReasonNameTaken, "the server's own"},
		"the server's machine":       {claim{name: "first", machine: server}, node{}, "", "a new node"},
		"the API's name":             {claim{name: "kubernetes", machine: pc}, node{}, join.ReasonNameTaken, "the server's own"},
		"the API's, on the server":   {claim{name: "kubernetes", machine: server}, node{}, join.ReasonNameTaken, "the server's own"},
		"used up":                    {claim{name: "pc1", machine: pc, token: TokenInfo{UsesLeft: &zero}}, node{}, join.ReasonTokenUsedUp, "labk token create"},
		"a use left":                 {claim{name: "pc1", machine: pc, token: TokenInfo{UsesLeft: &one}}, node{}, "", "a new node"},
		"token for another":          {claim{name: "pc1", machine: pc, token: TokenInfo{Replaces: "pc2"}}, node{}, join.ReasonForbidden, "for the node pc2 only"},
		"still Ready":                {claim{name: "pc1", machine: pc}, node{exists: true, ready: true, record: rec(pc, long)}, join.ReasonStillReady, "this PC's own"},
		"came back":                  {claim{name: "pc1", machine: pc}, node{exists: true, record: rec(pc, long)}, "", "the same PC"},
		"alive":                      {claim{name: "pc1", machine: other}, node{exists: true, ready: true, addresses: at, record: rec(pc, long)}, join.ReasonNameTaken, "alive at 10.0.0.2"},
		"alive, address unknown":     {claim{name: "pc1", machine: other}, node{exists: true, ready: true, record: rec(pc, long)}, join.ReasonNameTaken, "an unknown address"},
		"alive, to be replaced":      {claim{name: "pc1", machine: other, token: TokenInfo{Replaces: "pc1"}}, node{exists: true, ready: true, record: rec(pc, long)}, join.ReasonStillReady, "switch the old PC off"},
		"dead":                       {claim{name: "pc1", machine: other}, node{exists: true, record: rec(pc, long)}, join.ReasonNameTaken, "labk token create --replace pc1"},
		"dead, to be replaced":       {claim{name: "pc1", machine: other, token: TokenInfo{Replaces: "pc1"}}, node{exists: true, record: rec(pc, long)}, "", "replaces"},
		"a moment ago":               {claim{name: "pc1", machine: other}, node{record: rec(pc, time.Second)}, join.ReasonNameTaken, "a moment ago"},
		"a moment ago, the same":     {claim{name: "pc1", machine: pc}, node{record: rec(pc, time.Second)}, "", "the same PC"},
		"deleted":                    {claim{name: "pc1", machine: other}, node{record: rec(pc, long)}, "", "was deleted"},
		"deleted, the same":          {claim{name: "pc1", machine: pc}, node{record: rec(pc, long)}, "", "the same PC"},
		"made by hand":               {claim{name: "pc1", machine: pc}, node{exists: true}, join.ReasonNameTaken, "--replace pc1"},
		"made by hand, to be filled": {claim{name: "pc1", machine: pc, token: TokenInfo{Replaces: "pc1"}}, node{exists: true}, "", "replaces"},
		"alive, no record":           {claim{name: "pc1", machine: pc}, node{exists: true, ready: true, addresses: at}, join.ReasonNameTaken, "alive at 10.0.0.2"},
		"no network cards":           {claim{name: "pc1"}, node{exists: true, record: rec(join.Machine{}, long)}, join.ReasonNameTaken, "another PC"},
	} {
		t.Run(name, func(t *testing.T) {
			v := admit(tc.claim, tc.node, "first", server, []string{"kubernetes", "localhost", "first"}, now)
			if v.approved != (tc.reason == "") || v.reason != tc.reason || !strings.Contains(v.message, tc.want) {
				t.Errorf("got %+v, want %q %q", v, tc.reason, tc.want)
			}
		})
	}
}

// Requesters, as the API server names them.
var (
	nodeItself   = requester{name: "system:node:pc1", groups: []string{"system:nodes", "system:authenticated"}}
	machine      = requester{name: "labk:machine:pc1", groups: []string{"labk:machines", "system:authenticated"}, credential: "X509SHA256=1"}
	oldMachine   = requester{name: "labk:machine:pc1", groups: []string{"labk:machines"}, credential: "X509SHA256=0"}
	otherNode    = requester{name: "system:node:pc2", groups: []string{"system:nodes"}}
	otherMachine = requester{name: "labk:machine:pc2", groups: []string{"labk:machines"}, credential: "X509SHA256=1"}
	token        = requester{name: "system:bootstrap:abcdef", groups: []string{"system:bootstrappers:labk"}}
	pretender    = requester{name: "system:node:pc1", groups: []string{"system:authenticated"}}
	noCredential = requester{name: "labk:machine:pc1", groups: []string{"labk:machines"}}
)

var known = &record{Machine: pc, Address: "10.0.0.2", Credential: "X509SHA256=1"}

func TestIdentify(t *testing.T) {
	for name, tc := range map[string]struct {
		from   requester
		record *record
		reason string // empty: it is the node's
	}{
		"the node":                    {nodeItself, known, ""},
		"its PC":                      {machine, known, ""},
		"the PC before":               {oldMachine, known, join.ReasonReplaced},
		"its PC, half renewed":        {machine, &record{Credential: "X509SHA256=2", Previous: "X509SHA256=1"}, ""},
		"its PC, forgotten":           {machine, nil, join.ReasonReplaced},
		"another node":                {otherNode, known, join.ReasonForbidden},
		"another PC":                  {otherMachine, known, join.ReasonForbidden},
		"a token":                     {token, known, join.ReasonForbidden},
		"a name without its group":    {pretender, known, join.ReasonForbidden},
		"a PC without its credential": {noCredential, known, join.ReasonReplaced},
		"nobody":                      {requester{}, known, join.ReasonForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			v := identify(tc.from, "pc1", tc.record)
			if v.approved != (tc.reason == "") || v.reason != tc.reason || v.message == "" {
				t.Errorf("got %+v, want %q", v, tc.reason)
			}
		})
	}
}

func TestSuccession(t *testing.T) {
	of := func(authority, credential, previous string) *record {
		return &record{Machine: pc, Credential: credential, Previous: previous, Authority: authority}
	}
	for name, tc := range map[string]struct {
		from     requester
		record   *record
		approved bool
	}{
		"of the authority of before":           {machine, of("old", machine.credential, ""), true},
		"of an older labk's":                   {machine, of("", machine.credential, ""), true},
		"it was given one, and did not get it": {machine, of("now", "X509SHA256=9", machine.credential), true},
		"of the present authority":             {machine, of("now", machine.credential, "X509SHA256=9"), false},
		"the PC before":                        {oldMachine, of("old", machine.credential, ""), false},
		"another PC":                           {otherMachine, of("old", machine.credential, ""), false},
		"forgotten":                            {machine, nil, false},
	} {
		if v := succession(tc.from, "pc1", tc.record, "now"); v.approved != tc.approved {
			t.Errorf("%s: %+v", name, v)
		}
	}
}

func TestBelongs(t *testing.T) {
	for name, tc := range map[string]struct {
		from requester
		want bool
	}{
		"node": {nodeItself, true}, "machine": {machine, true}, "token": {token, true},
		"administrator": {requester{name: "admin", groups: []string{"labk:cluster-admins"}}, false},
		"pretender":     {pretender, false},
	} {
		if got := tc.from.belongs(); got != tc.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

var (
	forClients = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
	forServing = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}
)

func kubelet(change func(*x509.CertificateRequest)) *x509.CertificateRequest {
	r := &x509.CertificateRequest{Subject: pkix.Name{CommonName: "system:node:pc1", Organization: []string{"system:nodes"}}}
	if change != nil {
		change(r)
	}
	return r
}

func TestClientRequest(t *testing.T) {
	masters := func(r *x509.CertificateRequest) {
		r.Subject.Organization = append(r.Subject.Organization, "system:masters")
	}
	for name, tc := range map[string]struct {
		from    requester
		request *x509.CertificateRequest
		usages  []certificatesv1.KeyUsage
		reason  string
	}{
		"good":          {machine, kubelet(nil), forClients, ""},
		"renewed":       {nodeItself, kubelet(nil), forClients, ""},
		"replaced":      {oldMachine, kubelet(nil), forClients, join.ReasonReplaced},
		"another's":     {otherNode, kubelet(nil), forClients, join.ReasonForbidden},
		"masters":       {nodeItself, kubelet(masters), forClients, join.ReasonForbidden},
		"a name":        {nodeItself, kubelet(func(r *x509.CertificateRequest) { r.DNSNames = []string{"pc1"} }), forClients, join.ReasonForbidden},
		"an address":    {nodeItself, kubelet(func(r *x509.CertificateRequest) { r.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 2)} }), forClients, join.ReasonForbidden},
		"no node":       {nodeItself, kubelet(func(r *x509.CertificateRequest) { r.Subject.CommonName = "pc1" }), forClients, join.ReasonForbidden},
		"for serving":   {nodeItself, kubelet(nil), forServing, join.ReasonForbidden},
		"for both":      {nodeItself, kubelet(nil), append(forServing, certificatesv1.UsageClientAuth), join.ReasonForbidden},
		"for everybody": {nodeItself, kubelet(nil), append(forClients, certificatesv1.UsageAny), join.ReasonForbidden},
	} {
		t.Run(name, func(t *testing.T) {
			if v := clientRequest(tc.from, tc.request, tc.usages, "pc1", known); v.approved != (tc.reason == "") || v.reason != tc.reason {
				t.Errorf("got %+v, want %q", v, tc.reason)
			}
		})
	}
}

func TestServingRequest(t *testing.T) {
	_, pods, _ := net.ParseCIDR("10.42.0.0/16")
	limits := servingLimits{
		names: []string{"kubernetes", "localhost", "first"}, addresses: []net.IP{net.IPv4(10, 0, 0, 1), net.IPv4(127, 0, 0, 1)}, networks: []*net.IPNet{pods},
		others: func(ip net.IP) string {
			if ip.Equal(net.IPv4(10, 0, 0, 3)) {
				return "pc2"
			}
			return ""
		},
	}
	n := node{exists: true, addresses: []net.IP{net.IPv4(10, 0, 0, 2), net.IPv4(10, 0, 0, 4)}, record: known}
	said := net.IPv4(10, 0, 0, 8)
	with := func(dns []string, ips ...string) *x509.CertificateRequest {
		return kubelet(func(r *x509.CertificateRequest) {
			r.DNSNames = dns
			for _, ip := range ips {
				r.IPAddresses = append(r.IPAddresses, net.ParseIP(ip))
			}
		})
	}
	own := []string{"pc1"}
	for name, tc := range map[string]struct {
		from    requester
		request *x509.CertificateRequest
		usages  []certificatesv1.KeyUsage
		want    string // part of the refusal; empty: approved
		later   bool   // not known yet
	}{
		"good":                   {from: machine, request: with(own, "10.0.0.2")},
		"renewed":                {from: nodeItself, request: with(own, "10.0.0.4")},
		"name alone":             {from: nodeItself, request: with(own)},
		"both addresses":         {from: nodeItself, request: with(own, "10.0.0.2", "10.0.0.4")},
		"new, as the PC says":    {from: machine, request: with(own, "10.0.0.8")},
		"new, not as it says":    {from: machine, request: with(own, "10.0.0.9"), later: true},
		"new, of the node":       {from: nodeItself, request: with(own, "10.0.0.8"), later: true},
		"not known yet":          {from: nodeItself, request: with(own, "10.0.0.9"), later: true},
		"another node's":         {from: nodeItself, request: with(own, "10.0.0.2", "10.0.0.3"), want: "the node pc2's"},
		"the server's":           {from: nodeItself, request: with(own, "10.0.0.1"), want: "the server's"},
		"loopback":               {from: nodeItself, request: with(own, "127.0.0.1"), want: "may not"},
		"a pod's":                {from: nodeItself, request: with(own, "10.42.1.1"), want: "may not"},
		"any":                    {from: nodeItself, request: with(own, "0.0.0.0"), want: "may not"},
		"multicast":              {from: nodeItself, request: with(own, "224.0.0.1"), want: "may not"},
		"an API name":            {from: nodeItself, request: with([]string{"pc1", "kubernetes"}), want: "for the name kubernetes"},
		"another node's name":    {from: nodeItself, request: with([]string{"pc2"}), want: "for the name pc2"},
		"a wildcard":             {from: nodeItself, request: with([]string{"*"}), want: "for the name *"},
		"by another node":        {from: otherNode, request: with(own, "10.0.0.2"), want: "may not have a certificate of node pc1"},
		"by the PC before":       {from: oldMachine, request: with(own, "10.0.0.2"), want: "given to another PC"},
		"for clients":            {from: nodeItself, request: with(own), usages: forClients, want: "not what a node may ask for"},
		"for nothing":            {from: nodeItself, request: with(nil), want: "not what a node may ask for"},
		"unknown and another's":  {from: nodeItself, request: with(own, "10.0.0.3", "10.0.0.9"), want: "the node pc2's"},
		"a token":                {from: token, request: with(own, "10.0.0.2"), want: "may not have"},
		"an address of IPv6, no": {from: nodeItself, request: with(own, "fe80::1"), want: "may not"},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.usages == nil {
				tc.usages = forServing
			}
			v, err := servingRequest(tc.from, tc.request, tc.usages, "pc1", false, n, said, limits)
			if (err != nil) != tc.later {
				t.Fatalf("got %+v, %v", v, err)
			}
			if !tc.later && (v.approved != (tc.want == "") || !strings.Contains(v.message, tc.want)) {
				t.Errorf("got %+v, want %q", v, tc.want)
			}
		})
	}
	// The server's node has a name and an address of the API's.
	first := requester{name: "system:node:first", groups: []string{"system:nodes"}}
	request := with([]string{"first"}, "10.0.0.1")
	request.Subject.CommonName = "system:node:first"
	at := node{exists: true, addresses: []net.IP{net.IPv4(10, 0, 0, 1)}, record: known}
	limits.others = func(net.IP) string { return "what it was called before" }
	for isServer, want := range map[bool]bool{true: true, false: false} {
		if v, err := servingRequest(first, request, forServing, "first", isServer, at, nil, limits); err != nil || v.approved != want {
			t.Errorf("the server: %v: got %+v, %v", isServer, v, err)
		}
	}
}
