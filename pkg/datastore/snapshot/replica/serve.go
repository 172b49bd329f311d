package replica

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubernetes/pkg/auth/nodeidentifier"

	"github.com/labk/labk/pkg/digest"
)

// patience is for how long a chosen node is waited for before another is asked.
const patience = 10 * time.Minute

// Server is the server's side. It may be used concurrently.
type Server struct {
	// Own is the server's own node, Client one of the API.
	Own    string
	Client func() (kubernetes.Interface, error)
	// TrustedClients is the file of the authorities of nodes' certificates.
	TrustedClients string
	// Say tells a person what happens: one line, as fmt.Sprintf.
	Say func(format string, args ...any)

	mu     sync.Mutex
	chosen choice
}

// choice is which node is to have which file.
type choice struct {
	node, file string
	request    Request
	since      time.Time
	done       bool
	tried      []string // nodes that have not managed
	// again is when those are asked once more, failure why none has managed: that stays true until one has.
	again   time.Time
	failure error
}

// Holder names the node that has the newest snapshot, and which that is; empty if none has.
func (s *Server) Holder() (node, snapshot string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.chosen.done {
		return "", ""
	}
	return s.chosen.node, s.chosen.request.Name
}

// See sees to it that another node gets the file, and is to be called again and again. An error says why none has it by now; that there is no other node is none.
func (s *Server) See(ctx context.Context, name, file string) error {
	s.mu.Lock()
	c := s.chosen
	s.mu.Unlock()
	if c.request.Name != name {
		sum, err := digest.OfFile(file)
		if err != nil {
			return err
		}
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		c = choice{node: c.node, file: file, request: Request{Name: name, SHA256: sum, Bytes: info.Size()}}
	}
	err := s.step(ctx, &c)
	s.mu.Lock()
	s.chosen = c
	s.mu.Unlock()
	return err
}

// step looks how far the copy has come, and asks a node, or another, when that is needed.
func (s *Server) step(ctx context.Context, c *choice) error {
	client, err := s.Client()
	if err != nil {
		return err
	}
	list, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	others := slices.DeleteFunc(list.Items, func(n corev1.Node) bool { return n.Name == s.Own })
	if c.done {
		if has(others, c.node) {
			return nil
		}
		c.done, c.node, c.since = false, "", time.Time{} // it has left the cluster
	}
	if len(others) == 0 {
		return nil
	}
	var failed error
	for _, n := range others {
		state := StateOf(&n)
		if n.Annotations[Annotation] != c.request.String() || state.SHA256 != c.request.SHA256 {
			continue
		}
		if state.Problem == "" {
			c.node, c.done = n.Name, true
			s.Say("the node %s has a copy of the snapshot %s", n.Name, c.request.Name)
			return nil
		}
		failed = errors.Join(failed, fmt.Errorf("%s: %s", n.Name, state.Problem))
		if !slices.Contains(c.tried, n.Name) {
			c.tried = append(c.tried, n.Name)
		}
	}
	if time.Now().Before(c.again) {
		return c.failure
	}
	if !c.since.IsZero() && time.Since(c.since) < patience && !slices.Contains(c.tried, c.node) && ready(others, c.node) {
		return c.failure // it is under way, perhaps once more
	}
	if !c.since.IsZero() && !slices.Contains(c.tried, c.node) {
		c.tried = append(c.tried, c.node)
		failed = errors.Join(failed, fmt.Errorf("%s: no answer", c.node))
	}
	c.node = pick(others, *c)
	if c.node == "" {
		return s.giveUp(ctx, client, c, others, failed)
	}
	c.since = time.Now()
	// Before the note: the node may come at once.
	s.mu.Lock()
	s.chosen = *c
	s.mu.Unlock()
	if failed == nil {
		failed = c.failure
	}
	return errors.Join(failed, annotate(ctx, client, c.node, Annotation, c.request.String()))
}

// giveUp is for when all have been asked, and begins with the first again: after a while if some have failed. What they were asked and have answered is taken back, or to ask the same once more would be no news to them, and their old answer one to it.
func (s *Server) giveUp(ctx context.Context, client kubernetes.Interface, c *choice, others []corev1.Node, failed error) error {
	c.failure = errors.Join(errors.New("no other node is Ready and has room"), failed)
	if len(c.tried) > 0 {
		c.again = time.Now().Add(patience)
	}
	c.tried, c.since = nil, time.Time{}
	err := c.failure
	for _, n := range others {
		if n.Annotations[Annotation] == c.request.String() {
			err = errors.Join(err, annotate(ctx, client, n.Name, Annotation, ""), annotate(ctx, client, n.Name, StateAnnotation, ""))
		}
	}
	return err
}

// pick chooses a node: one that had the copies before, if it can be.
func pick(others []corev1.Node, c choice) string {
	best := slices.DeleteFunc(slices.Clone(others), func(n corev1.Node) bool { return !isReady(&n) || slices.Contains(c.tried, n.Name) })
	if len(best) == 0 {
		return ""
	}
	rank := func(n corev1.Node) int {
		switch {
		case n.Name == c.node:
			return 0
		case n.Annotations[StateAnnotation] != "" && StateOf(&n).Problem == "":
			return 1
		}
		return 2
	}
	return slices.MinFunc(best, func(a, b corev1.Node) int { return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Name, b.Name)) }).Name
}

func has(nodes []corev1.Node, name string) bool {
	return slices.ContainsFunc(nodes, func(n corev1.Node) bool { return n.Name == name })
}

func ready(nodes []corev1.Node, name string) bool {
	return slices.ContainsFunc(nodes, func(n corev1.Node) bool { return n.Name == name && isReady(&n) })
}

func isReady(n *corev1.Node) bool {
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// ServeHTTP hands the file to the chosen node, and to nobody else.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	node, err := s.caller(r)
	if err != nil {
		http.Error(w, "snapshots are for nodes of the cluster: "+err.Error(), http.StatusUnauthorized)
		return
	}
	s.mu.Lock()
	c := s.chosen
	s.mu.Unlock()
	name := strings.TrimPrefix(r.URL.Path, Prefix)
	if node != c.node || name == "" || name != c.request.Name {
		http.Error(w, fmt.Sprintf("the node %s is not the one that this snapshot is for", node), http.StatusForbidden)
		return
	}
	file, err := os.Open(c.file)
	if err != nil {
		http.Error(w, "the snapshot is gone", http.StatusNotFound)
		return
	}
	defer file.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Time{}, file)
}

// caller is the node whose certificate the request came with. The API's own authentication does not stand before this handler, so it looks for itself.
func (s *Server) caller(r *http.Request) (string, error) {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return "", errors.New("no certificate came with the request")
	}
	trusted, err := os.ReadFile(s.TrustedClients)
	if err != nil {
		return "", errors.New("the server can't read its authorities")
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(trusted)
	for _, c := range r.TLS.PeerCertificates[1:] {
		between.AddCert(c)
	}
	cert := r.TLS.PeerCertificates[0]
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return "", errors.New("the certificate is not of this cluster")
	}
	holder := &user.DefaultInfo{Name: cert.Subject.CommonName, Groups: cert.Subject.Organization}
	name, ok := nodeidentifier.NewDefaultNodeIdentifier().NodeIdentity(holder)
	if !ok {
		return "", errors.New("the certificate is not a node's")
	}
	return name, nil
}
