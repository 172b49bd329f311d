#!/usr/bin/env bash
# Installs what is missing of the packages that labk needs on Debian and Ubuntu; elsewhere, or without rights, says what to do.
#   --build  to build labk
#   --run    to run it
#   --test   to build, run and test it
set -euo pipefail

build="gcc libc6-dev libseccomp-dev pkg-config"
run="nftables netbase mount"
test="buildah debootstrap debian-archive-keyring iptables iproute2 conntrack shellcheck busybox-static openssl procps util-linux zsh fish man-db postgresql mariadb-server etcd-server strace"

need=""
for arg in "$@"; do
	case $arg in
	--build) need="$need $build" ;;
	--run) need="$need $run" ;;
	--test) need="$need $build $run $test" ;;
	*)
		echo "deps.sh: unknown argument $arg (--build, --run, --test)" >&2
		exit 2
		;;
	esac
done

check_go() {
	local want have
	want=$(awk '$1 == "go" { print $2; exit }' "$(dirname "$0")/../go.mod")
	if ! command -v go >/dev/null; then
		echo "deps.sh: Go is not installed: get $want or newer from https://go.dev/dl/ and put it in PATH" >&2
		exit 1
	fi
	have=$(go env GOVERSION)
	if [ "$(printf '%s\n' "$want" "${have#go}" | sort -V | head -n 1)" != "$want" ]; then
		echo "deps.sh: Go $have is too old: get $want or newer from https://go.dev/dl/" >&2
		exit 1
	fi
}

# missing PACKAGE...: those that are not installed.
missing() {
	local package
	for package in "$@"; do
		if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
			printf ' %s' "$package"
		fi
	done
}

# elsewhere checks for the things themselves where packages have other names.
elsewhere() {
	local lack=""
	case " $need " in
	*" gcc "*)
		command -v gcc >/dev/null || lack="$lack, gcc"
		pkg-config --exists libseccomp 2>/dev/null ||
			lack="$lack, pkg-config with libseccomp's headers and static library (Fedora: libseccomp-devel libseccomp-static glibc-static)"
		;;
	esac
	case " $need " in
	*" nftables "*) command -v nft >/dev/null || command -v iptables >/dev/null || lack="$lack, nftables" ;;
	esac
	case " $need " in
	*" netbase "*) grep -q '^tcp[[:space:]]' /etc/protocols 2>/dev/null || lack="$lack, what has /etc/protocols (Fedora: setup, openSUSE: netcfg, Arch: iana-etc)" ;;
	esac
	if [ -n "$lack" ]; then
		echo "deps.sh: install${lack#,}, then try again" >&2
		exit 1
	fi
}

install() {
	local sudo=""
	if [ "$(id -u)" != 0 ]; then
		if ! command -v sudo >/dev/null; then
			echo "deps.sh: as root, run: apt-get update && apt-get install -y --no-install-recommends $*" >&2
			exit 1
		fi
		sudo=sudo
	fi
	echo "deps.sh: installing $*"
	$sudo apt-get -qq update
	local policy=/usr/sbin/policy-rc.d rc=0
	# The databases are for tests, which start them themselves: no service may begin on this machine.
	if [ -e $policy ]; then
		policy=""
	else
		printf '#!/bin/sh\nexit 101\n' | $sudo tee $policy >/dev/null
		$sudo chmod 755 $policy
	fi
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends "$@" >/dev/null || rc=$?
	if [ -n "$policy" ]; then
		$sudo rm -f $policy
	fi
	return $rc
}

case " $need " in *" gcc "*) check_go ;; esac
if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
	elsewhere
	exit 0
fi
# shellcheck disable=SC2086 # lists of words
lack=$(missing $need)
if [ -n "$lack" ]; then
	# shellcheck disable=SC2086
	install $lack
fi
