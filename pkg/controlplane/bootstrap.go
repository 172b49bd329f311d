package controlplane

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"
	schedulingv1 "k8s.io/kubernetes/pkg/apis/scheduling/v1"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"
)

// bootstrapHooks are what the API server does one second after it began to serve, one object after another: create upstream's roles,
// bindings and priority classes. Nothing else works before, so Bootstrap creates what is missing right away; the hooks then find it done, and
// reconcile what has changed since.
var bootstrapHooks = [...]string{"poststarthook/rbac/bootstrap-roles", "poststarthook/scheduling/bootstrap-system-priority-classes"}

// creations bounds how many objects are created at once: as many as one fsync of the datastore can serve together.
const creations = 16

// Bootstrap creates those of upstream's cluster roles, bindings and priority classes that are not there, and changes none that is. client must have
// all rights.
func Bootstrap(ctx context.Context, client kubernetes.Interface) error {
	roles, err := client.RbacV1().ClusterRoles().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("look which roles there are: %w", err)
	}
	bindings, err := client.RbacV1().ClusterRoleBindings().List(ctx, metav1.ListOptions{})
	if err != nil {
		return fmt.Errorf("look which role bindings there are: %w", err)
	}
	there := sets.New[string]()
	for _, r := range roles.Items {
		there.Insert("role " + r.Name)
	}
	for _, b := range bindings.Items {
		there.Insert("binding " + b.Name)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(creations)
	create := func(kind, name string, do func() error) {
		if !there.Has(kind + " " + name) {
			g.Go(func() error {
				if err := do(); err != nil && !apierrors.IsAlreadyExists(err) {
					return fmt.Errorf("create %s %s: %w", kind, name, err)
				}
				return nil
			})
		}
	}
	for _, r := range append(bootstrappolicy.ClusterRoles(), bootstrappolicy.ControllerRoles()...) {
		create("role", r.Name, func() error { return createRole(ctx, client, &r) })
	}
	for _, b := range append(bootstrappolicy.ClusterRoleBindings(), bootstrappolicy.ControllerRoleBindings()...) {
		create("binding", b.Name, func() error {
			_, err := client.RbacV1().ClusterRoleBindings().Create(ctx, &b, metav1.CreateOptions{})
			return err
		})
	}
	if len(roles.Items) == 0 { // a new cluster
		for _, p := range schedulingv1.SystemPriorityClasses() {
			create("priority class", p.Name, func() error {
				_, err := client.SchedulingV1().PriorityClasses().Create(ctx, p, metav1.CreateOptions{})
				return err
			})
		}
	}
	return g.Wait()
}

func createRole(ctx context.Context, client kubernetes.Interface, r *rbacv1.ClusterRole) error {
	_, err := client.RbacV1().ClusterRoles().Create(ctx, r, metav1.CreateOptions{})
	return err
}

// Heeded tells whether the API server's authorizer has seen what Bootstrap created, by one right of each component that is about to start. nodeUser is
// the user name of this machine's node.
func Heeded(ctx context.Context, client kubernetes.Interface, nodeUser string) bool {
	for _, r := range []authorizationv1.SubjectAccessReviewSpec{
		right(nodeUser, "system:nodes", "list", "discovery.k8s.io", "endpointslices"),
		right("system:kube-controller-manager", "", "create", "", "serviceaccounts"),
		right("system:kube-scheduler", "", "create", "", "bindings"),
		right("system:serviceaccount:kube-system:replicaset-controller", "system:serviceaccounts", "create", "", "pods"),
	} {
		answer, err := client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{Spec: r}, metav1.CreateOptions{})
		if err != nil || !answer.Status.Allowed {
			return false
		}
	}
	return true
}

func right(user, group, verb, apiGroup, resource string) authorizationv1.SubjectAccessReviewSpec {
	return authorizationv1.SubjectAccessReviewSpec{
		User: user, Groups: []string{group, "system:authenticated"},
		ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: verb, Group: apiGroup, Resource: resource},
	}
}
