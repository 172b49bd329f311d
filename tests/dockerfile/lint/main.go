// Command lint checks a Dockerfile with BuildKit's own rules, as `docker build --check` does, without a Docker engine. It is a module of its own: labk has no use
// for what BuildKit brings along.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: lint DOCKERFILE")
		os.Exit(2)
	}
	found, err := lint(os.Args[1])
	if err != nil {
		fmt.Fprintf(os.Stderr, "lint %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
	if found > 0 {
		os.Exit(1)
	}
}

// lint prints what is wrong with the file, one line each, and returns how much that is.
func lint(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	platform := platforms.MustParse("linux/amd64")
	source := llb.NewSourceMap(nil, path, "Dockerfile", text)
	source.Definition = &llb.Definition{}
	results, err := dockerfile2llb.DockerfileLint(context.Background(), text, dockerfile2llb.ConvertOpt{
		MetaResolver: noRegistry{}, TargetPlatform: &platform, SourceMap: source,
	})
	if err != nil {
		return 0, err
	}
	if results.Error != nil {
		return 0, fmt.Errorf("%s", results.Error.Message)
	}
	for _, w := range results.Warnings {
		line := int32(0)
		if w.Location != nil && len(w.Location.Ranges) > 0 {
			line = w.Location.Ranges[0].Start.Line
		}
		fmt.Printf("%s:%d: %s: %s\n", path, line, w.RuleName, w.Detail)
	}
	return len(results.Warnings), nil
}

// noRegistry knows nothing of an image but that it is there: what is checked are the steps, not what they build on.
type noRegistry struct{}

func (noRegistry) ResolveImageConfig(_ context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	return ref, "", []byte(`{"architecture":"amd64","os":"linux","config":{"Env":["PATH=/usr/bin:/bin"]}}`), nil
}

func (noRegistry) ResolveSourceMetadata(_ context.Context, op *pb.SourceOp, _ sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	return &sourceresolver.MetaResponse{Op: op}, nil
}
