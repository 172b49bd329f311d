// Package openrc carries labk's scripts for OpenRC.
package openrc

import "embed"

// FS holds labk and labk-agent.
//
//go:embed labk labk-agent
var FS embed.FS
