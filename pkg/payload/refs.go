package payload

import (
	"fmt"
	"strings"
)

// ImageRef returns the full name of the image whose repository ends in name: "pause" for docker.io/labk/pause:3.10.2.
func (b *Bundle) ImageRef(name string) (string, error) {
	for _, image := range b.manifest.Images {
		repository, _, _ := strings.Cut(image.Ref[strings.LastIndex(image.Ref, "/")+1:], ":")
		if repository == name {
			return image.Ref, nil
		}
	}
	return "", &DamagedError{Part: "images", Err: fmt.Errorf("no image %q", name)}
}
