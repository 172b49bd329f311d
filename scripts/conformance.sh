#!/usr/bin/env bash
# Runs Kubernetes' conformance suite on dist/labk: a server and AGENTS agents (1) in lab hosts, every image imported on every node, and
# registry.k8s.io mirrored by the same images. Arguments are those of the harness's run.sh after its first two (--pick FILE, --focus RE,
# --parallel N, --minutes M, --phase all|parallel|serial). Results: OUT (dist/conformance), summary.txt first.
#
# environment: CONFORMANCE (the harness's folder, ../shared/conformance), CONF_CACHE (what it has built), AGENTS, OUT,
#   LABK_LAB_NAME (conformance), KEEP=1 (leave the lab up)
# exit code: 0 all passed, 1 some failed, 3 none failed but some were skipped or not run, 2 it could not run
set -euo pipefail
cd "$(dirname "$0")/.."

harness=${CONFORMANCE:-../shared/conformance}
export CONF_CACHE=${CONF_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/k8s-conformance}
export LABK_LAB_NAME=${LABK_LAB_NAME:-conformance}
export LABK_LAB_DATA_DIR=/var/tmp/labk-lab-$LABK_LAB_NAME
agents=${AGENTS:-1}
out=${OUT:-dist/conformance}
lab="$PWD/dist/labk lab"
mirror_port=5001

die() {
	echo "conformance.sh: $*" >&2
	exit 2
}

[ "$(id -u)" = 0 ] || die "not root: the lab needs it: run this with sudo"
[ -x dist/labk ] || die "dist/labk is missing: run make build first"
for file in run.sh build.sh; do
	[ -f "$harness/$file" ] || die "$harness/$file is missing: set CONFORMANCE to the folder of the conformance harness"
done
command -v nsenter >/dev/null || die "nsenter is missing: install util-linux"

# in_network NAME COMMAND...: in the network of the lab's switch, h1 or h2, with this machine's files.
in_network() {
	local name=$1
	shift
	nsenter --net="$LABK_LAB_DATA_DIR/netns/$name" "$@"
}

mirror=''
finish() {
	local host
	for host in $hosts; do
		$lab exec "$host" -- cat /var/log/labk.log >"$out/$host.log" 2>/dev/null || true
	done
	if [ -n "$mirror" ]; then kill "$mirror" 2>/dev/null || true; fi
	if [ -z "${KEEP:-}" ]; then $lab down; fi
}

# give_images HOST: all images, and the place where the rest is asked for.
give_images() {
	$lab exec "$1" -- labk image import /dev/stdin <"$CONF_CACHE/images.tar" >/dev/null
	printf '[host."http://%s:%s"]\n' "$gateway" "$mirror_port" |
		$lab exec "$1" -- install -D -m 644 /dev/stdin /etc/containerd/certs.d/registry.k8s.io/hosts.toml
}

bash "$harness/build.sh"
mkdir -p "$out"
hosts=''
$lab up --agents "$agents" || die "there is no lab to run in, see above"
hosts=$($lab status -o json | sed -n 's/.*"host": "\(.*\)".*/\1/p')
trap finish EXIT
trap 'exit 130' INT TERM

gateway=$(in_network switch ip -4 -o addr show br0 | awk '{ sub("/.*", "", $4); print $4 }')
in_network switch "$CONF_CACHE/bin/mkimages" serve "$gateway:$mirror_port" "$CONF_CACHE/images.tar" >"$out/mirror.log" 2>&1 &
mirror=$!
for host in $hosts; do
	give_images "$host"
done
(umask 077 && $lab exec server -- cat /etc/labk/kubeconfig.yaml >"$out/kubeconfig")
in_network h1 bash "$harness/run.sh" "$out/kubeconfig" "$out" "$@"
