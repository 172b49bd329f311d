package join

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/labk/labk/pkg/join"
	"github.com/labk/labk/tests/e2e/cluster"
)

// credential is something by which somebody proves himself to the API.
type credential struct {
	kubernetes.Interface
	config *rest.Config
	// annotations are what the PC that it belongs to says of itself.
	annotations map[string]string
}

// anonymous is a client without any proof.
func (j *joined) anonymous(t testing.TB) *rest.Config {
	cfg := j.Config(t)
	cfg.CertFile, cfg.KeyFile, cfg.CertData, cfg.KeyData, cfg.BearerToken = "", "", nil, nil, ""
	return cfg
}

func (j *joined) credential(t testing.TB, of *cluster.Node, cfg *rest.Config) credential {
	t.Helper()
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return credential{client, cfg, map[string]string{
		join.AnnotationMachine: of.Sh(t, "cat /var/lib/labk/agent/tls/machine.json"), join.AnnotationAddress: of.Host.Addr().String(),
	}}
}

// fromDisk is a credential that an agent keeps; the kubelet's are links to files of certificate and key.
func (j *joined) fromDisk(t testing.TB, n *cluster.Node, cert, key string) credential {
	t.Helper()
	cfg := j.anonymous(t)
	cfg.CertData = []byte(n.Sh(t, "cat /var/lib/labk/agent/tls/"+cert))
	cfg.KeyData = []byte(n.Sh(t, "cat /var/lib/labk/agent/tls/"+key))
	return j.credential(t, n, cfg)
}

func (j *joined) asNode(t testing.TB, n *cluster.Node) credential {
	return j.fromDisk(t, n, "kubelet-client-current.pem", "kubelet-client-current.pem")
}

func (j *joined) asMachine(t testing.TB, n *cluster.Node) credential {
	return j.fromDisk(t, n, "machine.crt", "machine.key")
}

// asToken comes with a join token from the PC.
func (j *joined) asToken(t testing.TB, n *cluster.Node) credential {
	cfg := j.anonymous(t)
	cfg.BearerToken = parse(t, createToken(t, j.Cluster)).Bootstrap()
	return j.credential(t, n, cfg)
}

// request asks for a certificate. The error is a refusal of the API itself.
func (c credential) request(ctx context.Context, signer string, r x509.CertificateRequest, usages ...certificatesv1.KeyUsage) (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &r, key)
	if err != nil {
		return "", err
	}
	created, err := c.CertificatesV1().CertificateSigningRequests().Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "test-", Annotations: c.annotations},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), SignerName: signer,
			Usages: append([]certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature}, usages...),
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return created.Name, nil
}

// Signers and usages, shorter.
const (
	forClient  = certificatesv1.KubeAPIServerClientKubeletSignerName
	forServing = certificatesv1.KubeletServingSignerName
	forAdmin   = certificatesv1.KubeAPIServerClientSignerName
	client     = certificatesv1.UsageClientAuth
	server     = certificatesv1.UsageServerAuth
)

// answer waits until the request is denied, with the reason and message, or has its certificate.
func (j *joined) answer(t testing.TB, name string) (issued bool, reason, message string) {
	t.Helper()
	cluster.Eventually(t, cluster.Limit, "answer to "+name, func() error {
		r, err := j.Client(t).CertificatesV1().CertificateSigningRequests().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if issued = len(r.Status.Certificate) > 0; issued {
			return nil
		}
		for _, c := range r.Status.Conditions {
			if c.Type == certificatesv1.CertificateDenied {
				reason, message = c.Reason, c.Message
				return nil
			}
		}
		return fmt.Errorf("there is none: %v", r.Status.Conditions)
	})
	return issued, reason, message
}

// ignored makes sure that nobody has approved a request: it waits for the answer to a good one that came later.
func (j *joined) ignored(t testing.TB, name string) {
	t.Helper()
	later, err := j.asNode(t, j.a).request(t.Context(), forClient, nodeRequest(nameA), client)
	if err != nil {
		t.Fatal(err)
	}
	if issued, reason, message := j.answer(t, later); !issued {
		t.Fatalf("a good request was denied: %s: %s", reason, message)
	}
	r, err := j.Client(t).CertificatesV1().CertificateSigningRequests().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Status.Conditions {
		if c.Type == certificatesv1.CertificateApproved {
			t.Errorf("it was approved: %s", c.Message)
		}
	}
	if len(r.Status.Certificate) > 0 {
		t.Error("it was signed")
	}
}

// nodeRequest is what a kubelet asks for, for a start.
func nodeRequest(name string) x509.CertificateRequest {
	return x509.CertificateRequest{Subject: pkix.Name{CommonName: join.NodeUser + name, Organization: []string{join.NodeGroup}}}
}

func machineRequest(name string) x509.CertificateRequest {
	return x509.CertificateRequest{Subject: pkix.Name{CommonName: join.MachineUser + name, Organization: []string{join.MachineGroup}}}
}

// refusedByAPI tells whether the API did not even take a request.
func refusedByAPI(err error) bool {
	return apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || errors.Is(err, context.Canceled)
}
