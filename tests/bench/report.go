package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
)

// The rows of the table.
const (
	rowReadyz      = "fresh start to /readyz"
	rowNode        = "fresh start to node Ready"
	rowFirstPod    = "fresh start to first pod Running"
	rowDNS         = "fresh start to DNS answers"
	rowWarmReadyz  = "warm restart to /readyz"
	rowWarmPod     = "warm restart to first new pod Running"
	rowPod         = "one settled pod, create to Running"
	rowTwenty      = "20 pods at once, last one Running"
	rowStartCPU    = "CPU from start to first pod Running"
	rowIdleRSS     = "RSS of all processes, idle for 3 minutes"
	rowIdlePSS     = "  the same as PSS (shared pages once)"
	rowIdleAnon    = "  its anonymous part"
	rowIdleProcess = "  labk's own process alone"
	rowIdleCPU     = "CPU while idle, over 60 s"
	rowStop        = "stop: SIGTERM to its end"
	rowSize        = "labk, gzip -9"

	rowAgentNode    = "agent: fresh start to node Ready"
	rowAgentPod     = "agent: fresh start to first pod Running"
	rowAgentRSS     = "agent: RSS of all processes, idle for 3 minutes"
	rowAgentPSS     = "  the same as PSS"
	rowAgentAnon    = "  its anonymous part alone"
	rowAgentProcess = "  labk's process alone"
	rowAgentCPU     = "agent: CPU while idle, over 60 s"
	rowLabNodes     = "labk lab up, three nodes Ready"
	rowLabService   = "  and a DaemonSet answers on all, from all"
	rowBackAPI      = "server killed and started: /readyz"
	rowBackNodes    = "  and a heartbeat of all three nodes, all Ready"
	rowVXLANShare   = "pod to pod on another node, part of the bare path"
	rowVXLANPods    = "  pods, vxlan"
	rowVXLANBare    = "  bare path, vxlan"
	rowHostGWShare  = "the same for host-gw, part of the bare path"
	rowHostGWPods   = "  pods, host-gw"
	rowHostGWBare   = "  bare path, routed"

	rowInstall     = "install.sh from a file to node Ready (systemd)"
	rowJoinLine    = "join line to node Ready, program from the server"
	rowUpgrade     = "labk upgrade on the server"
	rowUpgradeAway = "  its API gives no answer"
	rowUninstall   = "labk uninstall, with pods"
)

// row is one figure: the goal, what k3s v1.35 took on the machine that CI runs on, and what was measured.
type row struct {
	Name    string   `json:"name"`
	Unit    string   `json:"unit"`
	Goal    float64  `json:"goal,omitempty"`
	K3s     float64  `json:"k3s,omitempty"`
	Samples []sample `json:"samples"`
	Median  float64  `json:"median"`
	Min     float64  `json:"min"`
	Max     float64  `json:"max"`
	// CPU is the median of what labk used meanwhile, Bench of what measuring did, Others of what everything else on the machine
	// did; in seconds.
	CPU    float64 `json:"cpuSeconds"`
	Bench  float64 `json:"benchCPUSeconds"`
	Others float64 `json:"othersCPUSeconds"`
}

// sample is one measurement. The others are 0 where they make no sense.
type sample struct {
	Value  float64 `json:"value"`
	CPU    float64 `json:"cpuSeconds"`
	Bench  float64 `json:"benchCPUSeconds"`
	Others float64 `json:"othersCPUSeconds"`
}

// report is what was measured, and where.
type report struct {
	Machine machine `json:"machine"`
	// Loads are how busy the machine was before each start.
	Loads []load `json:"loadBeforeEachStart"`
	Rows  []*row `json:"figures"`
	// Remarks are what belongs to figures and is none.
	Remarks []string `json:"remarks,omitempty"`

	mu sync.Mutex // for add, which several goroutines call
}

func newReport(m machine) *report {
	r := &report{Machine: m}
	for _, f := range []row{
		{Name: rowReadyz, Unit: "s", Goal: 2.5, K3s: 3.5},
		{Name: rowNode, Unit: "s", Goal: 3.5, K3s: 6.1},
		{Name: rowFirstPod, Unit: "s", Goal: 4.5, K3s: 23.5},
		{Name: rowDNS, Unit: "s", Goal: 7},
		{Name: rowStartCPU, Unit: "CPU s", Goal: 3.5},
		{Name: rowWarmReadyz, Unit: "s", Goal: 2.3, K3s: 3.9},
		{Name: rowWarmPod, Unit: "s", Goal: 3.5, K3s: 8.1},
		{Name: rowPod, Unit: "s", Goal: 0.5, K3s: 1.00},
		{Name: rowTwenty, Unit: "s", Goal: 2.5, K3s: 3.5},
		{Name: rowIdleRSS, Unit: "MB", Goal: 450, K3s: 620},
		{Name: rowIdlePSS, Unit: "MB"},
		{Name: rowIdleAnon, Unit: "MB"},
		{Name: rowIdleProcess, Unit: "MB"},
		{Name: rowIdleCPU, Unit: "% of a core", Goal: 2.5, K3s: 3.3},
		{Name: rowStop, Unit: "s", Goal: 3, K3s: 2.8},
		{Name: rowSize, Unit: "MB", Goal: 95, K3s: 77},
		{Name: rowAgentNode, Unit: "s", Goal: 4, K3s: 11}, // of three nodes, and at best: it took up to 22 s
		{Name: rowAgentPod, Unit: "s", Goal: 6},
		{Name: rowAgentRSS, Unit: "MB", Goal: 220, K3s: 330},
		{Name: rowAgentPSS, Unit: "MB"},
		{Name: rowAgentAnon, Unit: "MB"},
		{Name: rowAgentProcess, Unit: "MB"},
		{Name: rowAgentCPU, Unit: "% of a core"},
		{Name: rowLabNodes, Unit: "s"},
		{Name: rowLabService, Unit: "s", Goal: 15, K3s: 27},
		{Name: rowBackAPI, Unit: "s"},
		{Name: rowBackNodes, Unit: "s", Goal: 8, K3s: 14},
		{Name: rowVXLANShare, Unit: "x", Goal: 0.95}, // at least
		{Name: rowVXLANPods, Unit: "Gbit/s"},
		{Name: rowVXLANBare, Unit: "Gbit/s"},
		{Name: rowHostGWShare, Unit: "x"},
		{Name: rowHostGWPods, Unit: "Gbit/s"},
		{Name: rowHostGWBare, Unit: "Gbit/s"},
		{Name: rowInstall, Unit: "s", Goal: 10},
		{Name: rowJoinLine, Unit: "s", Goal: 12},
		{Name: rowUpgrade, Unit: "s"},
		{Name: rowUpgradeAway, Unit: "s", Goal: 5},
		{Name: rowUninstall, Unit: "s", Goal: 15},
	} {
		r.Rows = append(r.Rows, &f)
	}
	for _, f := range storeRows() {
		r.Rows = append(r.Rows, &f)
	}
	return r
}

// add adds a measurement to a row and brings the row's summary up to date.
func (r *report) add(name string, s sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := slices.IndexFunc(r.Rows, func(w *row) bool { return w.Name == name })
	w := r.Rows[i]
	w.Samples = append(w.Samples, s)
	values := pick(w.Samples, func(s sample) float64 { return s.Value })
	w.Median, w.Min, w.Max = median(values), values[0], values[len(values)-1]
	w.CPU = median(pick(w.Samples, func(s sample) float64 { return s.CPU }))
	w.Bench = median(pick(w.Samples, func(s sample) float64 { return s.Bench }))
	w.Others = median(pick(w.Samples, func(s sample) float64 { return s.Others }))
}

// remark adds a sentence that is printed below the table.
func (r *report) remark(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Remarks = append(r.Remarks, text)
}

// pick returns one figure of each sample, sorted.
func pick(samples []sample, of func(sample) float64) []float64 {
	out := make([]float64, len(samples))
	for i, s := range samples {
		out[i] = of(s)
	}
	slices.Sort(out)
	return out
}

// median of sorted values, of which there is at least one.
func median(sorted []float64) float64 {
	n := len(sorted)
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// head prints where and when the figures are taken.
func (r *report) head(w io.Writer) {
	m := r.Machine
	fmt.Fprintf(w, "%s, labk %s\n%d x %s, %.1f GB, Linux %s, cgroup v%d\nbefore the first start: %s\n\n",
		m.Date, m.Version, m.Cores, m.CPU, m.MemoryGB, m.Kernel, m.Cgroup, m.Load)
}

// table prints the figures. MB are 10^6 bytes for the size of the program and 2^20 for memory, as people count both.
func (r *report) table(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "FIGURE\tMEDIAN\tSPREAD\tRUNS\tGOAL\tK3S\tLABK'S CPU\tBENCH'S\tOTHERS'")
	for _, f := range r.Rows {
		if len(f.Samples) == 0 {
			continue
		}
		spread := ""
		if len(f.Samples) > 1 {
			spread = number(f.Min) + " - " + number(f.Max)
		}
		fmt.Fprintf(t, "%s\t%s %s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\n", f.Name, number(f.Median), f.Unit, spread, len(f.Samples),
			orDash(f.Goal), orDash(f.K3s), orDash(f.CPU), orDash(f.Bench), orDash(f.Others))
	}
	t.Flush()
	var loads []string
	for _, l := range r.Loads {
		loads = append(loads, l.String())
	}
	fmt.Fprintf(w, "\nbefore each start: %s\n", strings.Join(loads, "; "))
	for _, text := range r.Remarks {
		fmt.Fprintln(w, text)
	}
}

func orDash(v float64) string {
	if v == 0 {
		return "-"
	}
	return number(v)
}

// number writes a figure with as many digits as it deserves.
func number(v float64) string {
	if v >= 20 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
