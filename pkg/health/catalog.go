package health

// Probes returns every probe, in the order that their results are best read.
func Probes() []Probe {
	var all []Probe
	for _, some := range [][]Probe{processProbes(), kernelProbes(), firewallProbes(), reachProbes(), selinuxProbes(), cgroupProbes(), portProbes(), dataProbes(), clockProbes(), networkProbes(), inotifyProbes(), liveProbes(), snapshotProbes(), datastoreProbes()} {
		all = append(all, some...)
	}
	return all
}
