// Package systemd carries labk's units as people may also copy them by hand.
package systemd

import "embed"

// FS holds labk.service and labk-agent.service.
//
//go:embed *.service
var FS embed.FS
