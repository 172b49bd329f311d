package join

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/paths"
	labkversion "github.com/labk/labk/pkg/version"
)

const (
	// patience is how long a PC that never joined waits for its server: long enough for a server that is just starting. One that has joined waits for ever.
	patience = 45 * time.Second
	// between attempts.
	between = 200 * time.Millisecond
	// betweenRequests is the time between attempts that leave a request on the server, betweenAddressRequests between those that its user is told of.
	betweenRequests        = time.Second
	betweenAddressRequests = 5 * time.Second
	// addressPatience is longer than a PC that is off can be Ready.
	addressPatience = 75 * time.Second
	// tell is how often a PC says what it waits for.
	tell    = 10 * time.Second
	maxSkew = labkversion.MaxSkew
)

// Options of joining.
type Options struct {
	// Config is this PC's. Its shared options are set to the cluster's.
	Config *config.Config
	Data   paths.Data
	// Server is the API's URL.
	Server *url.URL
	// Token returns the join token, as it is written; it is asked for only when this PC has no credentials.
	Token func() (string, error)
	// Own tells that this is the server's own node, which no other PC can be given.
	Own bool
	// Machine is this PC, Address its node's.
	Machine Machine
	Address net.IP
	// Version is this program's Kubernetes version.
	Version string
	// Say tells a person what is being waited for.
	Say func(format string, args ...any)
}

// New returns the component that makes this PC a node: when it is ready, the node's credentials are on the disk (Files) and the shared
// options are set. It waits for a server that can't be reached, when this PC has joined before.
func New(o Options) lifecycle.Component {
	j := &joiner{Options: o, files: NodeFiles(o.Data)}
	return lifecycle.NewStep("join", j.run)
}

type joiner struct {
	Options
	files Files
	known bool // this PC has joined before, as this node

	mu   sync.Mutex
	told time.Time
}

// Check finds what is wrong with the token, or with its absence, before anything has been changed. The error is a *config.Error, or one of reading the disk.
func Check(o Options) error {
	_, err := (&joiner{Options: o, files: NodeFiles(o.Data)}).trust()
	return err
}

func (j *joiner) run(ctx context.Context) error {
	if err := j.join(ctx); err != nil {
		return fmt.Errorf("join %s: %w", j.Server.Host, err)
	}
	return nil
}

// join writes nothing before the server has given this PC a certificate: a refusal leaves the credentials of before as they were.
func (j *joiner) join(ctx context.Context) error {
	trust, err := j.trust()
	if err != nil {
		return err
	}
	c, err := j.connect(ctx, trust)
	if err != nil {
		return err
	}
	shared, err := j.learn(ctx, c)
	if errors.Is(err, errNotAccepted) && c.token != nil { // of authorities that are not trusted any more, say
		j.known = false
		shared, err = j.learn(ctx, c)
	}
	if err != nil {
		return err
	}
	cas := authorities{server: []byte(shared[KeyServerCA]), client: []byte(shared[KeyClientCA])}
	if len(cas.server) == 0 { // an older server
		cas.server = c.ca
	}
	if j.known {
		err = j.follow(ctx, c, cas)
	} else {
		err = j.certifyMachine(ctx, c, cas)
	}
	if err != nil {
		return err
	}
	if err := j.remember(); err != nil {
		return err
	}
	err = j.certify(ctx, c, cas)
	var denied *deniedError
	if errors.As(err, &denied) && denied.reason == ReasonReplaced && c.token != nil { // the token may give the node back
		if err := j.certifyMachine(ctx, c, cas); err != nil {
			return err
		}
		err = j.certify(ctx, c, cas)
	}
	if err != nil {
		return err
	}
	return j.files.writeKubeconfig(j.Server.String())
}

// connect finds the server and tells whether it is the one that this PC knows already.
func (j *joiner) connect(ctx context.Context, t trust) (*clients, error) {
	j.known = len(t.known) > 0 // it has patience
	cas, err := j.findServer(ctx, t)
	if err != nil {
		return nil, err
	}
	shown := func(hash string) bool {
		return slices.ContainsFunc(cas, func(c *x509.Certificate) bool { return CAHash(c) == hash })
	}
	j.known = slices.ContainsFunc(t.known, shown)
	if t.token != nil && !shown(t.token.CAHash) { // another cluster's: not for this server's eyes
		t.token = nil
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cas[0].Raw})
	return &clients{server: j.Server.String(), ca: ca, files: j.files, token: t.token}, nil
}

// trust is by what this PC knows its server, and proves itself: a token, or what it knows of its cluster, or both.
type trust struct {
	token *Token
	// known are the hashes of the CAs of the cluster in which this PC has credentials of this node; none if it has none.
	known []string
}

// hashes are those of all CAs by which the server may be known.
func (t trust) hashes() []string {
	if t.token == nil {
		return t.known
	}
	return append(slices.Clone(t.known), t.token.CAHash)
}

func (j *joiner) trust() (trust, error) {
	ca, err := os.ReadFile(j.files.ServerCA)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return trust{}, err
	}
	var t trust
	problem := "this PC has not joined yet, and there is no token"
	if name := j.files.joinedAs(time.Now()); len(ca) > 0 && name != "" {
		all, err := parseCerts(ca)
		if err != nil {
			return trust{}, fmt.Errorf("read %s: %w: remove it, and start with a token", j.files.ServerCA, err)
		}
		switch {
		case !j.files.sameMachine(j.Machine):
			problem = "this disk is a copy of another PC's, whose credentials are not this PC's"
		case name != j.Config.NodeName:
			problem = fmt.Sprintf("this PC joined as the node %s, not as %s", name, j.Config.NodeName)
		default:
			for _, c := range all {
				t.known = append(t.known, CAHash(c))
			}
		}
	}
	text, err := j.Token()
	switch {
	case err != nil:
		return trust{}, err
	case text == "" && len(t.known) == 0:
		return trust{}, &config.Error{Option: "token", Problem: problem, Remedy: "run `labk token create` on the server, and give the token with --token-file or --token"}
	case text == "":
		return t, nil
	}
	token, err := ParseToken(text)
	if err != nil {
		return trust{}, &config.Error{Option: "token", Problem: err.Error(), Remedy: "copy the whole token that `labk token create` prints on the server"}
	}
	t.token = &token
	return t, nil
}

// findServer tries until the server answers.
func (j *joiner) findServer(ctx context.Context, t trust) ([]*x509.Certificate, error) {
	began := time.Now()
	j.mu.Lock()
	j.told = began
	j.mu.Unlock()
	for {
		cas, err := findServer(ctx, j.Server, t)
		if err == nil {
			return cas, nil
		}
		var unreachable unreachableError
		if !errors.As(err, &unreachable) || ctx.Err() != nil {
			return nil, err
		}
		if !j.known && time.Since(began) > patience {
			return nil, fmt.Errorf("the server can't be reached: %w: is labk server running there, is the address right, and does its firewall let port %s in?", err, j.Server.Port())
		}
		j.wait(ctx, between, "the server can't be reached yet: %v", err)
	}
}

// wait waits, and now and then says why.
func (j *joiner) wait(ctx context.Context, pause time.Duration, format string, args ...any) {
	j.mu.Lock()
	if time.Since(j.told) > tell {
		j.told = time.Now()
		j.Say(format, args...)
	}
	j.mu.Unlock()
	select {
	case <-time.After(pause):
	case <-ctx.Done():
	}
}

// learn asks what nodes must know, and sets the shared options.
func (j *joiner) learn(ctx context.Context, c *clients) (map[string]string, error) {
	with := c.asToken
	if j.known {
		with = c.asMachine
	}
	var shared *corev1.ConfigMap
	err := j.ask(ctx, with, func(ctx context.Context, client kubernetes.Interface) (err error) {
		shared, err = client.CoreV1().ConfigMaps(Namespace).Get(ctx, ClusterConfigMap, metav1.GetOptions{})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ask what a node must know: %w", err)
	}
	if err := checkSkew(j.Version, shared.Data[KeyVersion]); err != nil {
		return nil, err
	}
	if err := j.Config.Adopt(shared.Data); err != nil {
		return nil, fmt.Errorf("take over the cluster's options: %w", err)
	}
	return shared.Data, nil
}

// remember writes the shared options down for Recall.
func (j *joiner) remember() error {
	data, err := json.MarshalIndent(j.Config.Shared(), "", "  ")
	if err != nil {
		return err
	}
	return paths.WriteFile(j.Data.ClusterOptions(), append(data, '\n'), 0o600)
}

// Recall sets the shared options to what they were when this PC last joined, and tells whether it ever did.
func Recall(c *config.Config, d paths.Data) (bool, error) {
	data, err := os.ReadFile(d.ClusterOptions())
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	shared := map[string]string{}
	if err == nil {
		err = json.Unmarshal(data, &shared)
	}
	if err == nil {
		err = c.Adopt(shared)
	}
	if err != nil {
		return false, fmt.Errorf("read what this PC knows of its cluster: %s: %w: remove the file", d.ClusterOptions(), err)
	}
	return true, nil
}

// ask asks the API with the credentials that with returns, and again while the answer may still change: a server that has just begun to serve does not know yet
// who may do what.
func (j *joiner) ask(ctx context.Context, with func() (*rest.Config, error), do func(context.Context, kubernetes.Interface) error) error {
	began := time.Now()
	for {
		cfg, err := with()
		if err != nil {
			return err
		}
		client, err := kubernetes.NewForConfig(cfg)
		if err != nil {
			return err
		}
		err = do(ctx, client)
		waited := time.Since(began)
		switch {
		case err == nil || ctx.Err() != nil:
			return err
		case apierrors.IsUnauthorized(err) && cfg.BearerToken == "":
			return errNotAccepted
		case apierrors.IsUnauthorized(err) && waited > grace:
			return errors.New("the server does not know the token: it has expired or was deleted, or a character is wrong: run `labk token create` on the server for a new one")
		case waited > patience && (apierrors.IsForbidden(err) || !j.known):
			return err
		}
		j.wait(ctx, between, "the server is not ready yet: %v", err)
	}
}

var errNotAccepted = errors.New("the server does not accept this PC's certificate: give it a new token (run `labk token create` on the server)")

// grace is for how long a server that has just started may not know a token that is good.
const grace = 3 * time.Second

// checkSkew compares versions as Kubernetes' version skew policy does.
func checkSkew(mine, theirs string) error {
	m, err := version.ParseSemantic(mine)
	if err != nil {
		return nil // a build without a version
	}
	t, err := version.ParseSemantic(theirs)
	if err != nil {
		return fmt.Errorf("the server says its version is %q: is it a labk server?", theirs)
	}
	switch skew := int(t.Minor()) - int(m.Minor()); {
	case m.Major() != t.Major() || skew < 0:
		return fmt.Errorf("this labk (%s) is newer than the server (%s), and a node must not be: upgrade the server first, or use the server's labk here", mine, theirs)
	case skew > maxSkew:
		return fmt.Errorf("this labk (%s) is older than the server (%s) by more than %d minor versions: use the server's labk here", mine, theirs, maxSkew)
	}
	return nil
}
