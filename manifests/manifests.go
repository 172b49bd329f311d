// Package manifests carries labk's packaged components as plain Kubernetes YAML. Words in ${...} are filled in by pkg/addon.
package manifests

import "embed"

// FS holds the files, one a component.
//
//go:embed *.yaml
var FS embed.FS
