package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
	corev1 "k8s.io/api/core/v1"

	"github.com/labk/labk/tests/e2e/cluster"
)

const (
	clusterDNS = "10.43.0.10:53"
	// outsideName is the one name that the DNS server outside knows, and its address.
	outsideName    = "outside.test"
	outsideAddress = "192.0.2.7"
)

// serveOutsideNames is the lab's name server, where the hosts' resolv.conf points: it knows one name.
func serveOutsideNames(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	conn, err := c.Lab.Net().ListenPacket(t.Context(), "udp", net.JoinHostPort(c.Lab.Gateway().String(), "53"))
	if err != nil {
		t.Fatal(err)
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(answerOutside)}
	ended := make(chan error, 1)
	go func() { ended <- server.ActivateAndServe() }()
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		<-ended
	})
}

func answerOutside(w dns.ResponseWriter, question *dns.Msg) {
	answer := new(dns.Msg).SetReply(question)
	switch q := question.Question[0]; {
	case !strings.EqualFold(q.Name, outsideName+"."):
		answer.Rcode = dns.RcodeNameError
	case q.Qtype == dns.TypeA:
		answer.Answer = []dns.RR{&dns.A{
			Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.ParseIP(outsideAddress),
		}}
	}
	_ = w.WriteMsg(answer) // who does not get it asks again
}

// dialer is a network of the lab.
type dialer interface {
	DialContext(ctx context.Context, network, address string) (net.Conn, error)
}

// query asks a DNS server and waits as long as resolvers do.
func query(ctx context.Context, from dialer, server, name string, kind uint16) (*dns.Msg, error) {
	conn, err := from.DialContext(ctx, "udp", server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return nil, err
	}
	c := &dns.Conn{Conn: conn}
	if err := c.WriteMsg(new(dns.Msg).SetQuestion(name, kind)); err != nil {
		return nil, err
	}
	return c.ReadMsg()
}

// lookUp asks the cluster's DNS from the client pod.
func (w *world) lookUp(t *testing.T, kind, name string) (string, error) {
	r := w.KubectlErr(t, "exec", "-n", w.namespace, w.client.Name, "--", "nslookup", "-type="+kind, name)
	if r.Err != nil {
		return "", fmt.Errorf("%w %s", r.Err, r.Stdout)
	}
	return r.Stdout, nil
}

// finds waits until the answer contains all of the texts.
func (w *world) finds(t *testing.T, kind, name string, want ...string) {
	t.Helper()
	cluster.Eventually(t, cluster.Limit, name+" from a pod", func() error {
		text, err := w.lookUp(t, kind, name)
		for _, s := range want {
			if err == nil && !strings.Contains(text, s) {
				err = fmt.Errorf("no %s in %s", s, text)
			}
		}
		return err
	})
}

func testServiceNames(t *testing.T, w *world) {
	s := w.service(t, "named", "hello", nil)
	full := "named." + w.namespace + ".svc.cluster.local"
	w.finds(t, "a", full, s.Spec.ClusterIP)
	w.finds(t, "srv", "_http._tcp."+full, "80 "+full)
	for _, name := range []string{"named", "named." + w.namespace, full} { // as programs look names up, with the search list
		reachAll(t, "from a pod", w.fromPod(t, w.client.Name), "http://"+name+"/", len(w.hellos))
	}
}

func testHeadless(t *testing.T, w *world) {
	w.service(t, "headless", "hello", func(s *corev1.ServiceSpec) { s.ClusterIP = corev1.ClusterIPNone })
	var want []string
	for _, p := range w.hellos {
		want = append(want, p.Status.PodIP)
	}
	w.finds(t, "a", "headless."+w.namespace+".svc.cluster.local", want...)
}

func testOutsideNames(t *testing.T, w *world) { w.finds(t, "a", outsideName, outsideAddress) }

// A name that nobody knows is an error at once: programs that try several names depend on it.
func testUnknownNames(t *testing.T, w *world) {
	for _, name := range []string{"nobody." + w.namespace + ".svc.cluster.local.", "nobody.outside.test."} {
		cluster.Eventually(t, cluster.Limit, "an answer about "+name, func() error {
			answer, err := query(t.Context(), w.Host.Net(), clusterDNS, name, dns.TypeA)
			if err == nil && answer.Rcode != dns.RcodeNameError {
				err = errors.New(answer.String())
			}
			return err
		})
		if text, err := w.lookUp(t, "a", name); err == nil {
			t.Errorf("a pod finds %s:\n%s", name, text)
		}
	}
}
