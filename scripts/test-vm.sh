#!/bin/bash
# test-vm.sh - the single-node scenario in a whole Debian machine under QEMU: its own kernel, systemd, cgroup v2 and every
# capability, which containers and CI machines often lack. tests/vm/scenario.sh is what runs inside.
#
#   test-vm.sh            boot, try dist/labk, print "test-vm: N passed, M failed" and the date; 0 if nothing failed
#   test-vm.sh platform   the same boot without labk: only what the machine must offer
#   test-vm.sh powercut [-drive page|drive|torn] [-cuts N] [-seed N]
#                         a labk server in it under load, whose power is cut again and again: nothing acknowledged may be lost
#                         (tests/vm/powercut; -drive liar is a drive that lies, to see that losses are found)
#   test-vm.sh image      make the base image if it is not there (debootstrap; about 5 minutes)
#   test-vm.sh shell      boot with dist/labk at /opt/labk-vm and a root shell on this terminal ("poweroff" ends it)
#   test-vm.sh clean      remove the cached image
#
# environment: LABK_VM_DIR (~/.cache/labk-vm: the image, 1 GB), LABK_BIN (dist/labk), LABK_VM_ACCEL (tcg; kvm where it can
# boot a machine), LABK_VM_CPUS (2), LABK_VM_MEMORY (3072 MiB), LABK_VM_TIMEOUT (3600 s for everything after the image),
# LABK_VM_SUITE and LABK_VM_MIRROR (those of this machine's apt)
set -euo pipefail

ROOT=$(cd "$(dirname "$0")/.." && pwd)
DIR=$(realpath -m "${LABK_VM_DIR:-$HOME/.cache/labk-vm}")
BIN=${LABK_BIN:-$ROOT/dist/labk}
LIMIT=${LABK_VM_TIMEOUT:-3600}
# shellcheck disable=SC1091
SUITE=${LABK_VM_SUITE:-$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")}
RECIPE=2 # raise it whenever build_image changes, so that nobody tests on an old image
IMAGE=$DIR/$SUITE-$RECIPE
WORK='' QEMU='' FOLLOW=''

die() { echo "test-vm: $*" >&2; exit 1; }

cleanup() {
  local pid
  for pid in $FOLLOW $QEMU; do kill -9 "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; done
  if [ -n "$WORK" ]; then rm -rf --one-file-system "$WORK"; fi
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

need_programs() {
  local missing=() pair
  for pair in debootstrap:debootstrap qemu-system-x86_64:qemu-system-x86 qemu-img:qemu-utils mkfs.ext4:e2fsprogs unshare:util-linux; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
  done
  [ ${#missing[@]} -eq 0 ] || die "programs are missing: apt-get install --no-install-recommends ${missing[*]}"
  [ "$(id -u)" = 0 ] || die "not root: debootstrap and network namespaces need it: run it with sudo"
}

# The mirror that this machine's own apt uses: the only place that an image is made from.
mirror() {
  if [ -n "${LABK_VM_MIRROR:-}" ]; then echo "$LABK_VM_MIRROR"; return; fi
  # shellcheck disable=SC2016 # these are apt's own variables
  apt-get indextargets --format '$(CREATED_BY)|$(RELEASE)|$(REPO_URI)' | grep "^Packages|$SUITE|" | head -n 1 | cut -d '|' -f 3
}

build_image() {
  local tree=$WORK/tree url packages
  [ ! -e "$IMAGE/disk.raw" ] || return 0
  url=$(mirror)
  [ -n "$url" ] || die "apt knows no mirror of $SUITE: set LABK_VM_MIRROR"
  echo "making the base image of Debian $SUITE in $IMAGE"
  # nftables and no iptables, as Debian installs it, with the names of protocols (netbase) that it needs; busybox becomes the image of a pod
  packages=systemd,systemd-sysv,dbus,udev,kmod,procps,iproute2,nftables,netbase,curl,busybox-static,linux-image-cloud-amd64
  # Its mounts end with the namespace, also when it is interrupted.
  unshare --mount -- debootstrap --variant=minbase --include="$packages" "$SUITE" "$tree" "$url" >"$DIR/debootstrap.log" 2>&1 ||
    die "debootstrap failed: $(tail -n 1 "$DIR/debootstrap.log"): see $DIR/debootstrap.log"
  configure "$tree"
  mkdir -p "$WORK/image"
  cp "$tree"/boot/vmlinuz-* "$WORK/image/vmlinuz"
  cp "$tree"/boot/initrd.img-* "$WORK/image/initrd"
  rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/* "$tree"/boot/initrd.img-*
  mkfs.ext4 -q -F -L root -E lazy_itable_init=1 -d "$tree" "$WORK/image/disk.raw" 10G >/dev/null
  mv "$WORK/image" "$IMAGE"
  rm -rf --one-file-system "$tree"
  du -h "$IMAGE/disk.raw"
}

# configure makes a plain server of the bootstrapped tree: one network card, a few seconds of boot, and one unit that runs the test.
configure() {
  local tree=$1 unit
  echo labk-vm >"$tree/etc/hostname"
  printf '127.0.0.1 localhost\n127.0.1.1 labk-vm\n' >"$tree/etc/hosts"
  echo 'LABEL=root / ext4 defaults 0 1' >"$tree/etc/fstab"
  echo 'nameserver 10.0.2.3' >"$tree/etc/resolv.conf"
  : >"$tree/etc/machine-id"
  printf '[Match]\nName=eth0\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n' \
    >"$tree/etc/systemd/network/10-eth0.network"
  ln -sf /lib/systemd/system/systemd-networkd.service "$tree/etc/systemd/system/multi-user.target.wants/"
  mkdir -p "$tree/etc/systemd/system/network-online.target.wants"
  ln -sf /lib/systemd/system/systemd-networkd-wait-online.service "$tree/etc/systemd/system/network-online.target.wants/"
  ln -sf /lib/systemd/system/multi-user.target "$tree/etc/systemd/system/default.target"
  for unit in apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer dpkg-db-backup.timer \
    systemd-timesyncd.service getty@tty1.service; do
    ln -sf /dev/null "$tree/etc/systemd/system/$unit"
  done
  mkdir -p "$tree/opt/labk-vm"
  cat >"$tree/etc/systemd/system/labk-vm-test.service" <<'UNIT'
[Unit]
Description=the test on the second disk, told on the second serial line
ConditionKernelCommandLine=!labk.shell
Wants=network-online.target
After=network-online.target
SuccessAction=poweroff-force
FailureAction=poweroff-force
[Service]
Type=exec
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS1
ExecStartPre=/bin/mount -o ro /dev/vdb /opt/labk-vm
ExecStart=/bin/bash /opt/labk-vm/scenario.sh
ExecStopPost=/bin/sync
UNIT
  ln -sf ../labk-vm-test.service "$tree/etc/systemd/system/multi-user.target.wants/"
  mkdir -p "$tree/etc/systemd/system/serial-getty@ttyS0.service.d"
  cat >"$tree/etc/systemd/system/serial-getty@ttyS0.service.d/shell.conf" <<'UNIT'
[Unit]
ConditionKernelCommandLine=labk.shell
[Service]
ExecStartPre=-/bin/mount -o ro /dev/vdb /opt/labk-vm
ExecStart=
ExecStart=-/sbin/agetty --autologin root --noclear --keep-baud 115200 %I xterm
UNIT
  # Only what finds the disk: a generic initrd takes half a minute to unpack on an emulated processor.
  printf 'virtio_pci\nvirtio_blk\next4\n' >"$tree/etc/initramfs-tools/modules"
  sed -i 's/^MODULES=.*/MODULES=list/; s/^COMPRESS=.*/COMPRESS=gzip/' "$tree/etc/initramfs-tools/initramfs.conf"
  chroot "$tree" update-initramfs -u >>"$DIR/debootstrap.log" 2>&1 || die "update-initramfs failed: see $DIR/debootstrap.log"
}

# stage makes the read-only disk that the machine gets: the scenario and what it tries.
stage() {
  local mode=$1 folder=$WORK/stage
  mkdir -p "$folder"
  echo "$mode" >"$folder/mode"
  case $mode in
    powercut) cp "$ROOT/tests/vm/powercut/guest.sh" "$folder/scenario.sh" ;;
    *) cp "$ROOT/tests/vm/scenario.sh" "$folder/" ;;
  esac
  if [ "$mode" != platform ]; then
    [ -x "$BIN" ] || die "$BIN is missing: run make build first"
    [ -f "$ROOT/examples/hello.yaml" ] || die "$ROOT/examples/hello.yaml is missing"
    cp "$BIN" "$folder/labk"
    cp "$ROOT/examples/hello.yaml" "$ROOT/package/systemd/labk.service" "$folder/"
  fi
  mkfs.ext4 -q -F -O ^has_journal -m 0 -d "$folder" "$WORK/stage.img" "$(($(du -sm "$folder" | cut -f 1) * 12 / 10 + 16))M" >/dev/null
  rm -rf "$folder"
}

# machine starts QEMU in place of the calling shell. It has a network namespace of its own, and QEMU's own closed network in
# that: nothing gets out. Its disk forgets everything when it ends. UNDER is what starts it, FORWARD more of its network.
UNDER=(unshare --net --) FORWARD=''
machine() {
  local extra=$1 accel
  shift
  case ${LABK_VM_ACCEL:-tcg} in
    kvm) accel=(-accel kvm -cpu host) ;;
    # a processor without AVX: emulating vector instructions costs more than programs gain by them
    *) accel=(-accel 'tcg,thread=multi,tb-size=512' -cpu Westmere) ;;
  esac
  exec "${UNDER[@]}" qemu-system-x86_64 -name labk-vm -machine q35 "${accel[@]}" \
    -smp "${LABK_VM_CPUS:-2}" -m "${LABK_VM_MEMORY:-3072}" -nodefaults -no-user-config -no-reboot -display none "$@" \
    -kernel "$IMAGE/vmlinuz" -initrd "$IMAGE/initrd" \
    -append "root=LABEL=root rw console=ttyS0,115200 quiet net.ifnames=0 mitigations=off panic=-1 $extra" \
    -drive "file=$IMAGE/disk.raw,format=raw,if=virtio,snapshot=on" \
    -drive "file=$WORK/stage.img,format=raw,if=virtio,readonly=on" \
    -netdev "user,id=net,restrict=on$FORWARD" -device virtio-net-pci,netdev=net,romfile= \
    -object rng-random,id=rng,filename=/dev/urandom -device virtio-rng-pci,rng=rng
}

run() {
  local mode=$1 began summary
  stage "$mode"
  : >"$WORK/result"
  began=$SECONDS
  export TMPDIR=$WORK # where QEMU puts what the machine writes to its disk
  (machine '' -monitor none -serial "file:$WORK/console" -serial "file:$WORK/result") </dev/null >"$WORK/qemu" 2>&1 &
  QEMU=$!
  tail -n +1 -f "$WORK/result" &
  FOLLOW=$!
  while kill -0 "$QEMU" 2>/dev/null && [ $((SECONDS - began)) -lt "$LIMIT" ]; do sleep 1; done
  sleep 1 # for tail, which looks once a second
  kill "$FOLLOW"
  summary=$(grep -a '^test-vm: ' "$WORK/result" | tail -n 1 | tr -d '\r' || true)
  if [ -z "$summary" ]; then
    tail -n 20 "$WORK/console" "$WORK/qemu" >&2 || true
    die "the machine told no result within $((SECONDS - began)) s (limit $LIMIT s); its console is above"
  fi
  echo "$(date -u +%Y-%m-%d) $SUITE, ${LABK_VM_ACCEL:-tcg}, $((SECONDS - began)) s"
  [ "${summary##*, }" = '0 failed' ]
}

# powercut has a program of its own start the machine, as often as it cuts its power, in namespaces that end with it.
powercut() {
  stage powercut
  # shellcheck disable=SC1091
  (cd "$ROOT" && . scripts/env.sh && go build -o "$WORK/powercut" ./tests/vm/powercut)
  UNDER=(unshare --net --mount -- "$WORK/powercut" "$@")
  FORWARD=,hostfwd=tcp:127.0.0.1:6443-:6443
  export TMPDIR=$WORK
  echo "$(date -u +%Y-%m-%d) $SUITE, ${LABK_VM_ACCEL:-tcg}; the machine's console is $WORK/console"
  (machine '' -monitor none -serial "file:$WORK/console") </dev/null &
  QEMU=$!
  if ! wait "$QEMU"; then
    tail -n 20 "$WORK/console" >&2 || true
    die "power cuts: see above; the last of the machine's console is above, too"
  fi
}

command=${1:-run}
case $command in
  powercut | run | platform | image | shell) ;;
  clean) rm -rf --one-file-system "$DIR/$SUITE"-* "$DIR"/work.* "$DIR/debootstrap.log" "$DIR/lock"; exit ;;
  *) sed -n '2,/^set /p' "$0" | sed -n 's/^# \{0,1\}//p'; exit 2 ;;
esac
need_programs
[ "$command" = image ] || [ "$command" = platform ] || [ -x "$BIN" ] || die "$BIN is missing: run make build first"
mkdir -p "$DIR"
exec 9>"$DIR/lock"
flock -n 9 || die "another test-vm uses $DIR: wait for it, or set LABK_VM_DIR"
WORK=$(mktemp -d "$DIR/work.XXXXXX")
build_image
case $command in
  run | platform) run "$command" ;;
  powercut) powercut "${@:2}" ;;
  shell) stage shell; export TMPDIR=$WORK; (machine labk.shell -serial mon:stdio) ;;
esac
