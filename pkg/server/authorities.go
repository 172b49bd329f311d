package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/labk/labk/pkg/join"
	"github.com/labk/labk/pkg/join/registrar"
	"github.com/labk/labk/pkg/pki"
)

// settling is for how long authorities of before stay trusted after the last node has followed: in that time its kubelet gives each pod a new token and the new authority.
const settling = 24 * time.Hour

// changeAuthorities begins or finishes a change of the authorities; a fresh start makes it so. Pods go on, and agents follow by themselves (join.NewFollower).
func (s *server) changeAuthorities(ctx context.Context, c pki.Change) error {
	if !c.Finish {
		if err := s.id.locked((*pki.Store).Begin); err != nil {
			return err
		}
		s.startAnew("the cluster has new certificate authorities: starting anew with them")
		return nil
	}
	r, err := s.id.store.Rotation()
	if err != nil {
		return err
	}
	if r == nil {
		return pki.ErrNotRotating
	}
	if c.Force { // the API need not answer
		return s.finish()
	}
	p, err := s.progress(ctx)
	if err != nil {
		return err
	}
	if len(p.Behind) > 0 {
		return fmt.Errorf("finish the change of authorities: these nodes have not followed: %s: start labk on them and wait, delete the Nodes that are gone for good, "+
			"or add --force: they need a new token then", strings.Join(p.Behind, ", "))
	}
	return s.finish()
}

func (s *server) finish() error {
	if err := s.id.locked((*pki.Store).Finish); err != nil {
		return err
	}
	s.startAnew("the certificate authorities of before are not trusted any more: starting anew without them")
	return nil
}

func (s *server) startAnew(reason string) {
	select {
	case s.restart <- reason:
	default: // one is enough
	}
}

// progress tells how a change of authorities stands.
func (s *server) progress(ctx context.Context) (p pki.Progress, err error) {
	if p.Rotation, err = s.id.store.Rotation(); err != nil || p.Rotation == nil {
		return p, err
	}
	_, client, err := s.clients()
	if err != nil {
		return p, err
	}
	var present *pki.CA
	err = s.id.locked(func(store *pki.Store) (err error) {
		present, err = store.CA(pki.ClientCA)
		return err
	})
	if err != nil {
		return p, err
	}
	p.Behind, p.Followed, err = registrar.Behind(ctx, client, join.CAHash(present.Certificate()))
	return p, err
}

// finishInTime finishes a change when it has settled and all nodes have followed.
func (s *server) finishInTime(ctx context.Context) {
	p, err := s.progress(ctx)
	if err != nil || p.Rotation == nil || len(p.Behind) > 0 || time.Since(p.Rotation.Began) < settling || time.Since(p.Followed) < settling {
		return // it is looked at again
	}
	if err := s.finish(); err != nil {
		s.say("%v", err)
	}
}

// renewTokens removes the tokens in Secrets that the key of before has signed: the controller manager puts new ones in their place. Pods get theirs from the kubelet, which renews them.
func (s *server) renewTokens(ctx context.Context) error {
	r, err := s.id.store.Rotation()
	if err != nil || r == nil {
		return err
	}
	present, err := s.id.keyID()
	if err != nil {
		return err
	}
	_, client, err := s.clients()
	if err != nil {
		return err
	}
	list, err := client.CoreV1().Secrets("").List(ctx, metav1.ListOptions{FieldSelector: "type=" + string(corev1.SecretTypeServiceAccountToken)})
	if err != nil {
		return fmt.Errorf("look for service accounts' tokens: %w", err)
	}
	patch := []byte(`{"data":{"` + corev1.ServiceAccountTokenKey + `":null}}`)
	for _, secret := range list.Items {
		if token := secret.Data[corev1.ServiceAccountTokenKey]; len(token) == 0 || signedBy(token) == present {
			continue
		}
		_, err := client.CoreV1().Secrets(secret.Namespace).Patch(ctx, secret.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "labk"})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("renew the token in Secret %s/%s: %w", secret.Namespace, secret.Name, err)
		}
	}
	return nil
}

// locked does something with the store while nobody else does.
func (i *identity) locked(do func(*pki.Store) error) error {
	i.issuing.Lock()
	defer i.issuing.Unlock()
	return do(i.store)
}

// keyID is how tokens name the key that signs them: Kubernetes takes the hash of the public one.
func (i *identity) keyID() (string, error) {
	data, err := os.ReadFile(i.credentials.ServiceAccount.Cert)
	if err != nil {
		return "", err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return "", fmt.Errorf("no key in %s", i.credentials.ServiceAccount.Cert)
	}
	sum := sha256.Sum256(block.Bytes)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// signedBy is the name of the key that has signed a token, empty if it does not tell.
func signedBy(token []byte) string {
	head, _, _ := bytes.Cut(token, []byte("."))
	var header struct {
		KeyID string `json:"kid"`
	}
	if text, err := base64.RawURLEncoding.DecodeString(string(head)); err == nil {
		_ = json.Unmarshal(text, &header) // then it is of nobody's
	}
	return header.KeyID
}
