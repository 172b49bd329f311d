package cli

import (
	"encoding/json"
	"fmt"

	"github.com/urfave/cli/v2"
	"sigs.k8s.io/yaml"
)

// outputFormats are what -o takes.
var outputFormats = []string{"table", "json", "yaml"}

// outputFlag is -o, wherever there is a table.
func outputFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "Print as `FORMAT`: table, json or yaml.", Value: "table"}
}

// print prints v as -o says; table prints it for people.
func print(c *cli.Context, v any, table func() error) error {
	switch format := c.String("output"); format {
	case "table":
		return table()
	case "json":
		e := json.NewEncoder(c.App.Writer)
		e.SetIndent("", "  ")
		return e.Encode(v)
	case "yaml":
		data, err := yaml.Marshal(v)
		if err != nil {
			return err
		}
		_, err = c.App.Writer.Write(data)
		return err
	default:
		return usageError{fmt.Errorf("no output format %q: use table, json or yaml", format)}
	}
}
