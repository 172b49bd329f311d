#!/bin/bash
# guest.sh - what the machine of test-vm.sh powercut runs at each boot: it puts the data disk in order, as a boot does after a
# power cut, and starts a server on it. It tells on its output (the second serial line) how to reach the API.
set -uo pipefail

HERE=$(cd "$(dirname "$0")" && pwd)
DISK=/dev/vdc KUBECONFIG=/etc/labk/kubeconfig.yaml

e2fsck -p "$DISK"
[ $? -le 1 ] || { echo "e2fsck can't mend $DISK"; e2fsck -n "$DISK"; exit 1; }
mkdir -p /var/lib/labk
mount -t ext4 "$DISK" /var/lib/labk || exit 1
echo "cache of $DISK: $(cat /sys/block/vdc/queue/write_cache)"

# The log goes to the console.
"$HERE/labk" server --disable-agent --disable=coredns > >(cat >/dev/ttyS0) 2>&1 & # by a pipe: no spinners
SERVER=$!
until [ -s "$KUBECONFIG" ]; do
  kill -0 "$SERVER" 2>/dev/null || { echo "labk has ended"; exit 1; }
  sleep 0.2
done
echo "kubeconfig $(base64 -w 0 "$KUBECONFIG")"
wait "$SERVER"
echo "labk has ended with $?"
