#!/usr/bin/env bash
# Builds dist/labk with its payload. The version is Kubernetes' and labk's release of it; dates come from the commit, so that the
# same commit gives the same file. LABK_RELEASE is another release number, LABK_OUTPUT another file: tests of upgrades need a newer program.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

# labk's releases of one Kubernetes version count from 1.
release=${LABK_RELEASE:-1}
output=${LABK_OUTPUT:-dist/labk}

scripts/deps.sh --build
scripts/build-payload.sh

required() { awk -v module="$1" '$1 == module { print $2; exit }' go.mod; }

commit=$(git rev-parse --verify -q HEAD || echo unknown)
date=1970-01-01T00:00:00Z
state=dirty
if [ "$commit" != unknown ]; then
	date=$(TZ=UTC git log -1 --date=format-local:%Y-%m-%dT%H:%M:%SZ --format=%cd)
	[ -n "$(git status --porcelain)" ] || state=clean
fi
kubernetes=$(required k8s.io/kubernetes)
version="$kubernetes+labk$release"
major=${kubernetes#v}
minor=${major#*.}

ldflags="-s -w"
set_var() { ldflags="$ldflags -X $1=$2"; }
for package in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
	set_var $package.gitVersion "$version"
	set_var $package.gitMajor "${major%%.*}"
	set_var $package.gitMinor "${minor%%.*}"
	set_var $package.gitCommit "$commit"
	set_var $package.gitTreeState "$state"
	set_var $package.buildDate "$date"
done
set_var github.com/labk/labk/pkg/version.Version "$version"
set_var github.com/labk/labk/pkg/version.Commit "$commit"
set_var github.com/labk/labk/pkg/version.BuildDate "$date"
components=""
while read -r name module; do
	components="$components${components:+,}$name=$(required "$module")"
done <<-END
	kubernetes k8s.io/kubernetes
	containerd github.com/containerd/containerd/v2
	runc github.com/opencontainers/runc
	cni-plugins github.com/containernetworking/plugins
	flannel github.com/flannel-io/flannel
	coredns github.com/coredns/coredns
	kine github.com/k3s-io/kine
	etcd-api go.etcd.io/etcd/api/v3
	modernc-sqlite modernc.org/sqlite
END
set_var github.com/labk/labk/pkg/version.Components "$components"
set_var github.com/containerd/containerd/v2/version.Version "$(required github.com/containerd/containerd/v2)"

mkdir -p "$(dirname "$output")"
go build -o "$output" -ldflags "$ldflags" ./cmd/labk
echo "$output: $version, $(($(stat -c %s "$output") >> 20)) MiB"
