package main

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	r := newReport(machine{})
	for _, v := range []float64{3, 1, 2, 8} {
		r.add(rowReadyz, sample{Value: v, CPU: v / 2})
	}
	if w := r.Rows[0]; w.Median != 2.5 || w.Min != 1 || w.Max != 8 || w.CPU != 1.25 {
		t.Errorf("got %+v", w)
	}
	var out strings.Builder
	r.table(&out)
	if got := out.String(); !strings.Contains(got, rowReadyz) || strings.Contains(got, rowStop) {
		t.Errorf("the table has a row without samples, or lacks one with:\n%s", got)
	}
}

func TestCPUTicks(t *testing.T) {
	busy, all, err := parseStat("cpu  100 10 50 800 20 5 5 10 0 0\ncpu0 1 1 1 1\n")
	if err != nil || busy != 180 || all != 1000 {
		t.Errorf("got %d of %d, %v", busy, all, err)
	}
}
