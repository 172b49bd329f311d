package cli

import (
	"os"

	"github.com/urfave/cli/v2"
	_ "k8s.io/client-go/plugin/pkg/client/auth" // registers the ways to log in that a kubeconfig may name
	componentcli "k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"

	"github.com/labk/labk/pkg/config"
)

// kubectlCommand is for the help text; multicall runs kubectl.
func kubectlCommand() *cli.Command {
	return &cli.Command{Name: "kubectl", Usage: "Upstream's kubectl, for this server's cluster unless KUBECONFIG or --kubeconfig says otherwise", SkipFlagParsing: true}
}

// kubectl runs upstream's kubectl; args begins with its name.
func kubectl(args []string) int {
	if os.Getenv("KUBECONFIG") == "" {
		own := config.Default().WriteKubeconfig
		home, _ := os.UserHomeDir()
		// A student's own kubeconfig goes before the server's, which only root may read anyway.
		if file, err := os.Open(own); err == nil && !exists(home+"/.kube/config") {
			file.Close()
			os.Setenv("KUBECONFIG", own)
		}
	}
	os.Args = args // upstream looks for plugins by them
	logs.GlogSetter(cmd.GetLogVerbosity(args))
	command := cmd.NewDefaultKubectlCommand()
	if err := componentcli.RunNoErrOutput(command); err != nil {
		util.CheckErr(err)
	}
	return codeDone
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
