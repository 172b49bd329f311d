// Command labk is a Kubernetes distribution in one program.
package main

import (
	"os"

	"github.com/labk/labk/pkg/cli"
)

func main() { os.Exit(cli.Run(os.Args, os.Stdout, os.Stderr)) }
