package version

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	utilversion "k8s.io/apimachinery/pkg/util/version"
)

// Number is a version of labk that can be compared: that of the Kubernetes which it carries, and labk's release of it.
type Number struct {
	kubernetes *utilversion.Version
	// Release counts labk's releases of one Kubernetes version from 1; 0 is Kubernetes itself.
	Release int
}

// MaxSkew is by how many minor versions a node may be older than its server; it may never be newer (Kubernetes' version skew policy).
const MaxSkew = 3

// Parse reads a version such as v1.37.1+labk2. The part that begins with a plus may be absent.
func Parse(text string) (Number, error) {
	base, build, built := strings.Cut(text, "+")
	kubernetes, err := utilversion.ParseSemantic(base)
	if err != nil || !strings.HasPrefix(base, "v") {
		return Number{}, fmt.Errorf("%q is no version of labk: v1.37.1+labk1 is one", text)
	}
	n := Number{kubernetes: kubernetes}
	if built {
		digits, ok := strings.CutPrefix(build, "labk")
		if n.Release, err = strconv.Atoi(digits); !ok || err != nil || n.Release < 0 {
			return Number{}, fmt.Errorf("%q is no version of labk: v1.37.1+labk1 is one", text)
		}
	}
	return n, nil
}

// Compare is negative if n is older than o, 0 if both are the same, positive if n is newer. A release candidate is older than its release.
func (n Number) Compare(o Number) int {
	switch {
	case n.kubernetes.LessThan(o.kubernetes):
		return -1
	case o.kubernetes.LessThan(n.kubernetes):
		return 1
	}
	return cmp.Compare(n.Release, o.Release)
}

// Minors is by how many minor versions of Kubernetes n is newer than o, negative if it is older. ok is false if the major versions differ.
func (n Number) Minors(o Number) (minors int, ok bool) {
	return int(n.kubernetes.Minor()) - int(o.kubernetes.Minor()), n.kubernetes.Major() == o.kubernetes.Major()
}

// IsDevelopment tells that the program was built without a version: nothing can be said of what is older or newer.
func (n Number) IsDevelopment() bool { return n.kubernetes.Major() == 0 }

// Compare compares two versions by their texts, as Number.Compare.
func Compare(a, b string) (int, error) {
	m, err := Parse(a)
	if err != nil {
		return 0, err
	}
	n, err := Parse(b)
	if err != nil {
		return 0, err
	}
	return m.Compare(n), nil
}
