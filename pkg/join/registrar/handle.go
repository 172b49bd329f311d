package registrar

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apiserver/pkg/authentication/user"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"
	capi "k8s.io/kubernetes/pkg/apis/certificates"
	"k8s.io/kubernetes/pkg/controller/certificates"
	nodeutil "k8s.io/kubernetes/pkg/util/node"

	"github.com/labk/labk/pkg/join"
)

// knownSoon is how long a node may take to tell the cluster an address that it already wants a certificate for.
const knownSoon = 20 * time.Second

// tellAgain is after how long the same refusal is told again, maxTold how many are remembered.
const (
	tellAgain = 10 * time.Minute
	maxTold   = 1000
)

// handle answers a request of a node or of a PC that wants to be one; others are an administrator's to answer.
func (r *registrar) handle(ctx context.Context, csr *certificatesv1.CertificateSigningRequest) error {
	// Not from the informer's cache: what was answered a moment ago would be answered again.
	csr, err := r.client.CertificatesV1().CertificateSigningRequests().Get(ctx, csr.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up a request: %w", err)
	}
	approved, denied := certificates.GetCertApprovalCondition(&csr.Status)
	if denied || len(csr.Status.Certificate) > 0 {
		return nil
	}
	request, err := capi.ParseCSR(csr.Spec.Request)
	if err != nil {
		return nil // the API server checks that, too
	}
	from := requesterOf(csr)
	switch csr.Spec.SignerName {
	case join.MachineSigner:
		return r.handleMachine(ctx, csr, request, from, approved)
	case certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.KubeletServingSignerName:
		if approved || !from.belongs() {
			return nil
		}
		return r.handleKubelet(ctx, csr, request, from)
	}
	return nil
}

func requesterOf(csr *certificatesv1.CertificateSigningRequest) requester {
	return requester{name: csr.Spec.Username, groups: csr.Spec.Groups, credential: strings.Join(csr.Spec.Extra[user.CredentialIDKey], ",")}
}

// handleKubelet answers a request for one of the kubelet's two certificates; upstream's signers sign what is approved.
func (r *registrar) handleKubelet(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest, from requester) error {
	name := strings.TrimPrefix(request.Subject.CommonName, join.NodeUser)
	n, err := r.look(ctx, name)
	if err != nil {
		return err
	}
	if csr.Spec.SignerName == certificatesv1.KubeAPIServerClientKubeletSignerName {
		return r.answer(ctx, csr, name, clientRequest(from, request, csr.Spec.Usages, name, n.record))
	}
	limits, err := r.limits(ctx, name)
	if err != nil {
		return err
	}
	said := net.ParseIP(csr.Annotations[join.AnnotationAddress])
	v, err := servingRequest(from, request, csr.Spec.Usages, name, name == r.Config.NodeName, n, said, limits)
	if err != nil {
		if r.now().Sub(csr.CreationTimestamp.Time) < knownSoon {
			return certificates.IgnorableError("%v", err)
		}
		v = forbid("%v", err)
	}
	return r.answer(ctx, csr, name, v)
}

// handleMachine decides which PC may be which node, notes it, and signs its machine certificate.
func (r *registrar) handleMachine(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest, from requester, approved bool) error {
	name := strings.TrimPrefix(request.Subject.CommonName, join.MachineUser)
	c := claim{name: name, address: csr.Annotations[join.AnnotationAddress]}
	if err := json.Unmarshal([]byte(csr.Annotations[join.AnnotationMachine]), &c.machine); err != nil {
		return r.answer(ctx, csr, name, forbid("the request does not say which PC it is from"))
	}
	id, isToken := strings.CutPrefix(from.name, bootstrapapi.BootstrapUserPrefix)
	isToken = isToken && slices.Contains(from.groups, join.TokenGroup)
	if !isToken && !from.isMachine(name) || net.ParseIP(c.address) == nil || !plain(request, csr.Spec.Usages) {
		return r.answer(ctx, csr, name, forbid("not what a joining PC may ask for"))
	}
	if !isToken {
		return r.succeedMachine(ctx, csr, name, from, approved)
	}
	token, err := r.client.CoreV1().Secrets(join.Namespace).Get(ctx, secretName(id), metav1.GetOptions{})
	if err != nil && !(approved && apierrors.IsNotFound(err)) {
		return fmt.Errorf("look up token %s: %w", id, err)
	}
	if !approved {
		c.token = infoOf(token)
		n, err := r.look(ctx, name)
		if err != nil {
			return err
		}
		v := admit(c, n, r.Config.NodeName, r.Self, r.Names, r.now())
		if name == r.Config.NodeName && c.machine.Same(r.Self) && r.Replaced() {
			v = approve("the server's own node: this PC has taken its place") // the former PC may look Ready for a while
		}
		if !v.approved {
			return r.answer(ctx, csr, name, v)
		}
		if err := useToken(ctx, r.client, token); err != nil {
			return err
		}
		if csr, err = r.approve(ctx, csr, v); err != nil {
			return err
		}
	}
	return r.signMachine(ctx, csr, name, record{Machine: c.machine, Address: c.address, Since: r.now().UTC()})
}

// succeedMachine gives the PC that is noted as the node a machine certificate of the present authority for the one of before.
func (r *registrar) succeedMachine(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, name string, from requester, approved bool) error {
	rec, err := r.records.get(ctx, name)
	if err != nil {
		return err
	}
	v := succession(from, name, rec, r.authority)
	if !v.approved {
		return r.answer(ctx, csr, name, v)
	}
	if !approved {
		if csr, err = r.approve(ctx, csr, v); err != nil {
			return err
		}
	}
	next := *rec // whatever the request says of the PC: which one it is was decided when it joined
	next.Previous, next.Followed = from.credential, r.now().UTC()
	return r.signMachine(ctx, csr, name, next)
}

func (r *registrar) approve(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, v verdict) (*certificatesv1.CertificateSigningRequest, error) {
	setCondition(csr, v)
	csr, err := r.client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("approve a request: %w", err)
	}
	return csr, nil
}

// plain tells whether a machine's request asks for a client certificate of its group and nothing else.
func plain(request *x509.CertificateRequest, usages []certificatesv1.KeyUsage) bool {
	return strings.HasPrefix(request.Subject.CommonName, join.MachineUser) && slices.Equal(request.Subject.Organization, []string{join.MachineGroup}) &&
		len(request.DNSNames)+len(request.IPAddresses)+len(request.EmailAddresses)+len(request.URIs) == 0 &&
		usageSet(usages).Equal(usageSet([]certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}))
}

// signMachine signs a machine certificate of the node and notes it.
func (r *registrar) signMachine(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, name string, rec record) error {
	cert, err := r.signer.SignRequest(csr.Spec.Request)
	if err != nil {
		return fmt.Errorf("sign the machine certificate of %s: %w", name, err)
	}
	block, _ := pem.Decode(cert)
	if block == nil {
		return errors.New("sign a machine certificate: no PEM came back")
	}
	sum := sha256.Sum256(block.Bytes)
	rec.Credential, rec.Authority = "X509SHA256="+hex.EncodeToString(sum[:]), r.authority
	if err := r.records.put(ctx, name, rec); err != nil { // before the PC has it: what it may is looked up there
		return err
	}
	csr.Status.Certificate = cert
	if _, err := r.client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, csr, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("hand out the machine certificate of %s: %w", name, err)
	}
	return nil
}

// answer writes the verdict on the request; a refusal is told here as well.
func (r *registrar) answer(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, name string, v verdict) error {
	setCondition(csr, v)
	if _, err := r.client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("answer request %s: %w", csr.Name, err)
	}
	if v.approved || v.reason == join.ReasonStillReady {
		return nil
	}
	address := csr.Annotations[join.AnnotationAddress]
	key := name + " " + address + " " + v.reason
	if r.now().Sub(r.told[key]) < tellAgain {
		return nil // a PC whose systemd starts it again and again
	}
	if len(r.told) >= maxTold {
		clear(r.told)
	}
	r.told[key] = r.now()
	r.Say("refused a PC (%s) that asked to be the node %s: %s", address, name, v.message)
	return r.tell(ctx, name, fmt.Sprintf("A PC (%s) was refused as this node: %s", address, v.message))
}

func setCondition(csr *certificatesv1.CertificateSigningRequest, v verdict) {
	c := certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Labk", Message: v.message}
	if !v.approved {
		c.Type, c.Reason = certificatesv1.CertificateDenied, v.reason
	}
	csr.Status.Conditions = append(csr.Status.Conditions, c)
}

// tell leaves an event at the node, where `kubectl describe node` shows it.
func (r *registrar) tell(ctx context.Context, name, message string) error {
	now := metav1.NewTime(r.now())
	e := &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{GenerateName: "labk-", Namespace: metav1.NamespaceDefault},
		InvolvedObject: corev1.ObjectReference{Kind: "Node", Name: name, UID: "", APIVersion: "v1"},
		Reason:         "JoinRefused", Message: message, Type: corev1.EventTypeWarning, Count: 1, FirstTimestamp: now, LastTimestamp: now,
		Source: corev1.EventSource{Component: "labk"},
	}
	if n, err := r.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{}); err == nil {
		e.InvolvedObject.UID = n.UID
	}
	_, err := r.client.CoreV1().Events(metav1.NamespaceDefault).Create(ctx, e, metav1.CreateOptions{})
	if apierrors.IsInvalid(err) { // a name that no object can have
		return nil
	}
	return err
}

// look asks the API what there is of a node.
func (r *registrar) look(ctx context.Context, name string) (node, error) {
	rec, err := r.records.get(ctx, name)
	if err != nil {
		return node{}, err
	}
	n := node{record: rec}
	if len(validation.IsDNS1123Subdomain(name)) > 0 { // it can't be asked for
		return n, nil
	}
	object, err := r.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return n, nil
	}
	if err != nil {
		return node{}, fmt.Errorf("look up node %s: %w", name, err)
	}
	n.exists, n.ready, n.addresses = true, nodeutil.IsNodeReady(object), addressesOf(object)
	return n, nil
}

// limits asks the API which addresses are others'.
func (r *registrar) limits(ctx context.Context, name string) (servingLimits, error) {
	nodes, err := r.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		return servingLimits{}, fmt.Errorf("look up other nodes' addresses: %w", err)
	}
	l := servingLimits{names: r.Names, addresses: r.Addresses, others: func(ip net.IP) string {
		for _, n := range nodes.Items {
			if n.Name != name && nodeutil.IsNodeReady(&n) && slices.ContainsFunc(addressesOf(&n), ip.Equal) {
				return n.Name
			}
		}
		return ""
	}}
	for _, cidr := range []string{r.Config.ClusterCIDR, r.Config.ServiceCIDR} {
		if _, c, err := net.ParseCIDR(cidr); err == nil {
			l.networks = append(l.networks, c)
		}
	}
	return l, nil
}

func addressesOf(n *corev1.Node) []net.IP {
	var out []net.IP
	for _, a := range n.Status.Addresses {
		if ip := net.ParseIP(a.Address); ip != nil && (a.Type == corev1.NodeInternalIP || a.Type == corev1.NodeExternalIP) {
			out = append(out, ip)
		}
	}
	return out
}
