package registrar

import (
	"context"
	"crypto/subtle"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	bootstrapapi "k8s.io/cluster-bootstrap/token/api"

	"github.com/labk/labk/pkg/join"
)

// What a token's Secret says beside Kubernetes' own keys, as annotations.
const (
	annotationUses      = "labk.io/uses-left"
	annotationReplace   = "labk.io/replaces-node"
	annotationPermanent = "labk.io/permanent"
)

// TokenInfo is a token without its secret.
type TokenInfo struct {
	ID          string     `json:"id"`
	Description string     `json:"description,omitempty"`
	Expires     *time.Time `json:"expires,omitempty"`
	// UsesLeft is how many PCs it still lets in; nil for any number.
	UsesLeft *int `json:"usesLeft,omitempty"`
	// Replaces is the node that it hands over to another PC.
	Replaces string `json:"replaces,omitempty"`
	// Permanent is the one that the server makes itself and keeps in its data folder.
	Permanent bool `json:"permanent,omitempty"`
}

// TokenOptions of CreateToken.
type TokenOptions struct {
	// TTL is how long it is good; 0 for ever.
	TTL         time.Duration
	Description string
	// Uses is how many PCs it lets in; 0 for any number.
	Uses int
	// Replace names a node that the PC with this token takes over, whatever hardware it has.
	Replace string
}

// CreateToken makes the token known to the cluster.
func CreateToken(ctx context.Context, client kubernetes.Interface, t join.Token, o TokenOptions) error {
	s := secretOf(t, o.Description)
	if o.TTL > 0 {
		s.Data[bootstrapapi.BootstrapTokenExpirationKey] = []byte(time.Now().Add(o.TTL).UTC().Format(time.RFC3339))
	}
	if o.Uses > 0 {
		s.Annotations[annotationUses] = strconv.Itoa(o.Uses)
	}
	if o.Replace != "" {
		s.Annotations[annotationReplace] = o.Replace
	}
	if _, err := client.CoreV1().Secrets(join.Namespace).Create(ctx, s, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("create token: %w", err)
	}
	return nil
}

func secretOf(t join.Token, description string) *corev1.Secret {
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: secretName(t.ID), Namespace: join.Namespace, Annotations: map[string]string{}},
		Type:       bootstrapapi.SecretTypeBootstrapToken,
		Data: map[string][]byte{
			bootstrapapi.BootstrapTokenIDKey:               []byte(t.ID),
			bootstrapapi.BootstrapTokenSecretKey:           []byte(t.Secret),
			bootstrapapi.BootstrapTokenDescriptionKey:      []byte(description),
			bootstrapapi.BootstrapTokenUsageAuthentication: []byte("true"),
			bootstrapapi.BootstrapTokenExtraGroupsKey:      []byte(join.TokenGroup),
		},
	}
}

func secretName(id string) string { return bootstrapapi.BootstrapTokenSecretPrefix + id }

// ListTokens lists the cluster's join tokens, those that end first at the top.
func ListTokens(ctx context.Context, client kubernetes.Interface) ([]TokenInfo, error) {
	all, err := client.CoreV1().Secrets(join.Namespace).List(ctx, metav1.ListOptions{FieldSelector: "type=" + string(bootstrapapi.SecretTypeBootstrapToken)})
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	out := make([]TokenInfo, 0, len(all.Items))
	for _, s := range all.Items {
		if slices.Contains(strings.Split(string(s.Data[bootstrapapi.BootstrapTokenExtraGroupsKey]), ","), join.TokenGroup) {
			out = append(out, infoOf(&s))
		}
	}
	slices.SortFunc(out, func(a, b TokenInfo) int {
		switch {
		case a.Expires == nil && b.Expires == nil:
			return strings.Compare(a.ID, b.ID)
		case a.Expires == nil:
			return 1
		case b.Expires == nil:
			return -1
		}
		return a.Expires.Compare(*b.Expires)
	})
	return out, nil
}

func infoOf(s *corev1.Secret) TokenInfo {
	info := TokenInfo{
		ID:          string(s.Data[bootstrapapi.BootstrapTokenIDKey]),
		Description: string(s.Data[bootstrapapi.BootstrapTokenDescriptionKey]),
		Replaces:    s.Annotations[annotationReplace],
		Permanent:   s.Annotations[annotationPermanent] != "",
	}
	if t, err := time.Parse(time.RFC3339, string(s.Data[bootstrapapi.BootstrapTokenExpirationKey])); err == nil {
		info.Expires = &t
	}
	if n, err := strconv.Atoi(s.Annotations[annotationUses]); err == nil {
		info.UsesLeft = &n
	}
	return info
}

// DeleteToken deletes a token by its id, and returns what it was; whoever joined with it stays.
func DeleteToken(ctx context.Context, client kubernetes.Interface, id string) (TokenInfo, error) {
	secrets := client.CoreV1().Secrets(join.Namespace)
	s, err := secrets.Get(ctx, secretName(id), metav1.GetOptions{})
	if err == nil {
		err = secrets.Delete(ctx, s.Name, metav1.DeleteOptions{})
	}
	if apierrors.IsNotFound(err) {
		return TokenInfo{}, fmt.Errorf("delete token: there is none with the id %s: see `labk token list`", id)
	}
	if err != nil {
		return TokenInfo{}, fmt.Errorf("delete token: %w", err)
	}
	return infoOf(s), nil
}

// ensurePermanent makes the server's own token known, and its predecessor unknown.
func ensurePermanent(ctx context.Context, client kubernetes.Interface, t join.Token) error {
	secrets := client.CoreV1().Secrets(join.Namespace)
	all, err := secrets.List(ctx, metav1.ListOptions{FieldSelector: "type=" + string(bootstrapapi.SecretTypeBootstrapToken)})
	if err != nil {
		return err
	}
	there := false
	for _, s := range all.Items {
		switch {
		case s.Name == secretName(t.ID) && subtle.ConstantTimeCompare(s.Data[bootstrapapi.BootstrapTokenSecretKey], []byte(t.Secret)) == 1:
			there = true
		case s.Name == secretName(t.ID) || s.Annotations[annotationPermanent] != "":
			if err := secrets.Delete(ctx, s.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				return err
			}
		}
	}
	if there {
		return nil
	}
	s := secretOf(t, "this server's own, for ever")
	s.Annotations[annotationPermanent] = "true"
	_, err = secrets.Create(ctx, s, metav1.CreateOptions{})
	return err
}

// useToken counts a use of a token that has only so many.
func useToken(ctx context.Context, client kubernetes.Interface, s *corev1.Secret) error {
	left := infoOf(s).UsesLeft
	if left == nil {
		return nil
	}
	s.Annotations[annotationUses] = strconv.Itoa(*left - 1)
	if _, err := client.CoreV1().Secrets(join.Namespace).Update(ctx, s, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("count the use of token %s: %w", infoOf(s).ID, err)
	}
	return nil
}
