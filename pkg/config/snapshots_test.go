package config

import "testing"

func TestSnapshotSchedule(t *testing.T) {
	for text, want := range map[string]string{
		"off": "never", "": "never",
		"0 */12 * * *": "good", "@every 6h": "good", "@every 1m": "good", "@daily": "good", "TZ=UTC 0 3 * * *": "good", "CRON_TZ=UTC @daily": "good",
		"nonsense": "bad", "never": "bad", "@every": "bad", "@every 1ns": "bad", "@every -6h": "bad", "@every 59s": "bad", "0 0 30 2 *": "bad", "* * * * * *": "bad", "61 * * * *": "bad", "*/0 * * * *": "bad",
		"TZ=": "bad", "TZ=UTC": "bad", "CRON_TZ=0": "bad", "TZ=Nowhere/None 0 3 * * *": "bad",
	} {
		c := Default()
		c.NodeName, c.SnapshotSchedule = "pc1", text
		err := c.Validate()
		schedule, _ := c.Snapshots()
		if good := err == nil; good != (want != "bad") || good && (schedule == nil) != (want == "never") {
			t.Errorf("%q: %v, %v", text, schedule, err)
		}
	}
}
