#!/usr/bin/env bash
# Runs tests. The last lines are go test's.
#   unit  the packages' own tests, with the race detector (RACE= for none; PACKAGES= for some)
#   e2e   whole clusters in lab hosts, with dist/labk (LABK_BINARY= for another); needs root, TESTS= for a part (a -run pattern)
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

unit() {
	local race=${RACE--race} packages
	# Only packages that have tests: the others would be compiled with the race detector for nothing, and all of Kubernetes with them.
	packages=${PACKAGES:-$(go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}' ./cmd/... ./pkg/... ./package/... ./tests/... |
		grep -v /tests/e2e)}
	if [ -n "$race" ]; then
		export CGO_ENABLED=1
	fi
	# shellcheck disable=SC2086 # lists of words
	go test $race -timeout 10m $packages
}

e2e() {
	local exec=()
	export LABK_BINARY=${LABK_BINARY:-$PWD/dist/labk}
	if [ ! -x "$LABK_BINARY" ]; then
		echo "test.sh: $LABK_BINARY is not there: run make build" >&2
		exit 1
	fi
	if [ "$(id -u)" != 0 ]; then
		exec=(-exec "sudo -E")
	fi
	# One scenario at a time: a server takes 20 of the usual 128 inotify instances of a user, and no lab host may raise that limit.
	go test ./tests/e2e/... -p 1 -count=1 -timeout 40m -v -run "${TESTS:-.}" "${exec[@]}"
}

case ${1:-} in
unit) unit ;;
e2e) e2e ;;
*)
	echo "usage: test.sh unit|e2e" >&2
	exit 2
	;;
esac
