package workloads

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/labk/labk/pkg/lab"
	"github.com/labk/labk/tests/e2e/cluster"
)

// What the README promises: the example applied, and each of its three pods answers on the node's port, from another PC.
func testHello(t *testing.T, w *world) {
	manifest, err := os.ReadFile(filepath.Join(cluster.Root(t), "examples", "hello.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	w.WriteFile(t, "/root/hello.yaml", string(manifest))
	w.Kubectl(t, "apply", "-f", "/root/hello.yaml")
	w.Kubectl(t, "rollout", "status", "deployment/hello", "--timeout=110s")
	client, url := w.Outside(), fmt.Sprintf("http://%s:30080/", w.Host.Addr())
	answered := map[string]bool{}
	cluster.Eventually(t, cluster.Limit, "answers of all three pods at "+url, func() error {
		body, err := get(client, url)
		if err != nil {
			return err
		}
		if words := strings.Fields(body); len(words) > 2 && words[0] == "Hello" {
			answered[strings.TrimSuffix(words[2], ",")] = true
		}
		if len(answered) < 3 {
			return fmt.Errorf("so far %v, the last one %q", answered, body)
		}
		return nil
	})
	w.Kubectl(t, "delete", "-f", "/root/hello.yaml", "--wait=false")
}

func get(client *http.Client, url string) (string, error) {
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), err
}

func testLogs(t *testing.T, w *world) {
	ns := w.Namespace(t)
	w.RunPod(t, ns, w.pod("talker", "echo one; until [ -e /tmp/go ]; do sleep 0.2; done; echo two"))
	follow := w.KubectlCommand(t, "logs", "-n", ns, "-f", "talker")
	lines := readLines(t, follow)
	mustEqual(t, "followed log", lines(), "one")
	w.InPod(t, ns, "talker", "touch", "/tmp/go")
	mustEqual(t, "followed log", lines(), "two")
	if err := follow.Wait(); err != nil {
		t.Errorf("logs -f did not end well with its container: %v", err)
	}

	w.CreatePod(t, ns, w.pod("again", "if [ -e /d/x ]; then echo second; exec sleep 3600; fi; touch /d/x; echo first; exit 3",
		mount("/d", emptyDir()), restarting))
	w.WaitPod(t, ns, "again", func(p *corev1.Pod) error {
		for _, s := range p.Status.ContainerStatuses {
			if s.RestartCount == 1 && s.State.Running != nil {
				if code := s.LastTerminationState.Terminated.ExitCode; code != 3 {
					t.Errorf("exit code of the first run: got %d, want 3", code)
				}
				return nil
			}
		}
		return fmt.Errorf("not restarted: %+v", p.Status.ContainerStatuses)
	})
	mustEqual(t, "logs --previous", w.Kubectl(t, "logs", "-n", ns, "--previous", "again"), "first\n")
	mustEqual(t, "logs", strings.TrimSpace(w.Kubectl(t, "logs", "-n", ns, "again")), "second")
}

// readLines starts the command and returns what reads its output line by line.
func readLines(t *testing.T, cmd *lab.Cmd) func() string {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = out.Close() })
	scanner := bufio.NewScanner(out)
	return func() string {
		t.Helper()
		if !scanner.Scan() {
			_ = cmd.Wait()
			t.Fatalf("%s: its output ended (%v): %s", strings.Join(cmd.Args, " "), scanner.Err(), said.String())
		}
		return scanner.Text()
	}
}

func testExec(t *testing.T, w *world) {
	ns := w.Namespace(t)
	w.RunPod(t, ns, w.pod("shell", "exec sleep 3600"))
	mustEqual(t, "output", w.InPod(t, ns, "shell", "sh", "-c", "echo out; echo err >&2"), "out")
	r := w.KubectlErr(t, "exec", "-n", ns, "shell", "--", "sh", "-c", "echo err >&2; exit 7")
	if r.Code != 7 || !strings.HasPrefix(r.Stderr, "err\n") {
		t.Errorf("exit 7: got code %d, standard error %q", r.Code, r.Stderr)
	}
	data := randomData(1 << 20)
	r = w.KubectlIn(t, bytes.NewReader(data), "exec", "-n", ns, "-i", "shell", "--", "cat")
	if r.Err != nil || r.Stdout != string(data) {
		t.Errorf("%d bytes through cat: %d came back, %v", len(data), len(r.Stdout), r.Err)
	}
	if r := w.KubectlErr(t, "exec", "-n", ns, "shell", "--", "no-such-program"); r.Code == 0 {
		t.Error("a program that is not there was run")
	}
}

func randomData(size int) []byte {
	source := rand.NewChaCha8([32]byte{1})
	data := make([]byte, size)
	_, _ = source.Read(data) // never fails
	return data
}

func testCopy(t *testing.T, w *world) {
	ns := w.Namespace(t)
	w.RunPod(t, ns, w.pod("store", "exec sleep 3600"))
	data := string(randomData(3 << 20))
	w.WriteFile(t, "/root/cp/in/file", data)
	w.Kubectl(t, "cp", "-n", ns, "/root/cp/in", "store:/tmp/there")
	w.Kubectl(t, "cp", "-n", ns, "store:/tmp/there/file", "/root/cp/out")
	if w.ReadFile(t, "/root/cp/out") != data {
		t.Error("what was copied into the pod and out again is not the same")
	}
}

func testPortForward(t *testing.T, w *world) {
	ns := w.Namespace(t)
	w.RunPod(t, ns, w.pod("web", "mkdir /www; echo forwarded > /www/index.html; exec httpd -f -p 127.0.0.1:8080 -h /www"))
	forward := w.KubectlCommand(t, "port-forward", "-n", ns, "pod/web", ":8080")
	line := readLines(t, forward)()
	t.Cleanup(func() { _ = forward.Process.Kill() })
	address := strings.Fields(strings.TrimPrefix(line, "Forwarding from "))
	if len(address) == 0 || !strings.HasPrefix(address[0], "127.0.0.1:") {
		t.Fatalf("port-forward said %q", line)
	}
	for range 3 { // the tunnel is used again
		body, err := get(w.Inside(), "http://"+address[0]+"/")
		if err != nil {
			t.Fatal(err)
		}
		mustEqual(t, "forwarded page", body, "forwarded\n")
	}
}

func testAttach(t *testing.T, w *world) {
	ns := w.Namespace(t)
	w.RunPod(t, ns, w.pod("echo", `while read line; do echo "got $line"; done`, func(p *corev1.Pod) { p.Spec.Containers[0].Stdin = true }))
	attach := w.KubectlCommand(t, "attach", "-n", ns, "-i", "echo")
	stdin, err := attach.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	lines := readLines(t, attach)
	t.Cleanup(func() { _ = attach.Process.Kill() })
	for _, word := range []string{"hello", "again"} {
		if _, err := fmt.Fprintln(stdin, word); err != nil {
			t.Fatal(err)
		}
		mustEqual(t, "attached output", lines(), "got "+word)
	}
}

// A pod whose image has no shell is looked at with another image that has one.
func testDebug(t *testing.T, w *world) {
	ns := w.Namespace(t)
	w.RunPod(t, ns, w.pod("bare", "", func(p *corev1.Pod) {
		p.Spec.Containers[0].Image, p.Spec.Containers[0].Command = "docker.io/labk/hello:1", nil
	}))
	w.Kubectl(t, "debug", "-n", ns, "pod/bare", "--image="+w.busybox, "--image-pull-policy=IfNotPresent", "--target=main", "-c", "look", "--profile=general",
		"--", "sh", "-c", "tr '\\0' ' ' < /proc/1/cmdline; wget -q -O- http://127.0.0.1:8080/")
	w.waitEphemeral(t, ns, "bare", "look", func(s corev1.ContainerState) bool { return s.Terminated != nil })
	log := w.Logs(t, ns, "bare", "look")
	mustContain(t, "output of the debug container", log, "hello")
	mustContain(t, "output of the debug container", log, "Hello from bare")
}

func testEphemeralContainer(t *testing.T, w *world) {
	ns := w.Namespace(t)
	pod := w.RunPod(t, ns, w.pod("host", "exec sleep 3600"))
	extra := corev1.EphemeralContainer{EphemeralContainerCommon: corev1.EphemeralContainerCommon(w.container("extra", "hostname; exec sleep 3600"))}
	pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, extra)
	if _, err := w.Client(t).CoreV1().Pods(ns).UpdateEphemeralContainers(t.Context(), pod.Name, pod, updateOptions); err != nil {
		t.Fatal(err)
	}
	w.waitEphemeral(t, ns, "host", "extra", func(s corev1.ContainerState) bool { return s.Running != nil })
	mustEqual(t, "exec in it", strings.TrimSpace(w.Kubectl(t, "exec", "-n", ns, "host", "-c", "extra", "--", "hostname")), "host")
	mustEqual(t, "its log", w.Logs(t, ns, "host", "extra"), "host\n")
}

func (w *world) waitEphemeral(t *testing.T, ns, pod, name string, done func(corev1.ContainerState) bool) {
	t.Helper()
	w.WaitPod(t, ns, pod, func(p *corev1.Pod) error {
		for _, s := range p.Status.EphemeralContainerStatuses {
			if s.Name == name && done(s.State) {
				return nil
			}
		}
		return fmt.Errorf("ephemeral containers: %+v", p.Status.EphemeralContainerStatuses)
	})
}
