package status

import (
	"k8s.io/component-base/metrics"

	"github.com/labk/labk/pkg/health"
)

// gauge is the metric labk_fault: 1 for a fault that is there. A fault that can be fatal has a series for each severity, of which at most one is 1.
type gauge struct {
	vec    *metrics.GaugeVec
	severe map[string]bool // codes of fatal faults
}

// newGauge registers the metric, with all its series, with a registry that knows no labk_fault yet.
func newGauge(probes []health.Probe, register func(metrics.Registerable) error) (*gauge, error) {
	g := &gauge{severe: map[string]bool{}, vec: metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name: "labk_fault", Help: "1 while the fault of this code is there, see docs/faults.md.", StabilityLevel: metrics.ALPHA,
	}, []string{"code", "severity"})}
	if err := register(g.vec); err != nil {
		return nil, err
	}
	for _, p := range probes {
		g.severe[p.Code] = p.Severity == health.Fatal
		g.set(health.Result{Code: p.Code, Status: health.Pass})
	}
	return g, nil
}

func (g *gauge) set(r health.Result) {
	is := func(s health.Status) float64 {
		if r.Status == s {
			return 1
		}
		return 0
	}
	g.vec.WithLabelValues(r.Code, string(health.Warning)).Set(is(health.Warn))
	if g.severe[r.Code] {
		g.vec.WithLabelValues(r.Code, string(health.Fatal)).Set(is(health.Fail))
	}
}
