#!/usr/bin/env bash
# Builds what labk carries inside (runc, the shim, CNI plugins, images) into pkg/payload/bundle. Does nothing when nothing that
# goes into it has changed; FORCE=1 builds anyway. Needs Go, gcc, pkg-config and libseccomp-dev (scripts/deps.sh --build).
set -euo pipefail
cd "$(dirname "$0")/.."

out=package/out
bundle=pkg/payload/bundle
# Its own flags only: the payload must not depend on how it was called.
export GOFLAGS="-trimpath -buildvcs=false"

# Everything that the payload depends on, as one hash.
inputs() {
	{
		go version
		gcc --version | head -n 1
		pkg-config --modversion libseccomp
		{
			echo go.mod go.sum scripts/build-payload.sh
			find package pkg/payload/manifest -path "$out" -prune -o -name '*.go' ! -name '*_test.go' -print
		} | xargs -n 1 | LC_ALL=C sort | xargs sha256sum
	} | sha256sum | cut -d ' ' -f 1
}

module() { go list -m -f '{{.'"$2"'}}' "$1"; }

# static PACKAGE [go build argument...]: a small static program in $out/bin, named like its package.
static() {
	local package=$1
	shift
	echo "payload: ${package##*/}"
	CGO_ENABLED=0 go build -o "$out/bin/${package##*/}" "$@" "$package"
}

programs() {
	local runc containerd plugin
	runc=$(module github.com/opencontainers/runc Version)
	containerd=$(module github.com/containerd/containerd/v2 Version)
	echo "payload: runc"
	CGO_ENABLED=1 go build -o "$out/bin/runc" -tags "seccomp urfave_cli_no_docs netgo osusergo" \
		-ldflags "-s -w -buildid= -X main.gitCommit=$runc -linkmode external -extldflags '-static -Wl,--build-id=none'" \
		github.com/opencontainers/runc
	static github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2 -tags no_grpc -ldflags \
		"-s -w -buildid= -X github.com/containerd/containerd/v2/version.Version=$containerd"
	for plugin in main/ptp meta/portmap ipam/host-local; do
		static "github.com/containernetworking/plugins/plugins/$plugin" -ldflags \
			"-s -w -buildid= -X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=$(module \
				github.com/containernetworking/plugins Version)"
	done
}

images() {
	local kubernetes
	kubernetes=$(module k8s.io/kubernetes Dir)
	pause=$(sed -n 's/^TAG ?= *//p' "$kubernetes/build/pause/Makefile")
	coredns=$(module github.com/coredns/coredns Version)
	echo "payload: images"
	gcc -Os -Wall -Werror -static -s -Wl,--build-id=none "-DVERSION=v$pause" -o "$out/images/pause" \
		"$kubernetes/build/pause/linux/pause.c"
	CGO_ENABLED=0 go build -o "$out/images/coredns" -ldflags "-s -w -buildid=" ./package/images/coredns
	CGO_ENABLED=0 go build -o "$out/images/hello" -ldflags "-s -w -buildid=" ./package/images/hello
}

main() {
	local want pause coredns
	want=$(inputs)
	if [ -z "${FORCE:-}" ] && [ -f "$bundle/manifest.json" ] && [ "$(cat "$out/inputs" 2>/dev/null)" = "$want" ]; then
		return
	fi
	rm -rf "${out:?}/bin" "$out/images" "$out/inputs"
	mkdir -p "$out/bin" "$out/images"
	programs
	images
	go run ./package/bundle -out "$bundle" -bin "$out/bin" \
		-image "docker.io/labk/pause:$pause=$out/images/pause,65535:65535" \
		-image "docker.io/labk/coredns:${coredns#v}=$out/images/coredns" \
		-image "docker.io/labk/hello:1=$out/images/hello,65532:65532"
	echo "$want" >"$out/inputs"
}

main "$@"
