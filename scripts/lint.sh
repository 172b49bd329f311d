#!/usr/bin/env bash
# Checks the project's own code: gofmt, go vet, staticcheck, and shellcheck where it is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

folders=()
for folder in cmd pkg package tests; do
	[ -d "$folder" ] && folders+=("$folder")
done

unformatted=$(gofmt -l "${folders[@]}")
if [ -n "$unformatted" ]; then
	printf 'lint: not formatted, run gofmt -w on:\n%s\n' "$unformatted" >&2
	exit 1
fi
packages=("${folders[@]/#/./}")
packages=("${packages[@]/%//...}")
go vet "${packages[@]}"
go tool staticcheck "${packages[@]}"
if command -v shellcheck >/dev/null; then
	find . -path ./dist -prune -o -path ./package/out -prune -o -path ./.git -prune -o \
		-type f \( -name '*.sh' -o -path './.ci/*' \) -print | sort | xargs shellcheck -x
else
	echo "lint: shellcheck is not installed, scripts were not checked" >&2
fi
echo "lint: clean"
