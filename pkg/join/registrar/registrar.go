// Package registrar is the server's side of joining: it keeps the tokens, tells joining PCs what they must know, decides which PC is which node and which
// certificate it gets, and shows what role a node has.
package registrar

import (
	"context"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/kubernetes/pkg/controller/certificates"
	"k8s.io/kubernetes/pkg/controller/certificates/signer"

	"github.com/labk/labk/pkg/config"
	"github.com/labk/labk/pkg/join"
	"github.com/labk/labk/pkg/lifecycle"
	"github.com/labk/labk/pkg/paths"
)

// Signer signs machine certificates: a public key for a machine's name. It returns the certificate as PEM.
type Signer interface {
	SignRequest(request []byte) ([]byte, error)
}

// Options of the registrar. Functions are called when it starts: what they return is not there before.
type Options struct {
	Config *config.Config
	// Client has all rights.
	Client func() (kubernetes.Interface, error)
	// Token is the one that this server always accepts.
	Token func() join.Token
	// Machines signs machine certificates.
	Machines func() Signer
	// ClientCA signs kubelets' client certificates, ServerCA their serving certificates, for SigningDuration each.
	ClientCA, ServerCA paths.Pair
	SigningDuration    time.Duration
	// TrustedClients and TrustedServers are files of the authorities that nodes are to trust, those that sign first.
	TrustedClients, TrustedServers string
	// Self is this machine. Names and addresses of the API's certificate are in Names and Addresses: no node gets a certificate for them, but this machine's for its own.
	Self      join.Machine
	Names     []string
	Addresses []net.IP
	// Replaced tells that this machine has taken the place of the one that was the server: the server's own node is this machine now.
	Replaced func() bool
	// Version is the cluster's Kubernetes version.
	Version string
	// Say tells a person what happened, one sentence.
	Say func(format string, args ...any)
}

// registrar runs from Start to Stop; it is ready when PCs can join.
type registrar struct {
	Options
	client    kubernetes.Interface
	signer    Signer
	authority string // hash of the CA that signs machine certificates
	records   records
	now       func() time.Time
	told      map[string]time.Time // what was refused, and when; one worker alone uses it
	ready     chan struct{}
}

// New returns the registrar.
func New(o Options) lifecycle.Component {
	r := &registrar{Options: o, now: time.Now, told: map[string]time.Time{}, ready: make(chan struct{})}
	return lifecycle.NewTask("registrar", r.run, func(ctx context.Context) error {
		select {
		case <-r.ready:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}

func (r *registrar) run(ctx context.Context) error {
	var err error
	if r.client, err = r.Client(); err != nil {
		return err
	}
	r.signer, r.records = r.Machines(), records{r.client}
	if err := r.publish(ctx); err != nil {
		return err
	}
	if err := ensurePermanent(ctx, r.client, r.Token()); err != nil {
		return fmt.Errorf("make this server's own token known: %w", err)
	}
	factory := informers.NewSharedInformerFactory(r.client, 0)
	requests := factory.Certificates().V1().CertificateSigningRequests()
	own := certificates.NewCertificateController(ctx, "labk-registrar", r.client, requests, r.handle)
	clients, err := signer.NewKubeletClientCSRSigningController(ctx, r.client, requests, r.ClientCA.Cert, r.ClientCA.Key, r.SigningDuration)
	if err != nil {
		return err
	}
	serving, err := signer.NewKubeletServingCSRSigningController(ctx, r.client, requests, r.ServerCA.Cert, r.ServerCA.Key, r.SigningDuration)
	if err != nil {
		return err
	}
	nodes := factory.Core().V1().Nodes().Informer()
	if err := r.labelRoles(ctx, nodes); err != nil {
		return err
	}
	factory.StartWithContext(ctx)
	defer factory.Shutdown()
	var workers sync.WaitGroup
	defer workers.Wait()
	workers.Go(func() { own.Run(ctx, 1) }) // one at a time: two PCs may ask for one name at once
	workers.Go(func() { clients.Run(ctx, 1) })
	workers.Go(func() { serving.Run(ctx, 1) })
	if !cache.WaitForCacheSync(ctx.Done(), requests.Informer().HasSynced) {
		return ctx.Err()
	}
	close(r.ready)
	<-ctx.Done()
	return nil
}

// publish writes what nodes must know.
func (r *registrar) publish(ctx context.Context) error {
	clients, err := os.ReadFile(r.TrustedClients)
	if err != nil {
		return err
	}
	servers, err := os.ReadFile(r.TrustedServers)
	if err != nil {
		return err
	}
	if r.authority, err = join.CAHashPEM(clients); err != nil {
		return fmt.Errorf("read %s: %w", r.TrustedClients, err)
	}
	data := r.Config.Shared()
	data[join.KeyClientCA], data[join.KeyServerCA], data[join.KeyVersion] = string(clients), string(servers), r.Version
	object := applycorev1.ConfigMap(join.ClusterConfigMap, join.Namespace).WithData(data)
	// The namespace is made by the API server itself, a moment after it began to serve.
	return wait.PollUntilContextCancel(ctx, 20*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		_, err := r.client.CoreV1().ConfigMaps(join.Namespace).Apply(ctx, object, metav1.ApplyOptions{FieldManager: "labk", Force: true})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("publish what nodes must know: %w", err)
		}
		return true, nil
	})
}
