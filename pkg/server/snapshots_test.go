package server

import (
	"errors"
	"testing"

	"github.com/labk/labk/pkg/datastore/etcd"
)

// Only damage may bring a snapshot in etcd's place.
func TestExamined(t *testing.T) {
	for detail, tc := range map[string]struct {
		code            int
		damaged, failed bool
	}{
		"page 7: unreachable unfreed":                     {ExaminedDamage, true, true},
		"panic: assertion failed: Page expected to be: 3": {2, true, true},
		"unexpected fault address 0x7f0000000000":         {2, true, true},
		"fatal error: runtime: out of memory":             {2, false, false},
		"labk: read db: input/output error":               {1, false, true},
		"labk: timeout":                                   {1, false, true},
		"labk: mmap: cannot allocate memory":              {1, false, false},
		"":                                                {-1, false, false},
	} {
		err := examined("/var/lib/labk", tc.code, detail)
		if errors.As(err, new(*etcd.DamagedError)) != tc.damaged || (err != nil) != tc.failed {
			t.Errorf("%q: %v", detail, err)
		}
	}
}
