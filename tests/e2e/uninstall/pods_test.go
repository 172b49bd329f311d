package uninstall

import "strings"

// pods are some of each kind that leaves traces on a node: volumes of all sorts, a port of the host, its network, a policy, services, and a process that does
// not heed SIGTERM.
func pods(image string) string { return strings.ReplaceAll(manifest, "IMAGE", image) }

const manifest = `
apiVersion: v1
kind: ConfigMap
metadata: {name: words}
data: {word: hello}
---
apiVersion: v1
kind: Secret
metadata: {name: secret}
stringData: {word: hush}
---
apiVersion: v1
kind: Pod
metadata: {name: stubborn, labels: {app: stubborn}}
spec:
  terminationGracePeriodSeconds: 3600
  volumes:
  - {name: memory, emptyDir: {medium: Memory}}
  - {name: disk, emptyDir: {}}
  - {name: words, configMap: {name: words}}
  - {name: secret, secret: {secretName: secret}}
  - {name: host, hostPath: {path: /srv/data, type: DirectoryOrCreate}}
  containers:
  - name: main
    image: IMAGE
    imagePullPolicy: Never
    command: [sh, -c, 'trap "" TERM; echo mine >/host/from-pod; while :; do sleep 1000; done']
    ports: [{containerPort: 80, hostPort: 8088}]
    volumeMounts:
    - {name: memory, mountPath: /memory}
    - {name: disk, mountPath: /disk}
    - {name: words, mountPath: /word, subPath: word}
    - {name: secret, mountPath: /secret}
    - {name: host, mountPath: /host}
---
apiVersion: v1
kind: Pod
metadata: {name: neighbour, labels: {app: neighbour}}
spec:
  hostNetwork: true
  hostPID: true
  containers:
  - {name: main, image: IMAGE, imagePullPolicy: Never, command: [sleep, "100000"]}
---
apiVersion: v1
kind: Service
metadata: {name: stubborn}
spec: {type: NodePort, selector: {app: stubborn}, ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed}
spec: {podSelector: {matchLabels: {app: stubborn}}, policyTypes: [Ingress, Egress]}
`
