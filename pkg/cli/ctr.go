package cli

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/cmd/ctr/app"
	"github.com/urfave/cli/v2"

	"github.com/labk/labk/pkg/image"
	"github.com/labk/labk/pkg/paths"
)

// ctrCommand is for the help text; multicall runs ctr.
func ctrCommand() *cli.Command {
	return &cli.Command{Name: "ctr", Usage: "Upstream's ctr, for this machine's containerd and Kubernetes' images and containers", SkipFlagParsing: true}
}

// ctr runs upstream's ctr; args begins with its name.
func ctr(args []string) int {
	for name, value := range map[string]string{"CONTAINERD_ADDRESS": paths.ContainerdSocket, "CONTAINERD_NAMESPACE": image.Namespace} {
		if os.Getenv(name) == "" {
			os.Setenv(name, value)
		}
	}
	if err := app.New().Run(context.Background(), args); err != nil {
		fmt.Fprintln(os.Stderr, "ctr:", err)
		return codeFailed
	}
	return codeDone
}
