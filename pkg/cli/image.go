package cli

import (
	"context"
	"fmt"
	"os"
	"text/tabwriter"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/urfave/cli/v2"

	"github.com/labk/labk/pkg/image"
	"github.com/labk/labk/pkg/paths"
)

func imageCommand() *cli.Command {
	return &cli.Command{
		Name: "image", Usage: "Put container images on this node without a registry",
		Subcommands: []*cli.Command{
			{Name: "import", Usage: "Import image archives; they stay until you remove them", ArgsUsage: "FILE...", Action: importFiles},
			{Name: "list", Usage: "List this node's images", Flags: []cli.Flag{outputFlag()}, Action: listImages},
		},
	}
}

func withContainerd(ctx context.Context, do func(*containerd.Client) error) error {
	if _, err := os.Stat(paths.ContainerdSocket); err != nil {
		return fmt.Errorf("connect to containerd: %w: start labk on this machine first, and run this as root", err)
	}
	client, err := containerd.New(paths.ContainerdSocket, containerd.WithTimeout(10*time.Second))
	if err != nil {
		return fmt.Errorf("connect to containerd: %w", err)
	}
	defer client.Close()
	return do(client)
}

func importFiles(c *cli.Context) error {
	if !c.Args().Present() {
		return usageError{fmt.Errorf("which file? see `labk image import --help`")}
	}
	return withContainerd(c.Context, func(client *containerd.Client) error {
		for _, path := range c.Args().Slice() {
			file, err := os.Open(path)
			if err != nil {
				return fmt.Errorf("import image: %w", err)
			}
			names, err := image.Import(c.Context, client, file)
			file.Close()
			if err != nil {
				return fmt.Errorf("import %s: %w", path, err)
			}
			for _, name := range names {
				fmt.Fprintln(c.App.Writer, name)
			}
		}
		return nil
	})
}

func listImages(c *cli.Context) error {
	return withContainerd(c.Context, func(client *containerd.Client) error {
		list, err := image.List(c.Context, client)
		if err != nil {
			return err
		}
		return print(c, list, func() error {
			w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "IMAGE\tDIGEST\tPINNED")
			for _, i := range list {
				fmt.Fprintf(w, "%s\t%.19s\t%v\n", i.Ref, i.Digest, i.Pinned)
			}
			return w.Flush()
		})
	})
}
