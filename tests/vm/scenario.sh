#!/bin/bash
# scenario.sh - what scripts/test-vm.sh tries inside its machine, as root, with labk in the folder of this file. An emulated
# processor is ten times slower than a real one, and so is every wait here.
set -uo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
MODE=$(cat "$HERE/mode")
TMP=$(mktemp -d)
PASSED=0 FAILED=0
NODEPORT=http://$(hostname -I | cut -d " " -f 1):30080/ # nftables answers on the node's address only
POD_IMAGE=labk.test/busybox:1

pass() { PASSED=$((PASSED + 1)); echo "ok     $(uptime_s)s  $1"; }
fail() { FAILED=$((FAILED + 1)); echo "FAILED $(uptime_s)s  $1"; }
uptime_s() { cut -d . -f 1 /proc/uptime; }

finish() {
  if [ "$FAILED" -gt 0 ] && [ "$MODE" != platform ]; then
    echo "--- the last of labk's journal"
    journalctl -u labk --no-pager -o cat -n 120 2>/dev/null
    echo "--- the rules of node ports"
    nft list table ip kube-proxy 2>/dev/null | grep -A 4 -e 'map service-nodeports' -e 'map no-endpoint-nodeports'
    echo "--- pods"
    kubectl get pods -A -o wide
    kubectl get events -A --sort-by=.lastTimestamp 2>/dev/null | tail -n 30
  fi
  echo "test-vm: $PASSED passed, $FAILED failed"
  exit 0
}
trap finish EXIT

# check TEXT CMD...: one thing tried once.
check() {
  local text=$1 out
  shift
  if out=$("$@" 2>&1); then pass "$text"; else fail "$text"; echo "$out" | tail -n 15; return 1; fi
}

# eventually SECONDS TEXT CMD...: one thing tried until it holds.
eventually() {
  local limit=$(($(uptime_s) + $1)) text=$2 out
  shift 2
  while ! out=$("$@" 2>&1); do
    if [ "$(uptime_s)" -ge "$limit" ]; then fail "$text"; echo "$out" | tail -n 15; return 1; fi
    sleep 1
  done
  pass "$text"
}

# stays SECONDS TEXT CMD...: one thing that must hold all the while.
stays() {
  local limit=$(($(uptime_s) + $1)) text=$2 out
  shift 2
  while [ "$(uptime_s)" -lt "$limit" ]; do
    if ! out=$("$@" 2>&1); then fail "$text"; echo "$out" | tail -n 15; return 1; fi
    sleep 2
  done
  pass "$text"
}

kubectl() { timeout 120 labk kubectl "$@"; }

platform() {
  check "cgroup v2, unified" grep -q ' /sys/fs/cgroup cgroup2 ' /proc/mounts
  check "memory, cpu and pids controllers" controllers
  check "CAP_SYS_RESOURCE" has_capability 24
  check "systemd runs the machine" test "$(cat /proc/1/comm)" = systemd
  check "overlayfs can be loaded" modprobe overlay
  check "nft works and iptables is not installed" nft_only
  check "a default route" grep -qE '^eth0[[:space:]]+00000000' /proc/net/route
}

controllers() {
  local name
  for name in memory cpu pids; do grep -qw "$name" /sys/fs/cgroup/cgroup.controllers || return 1; done
}
has_capability() {
  local effective
  effective=$(awk '/^CapEff/ {print $2}' /proc/self/status)
  (((16#$effective >> $1) & 1))
}
nft_only() { nft list tables && ! command -v iptables; }

install_labk() {
  install -m 755 "$HERE/labk" /usr/local/bin/labk || return 1
  cp "$HERE/labk.service" /etc/systemd/system/ && systemctl daemon-reload && labk version
}

node_ready() { [ "$(kubectl get nodes -o 'jsonpath={.items[*].status.conditions[?(@.type=="Ready")].status}')" = True ]; }
# node_back TIME: Ready, and its kubelet has renewed its lease since then; the status alone may be from before.
node_back() {
  local renewed
  renewed=$(kubectl -n kube-node-lease get leases -o 'jsonpath={.items[0].spec.renewTime}') || return 1
  [ "$(date -d "$renewed" +%s)" -gt "$1" ] && node_ready
}
dns_ready() { kubectl -n kube-system rollout status deployment/coredns --timeout=60s; }
hello_ready() { kubectl rollout status deployment/hello --timeout=60s; }

three_pods_answer() {
  curl -sS --no-keepalive --max-time 20 "$NODEPORT" >>"$TMP/answers" || return 1
  [ "$(sed -n 's/^Hello from \([^,]*\),.*/\1/p' "$TMP/answers" | sort -u | wc -l)" -eq 3 ]
}
one_answer() { curl -sS --max-time 20 "$NODEPORT" | grep -q '^Hello from '; }

# pod_image makes an image of this machine's busybox: nothing that labk brought along.
pod_image() {
  local tree=$TMP/image name
  mkdir -p "$tree/root/bin" && cp /bin/busybox "$tree/root/bin/" || return 1
  for name in sh nslookup sleep; do ln -s busybox "$tree/root/bin/$name"; done
  tar -C "$tree/root" -cf "$tree/layer.tar" bin || return 1
  cat >"$tree/config.json" <<JSON
{"architecture":"amd64","os":"linux","config":{"Cmd":["/bin/sh"],"Env":["PATH=/bin"]},
"rootfs":{"type":"layers","diff_ids":["sha256:$(sha256sum "$tree/layer.tar" | cut -d ' ' -f 1)"]}}
JSON
  echo "[{\"Config\":\"config.json\",\"RepoTags\":[\"$POD_IMAGE\"],\"Layers\":[\"layer.tar\"]}]" >"$tree/manifest.json"
  tar -C "$tree" -cf "$TMP/busybox.tar" manifest.json config.json layer.tar && labk image import "$TMP/busybox.tar"
}

dns_from_pod() {
  # shellcheck disable=SC2016 # the pod expands it
  kubectl run dns --image="$POD_IMAGE" --image-pull-policy=Never --restart=Never --command -- \
    sh -c 'i=0; until nslookup -type=a hello.default.svc.cluster.local; do i=$((i+1)); [ $i -lt 60 ] || exit 1; sleep 1; done'
}
dns_answered() {
  [ "$(kubectl get pod dns -o 'jsonpath={.status.phase}')" = Succeeded ] &&
    kubectl logs dns | grep -qF "$(kubectl get service hello -o 'jsonpath={.spec.clusterIP}')"
}

systemd_driver() {
  local pid
  test -d /sys/fs/cgroup/kubepods.slice || return 1
  pid=$(pgrep -x hello | head -n 1) && grep -q 'kubepods.slice/.*\.scope$' "/proc/$pid/cgroup"
}

# containers lists what must not change when labk is restarted: ids and restart counts, and the processes themselves.
containers() {
  kubectl get pods -A -o 'jsonpath={range .items[*]}{.metadata.name}{range .status.containerStatuses[*]} {.containerID} {.restartCount}{end}{"\n"}{end}' | sort
  pgrep -x 'hello|coredns|pause' | sort
}
unchanged() { containers >"$TMP/after" && diff "$TMP/before" "$TMP/after"; }
pods_alive() { [ "$(pgrep -x hello | wc -l)" -eq 3 ]; }
main_pid() { systemctl show labk -P MainPID; }
new_pid() { systemctl is-active labk && [ "$(main_pid)" != "$1" ]; }

# traces lists what labk makes on a machine: mounts, interfaces, routes, rules, cgroups, units, processes, folders, settings.
traces() {
  findmnt -rno TARGET | grep -v -e '^/proc/sys/fs' -e '^/run/credentials' | sort
  ip -br link | awk '{ print $1 }'
  ip route | sort
  nft list ruleset
  find /sys/fs/cgroup -type d -name '*kubepods*'
  systemctl list-units --all --no-legend --plain 'labk*.service' 'kubepods*' 'cri-*'
  pgrep -x 'hello|coredns|pause|containerd-shim' | sort
  ls -d /etc/labk /etc/systemd/system/labk* /opt/* /run/containerd /run/labk /run/netns/* /usr/libexec/kube* /var/lib/cni /var/lib/kubelet /var/lib/labk /var/log/pods /var/log/containers
  sysctl vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes net.ipv4.ip_forward
} 2>/dev/null
nothing_left() { traces >"$TMP/traces-after"; diff "$TMP/traces-before" "$TMP/traces-after"; }

removal() {
  check "labk is started again" timeout 900 systemctl start labk
  check "labk is uninstalled" timeout 300 labk uninstall
  check "and has left nothing" nothing_left
  check "the machine's network is as it was" ip route get 192.0.2.1
}

scenario() {
  traces >"$TMP/traces-before"
  check "labk is installed and tells its version" install_labk || return
  check "labk check finds nothing wrong" labk check || return
  check "systemctl start labk: it tells that it is ready" timeout 900 systemctl start labk || return
  eventually 600 "the node is Ready" node_ready || return
  eventually 600 "CoreDNS is rolled out" dns_ready
  check "hello is applied" kubectl apply -f "$HERE/hello.yaml" || return
  eventually 900 "hello's three pods are rolled out" hello_ready || return
  eventually 600 "three different pods answer on the NodePort" three_pods_answer
  check "pods are in systemd's slices" systemd_driver
  check "an image made here is imported" pod_image && check "a pod of it is created" dns_from_pod &&
    eventually 600 "that pod finds the service by its name" dns_answered
  restarts
}

restarts() {
  local pid
  containers >"$TMP/before"
  check "systemctl restart labk" timeout 900 systemctl restart labk || return
  eventually 600 "the node is Ready after the restart" node_back "$(date +%s)"
  stays 60 "no container was restarted by it" unchanged
  eventually 300 "hello answers after it" one_answer
  pid=$(main_pid)
  check "labk is killed" systemctl kill --kill-who=main -s KILL labk
  eventually 900 "systemd starts it again" new_pid "$pid" || return
  eventually 600 "the node is Ready after the kill" node_back "$(date +%s)"
  stays 60 "no container was restarted by that" unchanged
  eventually 300 "hello answers after that" one_answer
  check "systemctl stop labk" timeout 300 systemctl stop labk
  check "the pods live on" pods_alive
  eventually 60 "and answer" one_answer
  removal
}

echo "labk-vm: $(uname -r), $(nproc) processors, up in $(uptime_s) s"
platform
[ "$MODE" = platform ] || scenario
