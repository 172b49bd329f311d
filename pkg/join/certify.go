package join

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/labk/labk/pkg/paths"
)

// issueTimeout bounds the wait for one certificate.
const issueTimeout = time.Minute

// certify gets the kubelet's certificates. A PC that has joined before gets a new client certificate though it may have one: so it learns that its node was
// given to another PC meanwhile, and does not act for it beside the other.
func (j *joiner) certify(ctx context.Context, c *clients, cas authorities) error {
	now := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	subject := pkix.Name{CommonName: NodeUser + j.Config.NodeName, Organization: []string{NodeGroup}}
	if !j.Own || j.files.current(clientStore, now, subject.CommonName, cas.client) == nil {
		g.Go(func() error {
			return j.certifyKubelet(ctx, c, clientStore, wanted{
				signer: certificatesv1.KubeAPIServerClientKubeletSignerName, usage: certificatesv1.UsageClientAuth, request: x509.CertificateRequest{Subject: subject},
			})
		})
	}
	if old := j.files.current(servingStore, now, subject.CommonName, cas.server); old == nil || !slices.ContainsFunc(old.IPAddresses, j.Address.Equal) {
		g.Go(func() error {
			return j.certifyKubelet(ctx, c, servingStore, wanted{
				signer: certificatesv1.KubeletServingSignerName, usage: certificatesv1.UsageServerAuth,
				request: x509.CertificateRequest{Subject: subject, DNSNames: []string{j.Config.NodeName}, IPAddresses: []net.IP{j.Address}},
			})
		})
	}
	return g.Wait()
}

// certifyMachine asks with the token, and puts what it gets in the place of all credentials that there were.
func (j *joiner) certifyMachine(ctx context.Context, c *clients, cas authorities) error {
	cert, key, err := j.request(ctx, c.asToken, j.wantedMachine())
	if err != nil {
		return err
	}
	if err := j.files.forget(); err != nil {
		return fmt.Errorf("forget who this PC was: %w", err)
	}
	return j.files.writeMachine(cas, cert, key, j.Machine)
}

// wantedMachine is this PC's machine certificate.
func (j *joiner) wantedMachine() wanted {
	return wanted{signer: MachineSigner, usage: certificatesv1.UsageClientAuth, request: x509.CertificateRequest{
		Subject: pkix.Name{CommonName: MachineUser + j.Config.NodeName, Organization: []string{MachineGroup}},
	}}
}

// follow writes down which authorities there are and, if another one signs now, gets a machine certificate of that one. Its key stays: so one file changes, and a power cut
// leaves the old certificate or the new one, of which the server knows both.
func (j *joiner) follow(ctx context.Context, c *clients, cas authorities) error {
	if err := j.files.writeCAs(cas); err != nil {
		return err
	}
	old, key, err := j.files.machineKey()
	if err != nil {
		return err
	}
	if signedByFirst(old, cas.client) {
		return nil
	}
	w := j.wantedMachine()
	w.key = key
	cert, _, err := j.request(ctx, c.asMachine, w)
	if err != nil {
		return err
	}
	return paths.WriteFile(j.files.machine.Cert, cert, 0o644)
}

func (j *joiner) certifyKubelet(ctx context.Context, c *clients, store string, w wanted) error {
	cert, key, err := j.request(ctx, c.asMachine, w)
	if err != nil {
		return err
	}
	return j.files.keep(store, cert, key)
}

// wanted is a certificate that is requested.
type wanted struct {
	signer  string
	usage   certificatesv1.KeyUsage
	request x509.CertificateRequest
	// key is the one to certify, nil for a new one.
	key crypto.Signer
}

// deniedError is a request that the server denied.
type deniedError struct{ reason, message string }

func (e *deniedError) Error() string { return e.message }

// request makes a key, has its certificate signed and returns both as PEM. While a node that may be this PC's own from before is still Ready, it asks again;
// for an address not for ever, as another PC may have it too.
func (j *joiner) request(ctx context.Context, with func() (*rest.Config, error), w wanted) (cert, key []byte, err error) {
	began := time.Now()
	for {
		cert, key, err = j.requestOnce(ctx, with, w)
		var denied *deniedError
		switch {
		case !errors.As(err, &denied) || ctx.Err() != nil:
			return cert, key, err
		case denied.reason == ReasonStillReady:
			j.wait(ctx, betweenRequests, "%s; waiting", denied.message)
		case denied.reason == ReasonAddressTaken && time.Since(began) < addressPatience:
			j.wait(ctx, betweenAddressRequests, "%s; waiting", denied.message)
		default:
			return nil, nil, err
		}
	}
}

func (j *joiner) requestOnce(ctx context.Context, with func() (*rest.Config, error), w wanted) (cert, key []byte, err error) {
	private := w.key
	if private == nil {
		if private, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, nil, err
		}
	}
	object, err := j.object(private, w)
	if err != nil {
		return nil, nil, err
	}
	var created *certificatesv1.CertificateSigningRequest
	err = j.ask(ctx, with, func(ctx context.Context, client kubernetes.Interface) (err error) {
		created, err = client.CertificatesV1().CertificateSigningRequests().Create(ctx, object, metav1.CreateOptions{})
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("request a certificate of %s: %w", w.signer, err)
	}
	issued, err := await(ctx, with, created)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, nil, err
	}
	return issued, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func (j *joiner) object(key crypto.Signer, w wanted) (*certificatesv1.CertificateSigningRequest, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &w.request, key)
	if err != nil {
		return nil, err
	}
	machine, err := json.Marshal(j.Machine)
	if err != nil {
		return nil, err
	}
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName: "labk-",
			Annotations:  map[string]string{AnnotationMachine: string(machine), AnnotationAddress: j.Address.String()},
		},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: w.signer,
			Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, w.usage},
		},
	}, nil
}

// await waits until the request is answered.
func await(ctx context.Context, with func() (*rest.Config, error), r *certificatesv1.CertificateSigningRequest) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, issueTimeout)
	defer cancel()
	watching, err := client(func() (*rest.Config, error) {
		cfg, err := with()
		if err == nil {
			cfg.Timeout = 0 // a watch lasts
		}
		return cfg, err
	})
	if err != nil {
		return nil, err
	}
	list := cache.NewListWatchFromClient(watching.CertificatesV1().RESTClient(), "certificatesigningrequests", "", fields.OneTermEqualSelector("metadata.name", r.Name))
	var cert []byte
	_, err = watchtools.UntilWithSync(ctx, list, &certificatesv1.CertificateSigningRequest{}, nil, func(e watch.Event) (bool, error) {
		now, ok := e.Object.(*certificatesv1.CertificateSigningRequest)
		if !ok || e.Type == watch.Deleted {
			return false, nil
		}
		for _, c := range now.Status.Conditions {
			if c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed {
				return false, &deniedError{reason: c.Reason, message: c.Message}
			}
		}
		cert = now.Status.Certificate
		return len(cert) > 0, nil
	})
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("wait for the certificate that was requested (%s): the server does not answer: look at its log, and at `labk kubectl get csr` there", r.Name)
	}
	return cert, err
}
