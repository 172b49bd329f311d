#!/bin/sh
# Installs labk on this PC, or upgrades it; pods keep running. It finds the program and looks whether it is whole; the rest is `labk install`.
#
#   curl -sfL https://github.com/labk/labk/raw/main/install.sh | sh -                  a server, from the release
#   ./install.sh                                                                       the same from a checkout, which is built
#   LABK_BINARY=/media/usb/labk ./install.sh                                           from a file (and FILE.sha256 beside it, if there)
#   LABK_URL=https://first-pc:6443 LABK_TOKEN=... ./install.sh                         an agent
#   ./install.sh server --disable coredns                                              with flags of `labk install server`
#
# On a server, `labk token create --print-join` prints a line that does all of it on another PC, with the program from that server.
#
#   LABK_URL                   the server to join; makes this PC an agent
#   LABK_TOKEN                 the token to join with; - reads it from standard input
#   LABK_BINARY                the program, as a file
#   LABK_SHA256                what the program's SHA-256 must be; with LABK_URL, the program is taken from that server
#   INSTALL_LABK_EXEC          server or agent, and flags; arguments of this script come after them
#   INSTALL_LABK_VERSION       the release, such as v1.37.1+labk1; the newest otherwise
#   INSTALL_LABK_RELEASE_URL   where releases are: URL/download/VERSION/labk, and labk.sha256
#   INSTALL_LABK_BIN_DIR       the folder of the program, /usr/local/bin
#   INSTALL_LABK_SKIP_DOWNLOAD true: install what is in that folder
#   INSTALL_LABK_SKIP_START    true: start nothing
#   INSTALL_LABK_SKIP_ENABLE   true: do not start it at boot
set -eu

fail() {
	echo "install.sh: $*" >&2
	exit 1
}

main() {
	PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
	bin=${INSTALL_LABK_BIN_DIR:-/usr/local/bin}
	release=${INSTALL_LABK_RELEASE_URL:-https://github.com/labk/labk/releases}
	url=${LABK_URL:-} sum=
	[ -z "${LABK_SHA256+given}" ] || take_sum LABK_SHA256 "$LABK_SHA256"
	token=${LABK_TOKEN:-}
	unset LABK_TOKEN # what follows is not to have it in its environment
	if [ "$token" = - ]; then
		[ ! -t 0 ] || printf 'token: ' >&2
		IFS= read -r token || [ -n "$token" ] || fail "LABK_TOKEN=-: there is no token on standard input"
	fi
	look_at_platform
	set -f # the words of INSTALL_LABK_EXEC are no patterns
	# shellcheck disable=SC2086
	set -- ${INSTALL_LABK_EXEC:-} "$@"
	set +f
	choose_role "$@"
	[ "${1:-}" != "$role" ] || shift
	new=
	trap 'clear_away' EXIT
	trap 'exit 130' HUP INT TERM
	get_program
	trap '' HUP # half an upgrade is worse than one that nobody watches: the terminal may go
	set -- "$role" --bin-dir "$bin" "$@"
	[ "${INSTALL_LABK_SKIP_START:-}" != true ] || set -- "$@" --skip-start
	[ "${INSTALL_LABK_SKIP_ENABLE:-}" != true ] || set -- "$@" --skip-enable
	if [ "$role" = agent ] && [ -n "$url" ]; then
		set -- "$@" --server "$url"
	fi
	if [ -n "$token" ]; then # printf is part of the shell: nobody sees its arguments
		printf '%s\n' "$token" | $sudo "$program" install "$@" --token-file /dev/stdin
	else
		$sudo "$program" install "$@" </dev/null
	fi
}

look_at_platform() {
	[ "$(uname -s)" = Linux ] || fail "labk runs on Linux, and this is $(uname -s)"
	case $(uname -m) in
	x86_64 | amd64) arch=amd64 ;;
	*) fail "there is no labk for this PC's processor ($(uname -m)): it needs an amd64 (x86_64) one" ;;
	esac
	sudo=
	if [ "$(id -u)" != 0 ]; then
		command -v sudo >/dev/null || fail "run this as root: there is no sudo"
		sudo=sudo
	fi
}

# choose_role ARGUMENT...: the one that is named, else what fits the URL, else what this PC is already.
choose_role() {
	role=server
	case ${1:-} in
	server | agent) role=$1 ;;
	'' | -*)
		if [ -n "$url" ] || [ -e /etc/systemd/system/labk-agent.service ] || [ -e /etc/init.d/labk-agent ]; then
			role=agent
		fi
		;;
	*) fail "\"$1\" is neither server nor agent" ;;
	esac
}

# take_sum WHERE SUM: without one that is whole nothing would be verified.
take_sum() {
	sum=$2
	printf '%s\n' "$sum" | grep -Eqx '[0-9a-f]{64}' || fail "$1: \"$sum\" is no SHA-256: it has 64 hexadecimal digits (0-9, a-f)"
}

# get_program sets program: a file that is whole and runs here. The one in use is not touched.
get_program() {
	here=$(dirname "$0")
	from=${LABK_BINARY:-}
	if [ -n "$from" ]; then
		[ -f "$from" ] || fail "LABK_BINARY: there is no file $from"
		if [ -z "$sum" ] && [ -f "$from.sha256" ]; then
			take_sum "$from.sha256" "$(cut -d ' ' -f 1 "$from.sha256")"
		fi
		copy "$from"
	elif [ "${INSTALL_LABK_SKIP_DOWNLOAD:-}" = true ]; then
		from=$bin/labk
		[ -x "$from" ] || fail "INSTALL_LABK_SKIP_DOWNLOAD: there is no $from"
	elif [ -n "$url" ] && [ -n "$sum" ]; then
		# The server's certificate is of its own authority, which this PC does not know yet: the sum is what counts.
		fetch "${url%/}/labk/bin/linux-$arch" insecure
	elif [ -f "$0" ] && [ -f "$here/cmd/labk/main.go" ]; then
		build
		copy "$from"
	else
		fetch_release
	fi
	program=${new:-$from}
	verify
}

# make_room makes the file that the program comes into: beside its place, so that one step brings it there.
make_room() {
	[ -d "$bin" ] || $sudo mkdir -p "$bin" || fail "$bin cannot be made: choose another folder with INSTALL_LABK_BIN_DIR"
	new=$($sudo mktemp "$bin/.labk.XXXXXXXX") || {
		new=
		fail "$bin cannot be written: make it writable (mount -o remount,rw), or choose another folder with INSTALL_LABK_BIN_DIR"
	}
}

clear_away() { [ -z "$new" ] || $sudo rm -f "$new"; }

copy() {
	make_room
	$sudo cp "$1" "$new" || fail "$1 could not be copied to $bin: is there room?"
}

build() {
	from=$here/dist/labk
	if command -v go >/dev/null; then
		"$here/scripts/build.sh" >&2
	elif [ ! -x "$from" ]; then
		fail "there is no Go to build labk with in root's PATH: run make build as yourself, then this again"
	fi
}

fetch_release() {
	folder=$release/latest/download
	if [ -n "${INSTALL_LABK_VERSION:-}" ]; then
		folder=$release/download/$(echo "$INSTALL_LABK_VERSION" | sed 's/+/%2B/g')
	fi
	if [ -z "$sum" ]; then
		fetch "$folder/labk.sha256" secure
		take_sum "$from" "$($sudo cut -d ' ' -f 1 "$new")"
		clear_away
	fi
	fetch "$folder/labk" secure
}

# fetch URL insecure|secure. HTTP/1 is quicker than HTTP/2 for one large file.
fetch() {
	from=$1 curl="" wget=""
	[ "$2" = secure ] || curl=-k wget=--no-check-certificate
	make_room
	# shellcheck disable=SC2086 # no word where there is no option
	if command -v curl >/dev/null; then
		$sudo curl $curl -sSfL --http1.1 --connect-timeout 10 --retry 3 -o "$new" "$from"
	elif command -v wget >/dev/null; then
		$sudo wget $wget -q -T 30 -O "$new" "$from"
	else
		fail "install curl or wget"
	fi || fail "$from could not be fetched: is it reachable from here, and is there room in $bin?"
}

verify() {
	if [ -n "$sum" ]; then
		got=$($sudo sha256sum "$program" | cut -d ' ' -f 1)
		[ "$got" = "$sum" ] || fail "$from is not what was asked for: its SHA-256 is $got and not $sum." \
			"Half a download, or the server was upgraded meanwhile: try again, or print a new line there with labk token create --print-join"
	fi
	# A shell would take what is no program for a script, and run it.
	case $($sudo od -An -v -tx1 -N20 "$program" | tr -d ' \n') in
	7f454c46????????????????????????????3e00) ;;
	7f454c46*) fail "$from is a program for another processor than this PC's ($(uname -m))" ;;
	*) fail "$from is not a program: is it an archive, or a web page?" ;;
	esac
	$sudo chmod 755 "$program"
	said=$($sudo "$program" version 2>&1) || fail "$from does not run on this PC: is it whole? $said"
	case $said in
	"labk v"*) ;;
	*) fail "$from is not labk" ;;
	esac
}

main "$@"
