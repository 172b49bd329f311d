#!/usr/bin/env bash
# Runs tests. The last lines are go test's.
#   unit  the packages' own tests, with the race detector (RACE= for none; PACKAGES= for some)
#   e2e   whole clusters in lab hosts, with dist/labk (LABK_BINARY= for another); needs root, TESTS= for a part (a -run pattern)
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

# tested lists the packages that have tests: "race PACKAGE", or "plain PACKAGE" for one that links Kubernetes' own components, which would all be compiled once
# more for the race detector. tests/storage is plain, too: it runs the datastores as users have them, and links about as much.
tested() {
	# shellcheck disable=SC2016 # Go's template
	go list -f '{{if or .TestGoFiles .XTestGoFiles}}{{$how := "race"}}{{range .Deps}}{{if eq . "k8s.io/kubernetes/cmd/kubelet/app"}}{{$how = "plain"}}{{end}}{{end}}{{if eq .Name "storage"}}{{$how = "plain"}}{{end}}{{$how}} {{.ImportPath}}{{end}}' \
		./cmd/... ./pkg/... ./package/... ./tests/... | grep -v /tests/e2e
}

unit() {
	local race=${RACE--race} all how packages
	if [ -n "${PACKAGES:-}" ]; then
		# shellcheck disable=SC2086 # a list of words
		all=$(printf 'race %s\n' $PACKAGES)
	else
		all=$(tested)
	fi
	for how in race plain; do
		packages=$(awk -v how=$how '$1 == how { print $2 }' <<<"$all")
		[ -n "$packages" ] || continue
		# shellcheck disable=SC2086 # lists of words
		if [ $how = race ] && [ -n "$race" ]; then
			CGO_ENABLED=1 go test $race -timeout 10m $packages
		else
			go test -timeout 10m $packages
		fi
	done
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
