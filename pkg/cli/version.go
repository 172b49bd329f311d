package cli

import (
	"fmt"
	"runtime"

	"github.com/urfave/cli/v2"

	"github.com/labk/labk/pkg/version"
)

func versionCommand() *cli.Command {
	format := outputFlag()
	return &cli.Command{
		Name: "version", Usage: "Say what this program was built from", Flags: []cli.Flag{format},
		Action: func(c *cli.Context) error {
			v := struct {
				Version   string `json:"version"`
				Commit    string `json:"commit"`
				BuildDate string `json:"buildDate"`
				Go        string `json:"go"`
				Platform  string `json:"platform"`
				// Components are the versions of what labk is made of and carries.
				Components map[string]string `json:"components"`
			}{version.Version, version.Commit, version.BuildDate, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH, version.Parts()}
			return print(c, v, func() error {
				_, err := fmt.Fprintf(c.App.Writer, "labk %s (commit %s, %s, %s)\n", v.Version, v.Commit, v.Go, v.Platform)
				return err
			})
		},
	}
}
