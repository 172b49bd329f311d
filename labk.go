// Package labk carries what people find at the top of the repository and a server hands out.
package labk

import _ "embed"

// InstallScript is install.sh.
//
//go:embed install.sh
var InstallScript []byte
