package version

import "testing"

func TestCompare(t *testing.T) {
	// Each is newer than all before it.
	ascending := []string{
		"v0.0.0-dev", "v1.36.9+labk7", "v1.37.0-rc.1+labk1", "v1.37.0", "v1.37.0+labk1", "v1.37.1+labk1", "v1.37.1+labk2", "v1.37.1+labk10", "v1.37.10+labk1", "v1.38.0+labk1", "v2.0.0+labk1",
	}
	for i, a := range ascending {
		for j, b := range ascending {
			got, err := Compare(a, b)
			if err != nil {
				t.Fatal(err)
			}
			if want := min(1, max(-1, i-j)); got != want {
				t.Errorf("Compare(%s, %s) = %d, want %d", a, b, got, want)
			}
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{"", "1.37.1+labk1", "v1.37", "v1.37.1+k3s1", "v1.37.1+labk", "v1.37.1+labkx", "v1.37.1+labk-1", "latest"} {
		if n, err := Parse(text); err == nil {
			t.Errorf("Parse(%q) = %v", text, n)
		}
	}
}

func TestMinors(t *testing.T) {
	for _, tc := range []struct {
		a, b   string
		minors int
		ok     bool
	}{
		{"v1.38.0+labk1", "v1.37.1+labk2", 1, true},
		{"v1.37.9+labk1", "v1.37.1+labk2", 0, true},
		{"v1.35.0+labk1", "v1.37.1+labk2", -2, true},
		{"v2.0.0+labk1", "v1.37.1+labk2", -37, false},
	} {
		a, errA := Parse(tc.a)
		b, errB := Parse(tc.b)
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if minors, ok := a.Minors(b); minors != tc.minors || ok != tc.ok {
			t.Errorf("%s is newer than %s by %d minor versions, %v; want %d, %v", tc.a, tc.b, minors, ok, tc.minors, tc.ok)
		}
	}
}
