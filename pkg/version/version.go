// Package version says what this program was built from. The linker fills the variables in (scripts/build.sh).
package version

import "strings"

// Set at build time, constant afterwards.
var (
	// Version of labk, with the Kubernetes version that it carries: v1.37.1+labk1.
	Version = "v0.0.0-dev"
	// Commit is the git commit.
	Commit = "unknown"
	// BuildDate is the commit's date, RFC 3339: two builds of one commit are the same file.
	BuildDate = "1970-01-01T00:00:00Z"
	// Components are the versions of what labk is made of and carries: name=version, separated by commas.
	Components = ""
)

// Parts are the Components by name; there are none in a program that scripts/build.sh has not built.
func Parts() map[string]string {
	parts := map[string]string{}
	for part := range strings.SplitSeq(Components, ",") {
		if name, version, ok := strings.Cut(part, "="); ok {
			parts[name] = version
		}
	}
	return parts
}
