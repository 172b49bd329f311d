#!/usr/bin/env bash
# Builds dist/labk with its payload. The version is Kubernetes' and labk's release of it; dates come from the commit, so that the
# same commit gives the same file.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

# labk's releases of one Kubernetes version count from 1.
release=1

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
set_var github.com/containerd/containerd/v2/version.Version "$(required github.com/containerd/containerd/v2)"

mkdir -p dist
go build -o dist/labk -ldflags "$ldflags" ./cmd/labk
echo "dist/labk: $version, $(($(stat -c %s dist/labk) >> 20)) MiB"
