package health

import (
	"context"
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/labk/labk/pkg/version"
)

func lookVersion(_ context.Context, h Host) finding {
	path := h.data().Version()
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return pass("not used yet")
	case errors.Is(err, os.ErrPermission), errors.Is(err, unix.ENOTDIR):
		return pass("not looked at: %v", err) // LABK001 or LABK040 says what to do
	case err != nil:
		return warn("%v", err).do("look at the disk")
	}
	last, err := version.Parse(strings.TrimSpace(string(text)))
	if err != nil {
		return warn("%s: %v", path, err).do("remove the file")
	}
	own, err := version.Parse(h.Version)
	switch {
	case err != nil, own.IsDevelopment():
		return pass("not looked at: this program has no version of its own")
	case own.Compare(last) < 0:
		return fail("%s was used by %s, and this is the older %s", h.Config.DataDir, strings.TrimSpace(string(text)), h.Version).
			do("run %s or a newer one; to go back for good: labk upgrade --back (docs/upgrading.md)", strings.TrimSpace(string(text)))
	}
	return pass("%s", strings.TrimSpace(string(text)))
}
