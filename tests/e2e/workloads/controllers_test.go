package workloads

import (
	"fmt"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/labk/labk/tests/e2e/cluster"
)

func listBy(labels string) metav1.ListOptions { return metav1.ListOptions{LabelSelector: labels} }

func (w *world) waitJob(t *testing.T, ns, name string, want batchv1.JobConditionType) *batchv1.Job {
	t.Helper()
	var job *batchv1.Job
	cluster.Eventually(t, cluster.Limit, fmt.Sprintf("job %s %s", name, want), func() (err error) {
		if job, err = w.Client(t).BatchV1().Jobs(ns).Get(t.Context(), name, getOptions); err != nil {
			return err
		}
		for _, c := range job.Status.Conditions {
			if c.Type == want && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("status %+v", job.Status)
	})
	return job
}

func testJob(t *testing.T, w *world) {
	ns := w.Namespace(t)
	w.Apply(t, ns, w.yaml(`
apiVersion: batch/v1
kind: Job
metadata: {name: counts}
spec:
  completions: 3
  parallelism: 2
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: BUSYBOX, command: [sh, -c, 'echo index $JOB_COMPLETION_INDEX']}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: fails}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: BUSYBOX, command: ["false"]}]
`))
	if job := w.waitJob(t, ns, "counts", batchv1.JobComplete); job.Status.Succeeded != 3 || job.Status.CompletedIndexes != "0-2" {
		t.Errorf("status of the job: %+v", job.Status)
	}
	pods, err := w.Client(t).CoreV1().Pods(ns).List(t.Context(), listBy("batch.kubernetes.io/job-name=counts,batch.kubernetes.io/job-completion-index=2"))
	if err != nil || len(pods.Items) != 1 {
		t.Fatalf("the pod of index 2: %v, %v", pods, err)
	}
	mustEqual(t, "log", w.Logs(t, ns, pods.Items[0].Name, ""), "index 2\n")
	w.waitJob(t, ns, "fails", batchv1.JobFailed)
}

// By hand at once, by the clock in the next minute.
func testCronJob(t *testing.T, w *world) {
	ns := w.Namespace(t)
	w.Apply(t, ns, w.yaml(`
apiVersion: batch/v1
kind: CronJob
metadata: {name: tick}
spec:
  schedule: "* * * * *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers: [{name: main, image: BUSYBOX, command: [date]}]
`))
	w.Kubectl(t, "create", "job", "-n", ns, "--from=cronjob/tick", "by-hand")
	w.waitJob(t, ns, "by-hand", batchv1.JobComplete)
	scheduled := ""
	cluster.Eventually(t, cluster.Limit, "a job by the clock", func() error {
		jobs, err := w.Client(t).BatchV1().Jobs(ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, j := range jobs.Items {
			if strings.HasPrefix(j.Name, "tick-") {
				scheduled = j.Name
				return nil
			}
		}
		return fmt.Errorf("%d jobs, none of the clock's", len(jobs.Items))
	})
	w.waitJob(t, ns, scheduled, batchv1.JobComplete)
}

func testDaemonSet(t *testing.T, w *world) {
	ns := w.Namespace(t)
	w.Apply(t, ns, w.yaml(`
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: each}
spec:
  selector: {matchLabels: {app: each}}
  template:
    metadata: {labels: {app: each}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: BUSYBOX, command: [sleep, "3600"]}]
`))
	w.Kubectl(t, "rollout", "status", "-n", ns, "daemonset/each", "--timeout=110s")
	w.Kubectl(t, "set", "env", "-n", ns, "daemonset/each", "VERSION=2")
	w.Kubectl(t, "rollout", "status", "-n", ns, "daemonset/each", "--timeout=110s")
	pods, err := w.Client(t).CoreV1().Pods(ns).List(t.Context(), listBy("app=each"))
	if err != nil {
		t.Fatal(err)
	}
	running := 0
	for _, p := range pods.Items {
		if p.DeletionTimestamp == nil {
			running++
			mustEqual(t, "the pod's node", p.Spec.NodeName, strings.ToLower(w.Host.Name()))
		}
	}
	if running != 1 {
		t.Errorf("%d pods on one node", running)
	}
}

// Its pods have the same names all their life, also in DNS and after a death.
func testStatefulSet(t *testing.T, w *world) {
	ns := w.Namespace(t)
	w.Apply(t, ns, w.yaml(`
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {clusterIP: None, selector: {app: db}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: BUSYBOX, command: [sleep, "3600"]}]
`))
	w.Kubectl(t, "rollout", "status", "-n", ns, "statefulset/db", "--timeout=110s")
	pods := w.Client(t).CoreV1().Pods(ns)
	first, err := pods.Get(t.Context(), "db-0", getOptions)
	if err != nil {
		t.Fatal(err)
	}
	w.resolves(t, ns, "db-0", "db-1.db")
	if err := pods.Delete(t.Context(), "db-0", deleteOptions); err != nil {
		t.Fatal(err)
	}
	cluster.Eventually(t, cluster.Limit, "another db-0", func() error {
		p, err := pods.Get(t.Context(), "db-0", getOptions)
		if err != nil {
			return err
		}
		if p.UID == first.UID {
			return fmt.Errorf("it is still the first one")
		}
		return cluster.Ready(p)
	})
	mustEqual(t, "host name", w.InPod(t, ns, "db-0", "hostname"), "db-0")
	w.resolves(t, ns, "db-1", "db-0.db")
}

// resolves waits until the pod finds the name of another in DNS, with that one's present address.
func (w *world) resolves(t *testing.T, ns, pod, name string) {
	t.Helper()
	target, _, _ := strings.Cut(name, ".")
	cluster.Eventually(t, cluster.Limit, name+" in DNS", func() error {
		p, err := w.Client(t).CoreV1().Pods(ns).Get(t.Context(), target, getOptions)
		if err != nil {
			return err
		}
		r := w.KubectlErr(t, "exec", "-n", ns, pod, "--", "nslookup", name+"."+ns+".svc.cluster.local")
		if r.Err != nil || !strings.Contains(r.Stdout, p.Status.PodIP) {
			return fmt.Errorf("nslookup said %q, the pod has %s: %w", r.Stdout, p.Status.PodIP, r.Err)
		}
		return nil
	})
}

const webManifest = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: BUSYBOX
        command: [sh, -c, 'mkdir /www; echo $VERSION > /www/index.html; exec httpd -f -p 8080 -h /www']
        env: [{name: VERSION, value: one}]
        readinessProbe: {periodSeconds: 1, httpGet: {path: /, port: 8080}}
`

// A new version, one that cannot start (the old one goes on serving), and back.
func testRollingUpdate(t *testing.T, w *world) {
	ns := w.Namespace(t)
	w.Apply(t, ns, w.yaml(webManifest))
	service, err := w.Client(t).CoreV1().Services(ns).Get(t.Context(), "web", getOptions)
	if err != nil {
		t.Fatal(err)
	}
	client, url := w.Inside(), "http://"+service.Spec.ClusterIP+"/"
	serves := func(want string) {
		t.Helper()
		w.Kubectl(t, "rollout", "status", "-n", ns, "deployment/web", "--timeout=110s")
		cluster.Eventually(t, cluster.Limit, "answer "+want, func() error {
			for range 10 {
				if body, err := get(client, url); err != nil || strings.TrimSpace(body) != want {
					return fmt.Errorf("got %q, %w", body, err)
				}
			}
			return nil
		})
	}
	serves("one")
	w.Kubectl(t, "set", "env", "-n", ns, "deployment/web", "VERSION=two")
	serves("two")
	w.Kubectl(t, "set", "image", "-n", ns, "deployment/web", "main=docker.io/labtest/nowhere:1")
	cluster.Eventually(t, cluster.Limit, "failure to get an image that is nowhere", func() error {
		text := w.Kubectl(t, "get", "pods", "-n", ns, "-o", "jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}")
		if !strings.Contains(text, "ErrImagePull") && !strings.Contains(text, "ImagePullBackOff") {
			return fmt.Errorf("waiting for %q", text)
		}
		return nil
	})
	body, err := get(client, url)
	if err != nil {
		t.Errorf("during an update that cannot go on: %v", err)
	}
	mustEqual(t, "the old version", strings.TrimSpace(body), "two")
	w.Kubectl(t, "rollout", "undo", "-n", ns, "deployment/web")
	serves("two")
	w.Kubectl(t, "rollout", "undo", "-n", ns, "deployment/web", "--to-revision=1")
	serves("one")
}

// It is accepted, and its controller says what it lacks: the metrics.
func testAutoscaler(t *testing.T, w *world) {
	ns := w.Namespace(t)
	w.Apply(t, ns, w.yaml(strings.Replace(webManifest, "replicas: 2", "replicas: 1", 1)))
	w.Apply(t, ns, `
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec:
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  minReplicas: 1
  maxReplicas: 3
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 50}}}]
`)
	cluster.Eventually(t, cluster.Limit, "condition of the autoscaler", func() error {
		hpa, err := w.Client(t).AutoscalingV2().HorizontalPodAutoscalers(ns).Get(t.Context(), "web", getOptions)
		if err != nil {
			return err
		}
		for _, c := range hpa.Status.Conditions {
			if c.Type == "AbleToScale" && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return fmt.Errorf("conditions %+v", hpa.Status.Conditions)
	})
}
