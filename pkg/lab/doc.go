// Package lab makes hosts out of Linux namespaces, so that a cluster of several PCs can be tried, cut off, powered down and
// booted again on one PC.
//
// A lab is a folder of state, a switch (a network namespace with a bridge) and hosts. A host has its own network, mount, UTS,
// IPC, PID and cgroup namespace; its own /run, /tmp, /dev/shm, /var/lib, /var/log; overlays over /etc, /opt, /root and
// /usr/libexec; and its own subtree in every cgroup hierarchy. /var/lib, /var/log and the overlays are the host's disk: they
// outlive Kill and are there again after Boot. The rest of the root file system is the machine's own and shared. Machine-wide
// sysctls are read-only in a host, and those that a kubelet insists on writing are private files.
//
// With Options.Root a host sees nothing of the machine's root file system, but an overlay of its own over that root, which is its disk as a whole; and
// with Options.Systemd its init is systemd: programs are installed and services run there as on a PC.
//
//	                Kill                   Down
//	Up ──► running ──────► without power ───────► gone
//	          ▲              │
//	          └──────────────┘
//	                Boot                    (with systemd: Shutdown is an orderly Kill, Reboot does that and Boot)
//
// Everything needs root with CAP_SYS_ADMIN. Operations that change a lab are serialised by a lock in its folder, so several
// processes may work on one lab; a Lab and its Hosts may be used by several goroutines.
//
// A host has a host name and /etc/machine-id of its own, which it may share with another one as cloned PCs do, and an /etc/hosts with
// all hosts' names and addresses, which the lab writes at each Boot and SetAddr. Its network card (MAC address) is always its own.
//
// A host's init is the calling program, started again inside the new namespaces (Options.InitCommand). It makes the mounts and
// then becomes a small shell that reaps orphans, or systemd. A program that uses the default InitCommand calls MaybeInit first thing.
package lab
