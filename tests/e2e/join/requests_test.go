package join

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/url"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"

	"github.com/labk/labk/pkg/join"
)

// What is to become of a request.
type fate int

const (
	denied  fate = iota // by the registrar, or not even taken by the API
	ignored             // left to an administrator
	issued
)

// asked is a request with a real credential.
type asked struct {
	name   string
	with   credential
	signer string
	what   x509.CertificateRequest
	usages []certificatesv1.KeyUsage
	fate   fate
}

func testRequests(t *testing.T, j *joined) {
	node, machine, token := j.asNode(t, j.a), j.asMachine(t, j.a), j.asToken(t, j.b)
	var all []asked
	all = append(all, j.clientRequests(node)...)
	all = append(all, j.servingRequests(node)...)
	all = append(all, j.machinesRequests(machine)...)
	all = append(all, j.tokensRequests(token)...)
	for _, a := range all {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			a.try(t, j)
		})
	}
}

func (a asked) try(t *testing.T, j *joined) {
	name, err := a.with.request(t.Context(), a.signer, a.what, a.usages...)
	if err != nil {
		if a.fate == issued || !refusedByAPI(err) {
			t.Errorf("the request was not taken: %v", err)
		}
		return
	}
	if a.fate == ignored {
		j.ignored(t, name)
		return
	}
	got, reason, message := j.answer(t, name)
	switch {
	case got != (a.fate == issued):
		t.Errorf("issued: %v (%s: %s)", got, reason, message)
	case !got && (reason == "" || message == "" || reason == join.ReasonStillReady):
		t.Errorf("denied with reason %q, message %q", reason, message)
	}
}

var (
	asClient = []certificatesv1.KeyUsage{client}
	asServer = []certificatesv1.KeyUsage{server}
)

// named is a kubelet's request with a change.
func named(name string, change func(*x509.CertificateRequest)) x509.CertificateRequest {
	r := nodeRequest(name)
	if change != nil {
		change(&r)
	}
	return r
}

func organization(names ...string) func(*x509.CertificateRequest) {
	return func(r *x509.CertificateRequest) { r.Subject.Organization = names }
}

// clientRequests of node a for certificates by which clients prove themselves.
func (j *joined) clientRequests(node credential) []asked {
	b, s := j.b.Host.Name(), j.Host.Name()
	masters := x509.CertificateRequest{Subject: pkix.Name{CommonName: "me", Organization: []string{"system:masters"}}}
	return []asked{
		{"client/its own", node, forClient, nodeRequest(nameA), asClient, issued},
		{"client/another node's", node, forClient, nodeRequest(b), asClient, denied},
		{"client/the server's", node, forClient, nodeRequest(s), asClient, denied},
		{"client/no node's", node, forClient, nodeRequest("ghost"), asClient, denied},
		{"client/an administrator's", node, forClient, masters, asClient, denied},
		{"client/with masters", node, forClient, named(nameA, organization(join.NodeGroup, "system:masters")), asClient, denied},
		{"client/masters alone", node, forClient, named(nameA, organization("system:masters")), asClient, denied},
		{"client/for serving too", node, forClient, nodeRequest(nameA), []certificatesv1.KeyUsage{client, server}, denied},
		{"client/for signing", node, forClient, nodeRequest(nameA), []certificatesv1.KeyUsage{client, certificatesv1.UsageCertSign}, denied},
		{"client/with a name", node, forClient, named(nameA, func(r *x509.CertificateRequest) { r.DNSNames = []string{nameA} }), asClient, denied},
		{"client/any client", node, forAdmin, masters, asClient, denied},
		{"client/any client, its own name", node, forAdmin, nodeRequest(nameA), asClient, ignored},
		{"client/legacy", node, "kubernetes.io/legacy-unknown", nodeRequest(nameA), asClient, denied},
		{"client/machine", node, join.MachineSigner, machineRequest(nameA), asClient, denied},
	}
}

// servingRequests of node a for certificates by which servers are known.
func (j *joined) servingRequests(node credential) []asked {
	own := j.a.Host.Addr().AsSlice()
	serving := func(names []string, ips ...net.IP) x509.CertificateRequest {
		return named(nameA, func(r *x509.CertificateRequest) { r.DNSNames, r.IPAddresses = names, ips })
	}
	other := named(j.b.Host.Name(), func(r *x509.CertificateRequest) {
		r.DNSNames, r.IPAddresses = []string{j.b.Host.Name()}, []net.IP{j.b.Host.Addr().AsSlice()}
	})
	more := func(change func(*x509.CertificateRequest)) x509.CertificateRequest {
		r := serving([]string{nameA}, own)
		change(&r)
		return r
	}
	out := []asked{
		{"serving/its own", node, forServing, serving([]string{nameA}, own), asServer, issued},
		{"serving/another node's", node, forServing, other, asServer, denied},
		{"serving/with masters", node, forServing, more(organization(join.NodeGroup, "system:masters")), asServer, denied},
		{"serving/for clients", node, forServing, serving([]string{nameA}, own), asClient, denied},
		{"serving/for both", node, forServing, serving([]string{nameA}, own), []certificatesv1.KeyUsage{client, server}, denied},
		{"serving/nothing", node, forServing, nodeRequest(nameA), asServer, denied},
		{"serving/mail", node, forServing, more(func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"root@" + nameA} }), asServer, denied},
		{"serving/URI", node, forServing, more(func(r *x509.CertificateRequest) { r.URIs = []*url.URL{{Scheme: "https", Host: nameA}} }), asServer, denied},
	}
	for _, dns := range []string{j.b.Host.Name(), j.Host.Name(), "kubernetes", "kubernetes.default.svc", "localhost", known, "*", "example.org"} {
		out = append(out, asked{"serving/name " + dns, node, forServing, serving([]string{nameA, dns}, own), asServer, denied})
	}
	for _, ip := range []net.IP{
		j.b.Host.Addr().AsSlice(), j.Host.Addr().AsSlice(), net.IPv4(10, 43, 0, 1), net.IPv4(10, 43, 0, 10), net.IPv4(10, 42, 0, 1), net.IPv4(127, 0, 0, 1),
		net.IPv4zero, net.IPv4(192, 0, 2, 1),
	} {
		out = append(out, asked{"serving/address " + ip.String(), node, forServing, serving([]string{nameA}, own, ip), asServer, denied})
	}
	return out
}

// machinesRequests with the machine certificate of a.
func (j *joined) machinesRequests(machine credential) []asked {
	return []asked{
		{"machine/its node's", machine, forClient, nodeRequest(nameA), asClient, issued},
		{"machine/another node's", machine, forClient, nodeRequest(j.b.Host.Name()), asClient, denied},
		{"machine/the server's", machine, forClient, nodeRequest(j.Host.Name()), asClient, denied},
		{"machine/a new node's", machine, forClient, nodeRequest("ghost"), asClient, denied},
		{"machine/with masters", machine, forClient, named(nameA, organization(join.NodeGroup, "system:masters")), asClient, denied},
		{"machine/any client", machine, forAdmin, nodeRequest(nameA), asClient, ignored},
		{"machine/a machine", machine, join.MachineSigner, machineRequest(nameA), asClient, denied},
		{"machine/another machine", machine, join.MachineSigner, machineRequest(j.b.Host.Name()), asClient, denied},
	}
}

// tokensRequests with a join token, from the PC that is b.
func (j *joined) tokensRequests(token credential) []asked {
	silent := token
	silent.annotations = nil
	machine := func(change func(*x509.CertificateRequest)) x509.CertificateRequest {
		r := machineRequest("ghost")
		change(&r)
		return r
	}
	none := func(*x509.CertificateRequest) {}
	return []asked{
		{"token/a new PC", token, join.MachineSigner, machineRequest("newcomer"), asClient, issued},
		{"token/another PC's name", token, join.MachineSigner, machineRequest(nameA), asClient, denied},
		{"token/the server's name", token, join.MachineSigner, machineRequest(j.Host.Name()), asClient, denied},
		{"token/a name of the API", token, join.MachineSigner, machineRequest("localhost"), asClient, denied},
		{"token/no name", token, join.MachineSigner, machineRequest(""), asClient, denied},
		{"token/a name that no node can have", token, join.MachineSigner, machineRequest("PC_1"), asClient, denied},
		{"token/as a node", token, join.MachineSigner, nodeRequest("ghost"), asClient, denied},
		{"token/with masters", token, join.MachineSigner, machine(organization(join.MachineGroup, "system:masters")), asClient, denied},
		{"token/masters alone", token, join.MachineSigner, machine(organization("system:masters")), asClient, denied},
		{"token/for serving", token, join.MachineSigner, machine(none), asServer, denied},
		{"token/for both", token, join.MachineSigner, machine(none), []certificatesv1.KeyUsage{client, server}, denied},
		{"token/with names", token, join.MachineSigner, machine(func(r *x509.CertificateRequest) { r.DNSNames = []string{"localhost"} }), asClient, denied},
		{"token/from nowhere", silent, join.MachineSigner, machine(none), asClient, denied},
		{"token/a kubelet", token, forClient, nodeRequest("ghost"), asClient, denied},
		{"token/another's kubelet", token, forClient, nodeRequest(nameA), asClient, denied},
		{"token/serving", token, forServing, named(nameA, func(r *x509.CertificateRequest) { r.DNSNames = []string{nameA} }), asServer, denied},
		{"token/any client", token, forAdmin, nodeRequest("ghost"), asClient, ignored},
	}
}
