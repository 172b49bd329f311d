package workloads

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/labk/labk/tests/e2e/cluster"
)

var (
	createOptions = metav1.CreateOptions{}
	updateOptions = metav1.UpdateOptions{}
	getOptions    = metav1.GetOptions{}
	deleteOptions = metav1.DeleteOptions{}
)

func (w *world) configMap(t *testing.T, ns, name string, data map[string]string) *corev1.ConfigMap {
	t.Helper()
	cm, err := w.Client(t).CoreV1().ConfigMaps(ns).Create(t.Context(),
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}, createOptions)
	if err != nil {
		t.Fatal(err)
	}
	return cm
}

func (w *world) secret(t *testing.T, ns, name string, data map[string]string) {
	t.Helper()
	_, err := w.Client(t).CoreV1().Secrets(ns).Create(t.Context(),
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: data}, createOptions)
	if err != nil {
		t.Fatal(err)
	}
}

// As a variable it keeps its value, as a volume it follows.
func testConfigMap(t *testing.T, w *world) {
	ns := w.Namespace(t)
	cm := w.configMap(t, ns, "settings", map[string]string{"colour": "red"})
	ref := corev1.LocalObjectReference{Name: "settings"}
	script := `echo "variable $COLOUR $colour, file $(cat /settings/colour)"
until grep -q green /settings/colour; do sleep 0.2; done; echo "variable $COLOUR, file $(cat /settings/colour)"`
	w.RunPod(t, ns, w.pod("reader", script,
		mount("/settings", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: ref}}),
		func(p *corev1.Pod) {
			c := &p.Spec.Containers[0]
			c.Env = []corev1.EnvVar{{Name: "COLOUR", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref, Key: "colour"}}}}
			c.EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: ref}}}
		}))
	cm.Data["colour"] = "green"
	if _, err := w.Client(t).CoreV1().ConfigMaps(ns).Update(t.Context(), cm, updateOptions); err != nil {
		t.Fatal(err)
	}
	w.WaitPod(t, ns, "reader", cluster.Succeeded)
	mustEqual(t, "log", w.Logs(t, ns, "reader", ""), "variable red red, file red\nvariable red, file green\n")
}

// A pod reads it, the datastore's files do not show it: they do show the same kind of text in a ConfigMap.
func testSecret(t *testing.T, w *world) {
	ns := w.Namespace(t)
	const hidden, open = "hidden-8c1f0a6e94", "open-2b7d53e1c0"
	w.secret(t, ns, "password", map[string]string{"password": hidden})
	w.configMap(t, ns, "motto", map[string]string{"motto": open})
	mode := int32(0o400)
	out := w.Output(t, ns, w.pod("reader", "cat /secret/password; echo; stat -L -c %a /secret/password; grep ' /secret ' /proc/mounts",
		mount("/secret", corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "password", DefaultMode: &mode}})))
	lines := strings.Split(out, "\n")
	if len(lines) != 3 || lines[0] != hidden || lines[1] != "400" || !strings.HasPrefix(lines[2], "tmpfs") {
		t.Errorf("in the pod: got %q, want the secret, its mode 400 and a tmpfs", lines)
	}
	dir, err := w.Host.Path("/var/lib/labk/server/db")
	if err != nil {
		t.Fatal(err)
	}
	encoded := base64.StdEncoding.EncodeToString([]byte(hidden))
	found := map[string]bool{}
	files, err := filepath.Glob(dir + "/*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in the datastore's folder: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // SQLite removes its own
		}
		for _, text := range []string{hidden, encoded, open} {
			found[text] = found[text] || strings.Contains(string(data), text)
		}
	}
	if found[hidden] || found[encoded] {
		t.Error("the secret stands in the datastore's files")
	}
	if !found[open] {
		t.Error("the ConfigMap's text does not stand in the datastore's files: this test looks in the wrong place")
	}
}

func testToken(t *testing.T, w *world) {
	ns := w.Namespace(t)
	seconds := int64(600)
	source := corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "labtest", ExpirationSeconds: &seconds, Path: "token"}},
		{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "name", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}},
	}}}
	program := corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: filepath.Dir(w.Program())}}
	script := `cat /p/token; echo; cat /p/name; echo; cat /var/run/secrets/kubernetes.io/serviceaccount/token; echo
/program/` + filepath.Base(w.Program()) + ` kubectl auth whoami -o 'jsonpath={.status.userInfo.username}'`
	lines := strings.Split(w.Output(t, ns, w.pod("holder", script, mount("/p", source), mount("/program", program))), "\n")
	if len(lines) != 4 || lines[1] != "holder" {
		t.Fatalf("in the pod: %q", lines)
	}
	user := "system:serviceaccount:" + ns + ":default"
	mustEqual(t, "kubectl in the pod", lines[3], user)
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: lines[0], Audiences: []string{"labtest"}}}
	review, err := w.Client(t).AuthenticationV1().TokenReviews().Create(t.Context(), review, createOptions)
	if err != nil {
		t.Fatal(err)
	}
	if !review.Status.Authenticated || review.Status.User.Username != user {
		t.Errorf("review of the projected token: %+v", review.Status)
	}
	if _, err := w.whoAmI(t, lines[0]); err == nil {
		t.Error("a token for another audience was good for the API")
	}
	name, err := w.whoAmI(t, lines[2])
	if err != nil {
		t.Fatal(err)
	}
	mustEqual(t, "the pod's own token", name, user)
}

// whoAmI asks the API as whom it knows the bearer of the token.
func (w *world) whoAmI(t *testing.T, token string) (string, error) {
	t.Helper()
	cfg := rest.AnonymousClientConfig(w.Config(t))
	cfg.BearerToken = token
	client, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r, err := client.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, createOptions)
	if err != nil {
		return "", err
	}
	return r.Status.UserInfo.Username, nil
}

// Two containers share one on the disk and one in memory, which has the size that was asked for.
func testEmptyDir(t *testing.T, w *world) {
	ns := w.Namespace(t)
	size := resource.MustParse("8Mi")
	pod := w.pod("pair", "until [ -e /mem/x ]; do sleep 0.2; done; cat /disk/x /mem/x; grep ' /mem ' /proc/mounts; df -k /mem | tail -n 1")
	pod.Spec.Containers = append(pod.Spec.Containers, w.container("writer", "echo disk > /disk/x; echo memory > /mem/y; mv /mem/y /mem/x"))
	mount("/disk", emptyDir())(pod)
	mount("/mem", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &size}})(pod)
	w.CreatePod(t, ns, pod)
	w.WaitPod(t, ns, "pair", cluster.Succeeded)
	lines := strings.Split(w.Logs(t, ns, "pair", "main"), "\n")
	if len(lines) < 4 || lines[0] != "disk" || lines[1] != "memory" || !strings.HasPrefix(lines[2], "tmpfs /mem tmpfs") {
		t.Fatalf("log: %q", lines)
	}
	mustContain(t, "size in KiB", lines[3], " 8192 ")
}

func testHostPath(t *testing.T, w *world) {
	ns := w.Namespace(t)
	w.WriteFile(t, "/var/lib/hostpath/in", "from the host")
	kind := corev1.HostPathDirectory
	out := w.Output(t, ns, w.pod("guest", "cat /h/in; echo from the pod > /h/out",
		mount("/h", corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/var/lib/hostpath", Type: &kind}})))
	mustEqual(t, "read", out, "from the host")
	mustEqual(t, "written", w.ReadFile(t, "/var/lib/hostpath/out"), "from the pod\n")
}

func testSubPath(t *testing.T, w *world) {
	ns := w.Namespace(t)
	w.configMap(t, ns, "files", map[string]string{"a.conf": "alpha", "b.conf": "beta"})
	pod := w.pod("parts", "cat /etc/a.conf; echo; ls /etc/passwd; echo x > /one/f; ls /all; ls /all/sub /all/parts")
	mount("/all", emptyDir())(pod)
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: "files", VolumeSource: corev1.VolumeSource{
		ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "files"}}}})
	c := &pod.Spec.Containers[0]
	c.Env = []corev1.EnvVar{{Name: "POD", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}
	c.VolumeMounts = append(c.VolumeMounts,
		corev1.VolumeMount{Name: "files", MountPath: "/etc/a.conf", SubPath: "a.conf"},
		corev1.VolumeMount{Name: "all", MountPath: "/one", SubPath: "sub"},
		corev1.VolumeMount{Name: "all", MountPath: "/two", SubPathExpr: "$(POD)"})
	mustEqual(t, "log", strings.Join(strings.Fields(w.Output(t, ns, pod)), " "),
		"alpha /etc/passwd parts sub /all/parts: /all/sub: f")
}
