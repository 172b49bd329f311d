#!/bin/sh
# What a PC's init would have done before labk starts; then it becomes labk.
set -eu

# Volumes that a pod shares with the node must be seen on both sides.
mount --make-rshared /

# cgroup v2: a group that hands controllers on to pods may have no processes of its own, so what is in the container's topmost one moves to a leaf.
group=/sys/fs/cgroup
if [ -f "$group/cgroup.controllers" ] && [ "$(cat "$group/cgroup.type" 2>/dev/null)" != "" ]; then
	mkdir -p "$group/init"
	while read -r pid; do
		echo "$pid" >"$group/init/cgroup.procs" || true # it may have ended meanwhile
	done <"$group/cgroup.procs"
	read -r controllers <"$group/cgroup.controllers"
	for controller in $controllers; do
		echo "+$controller" >"$group/cgroup.subtree_control"
	done
fi

exec labk "$@"
