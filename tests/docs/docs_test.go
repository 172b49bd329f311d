// Package docs checks what can be checked of the documentation: that links lead somewhere, and that the Korean pages say what the English ones do.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// root is the checkout, seen from this package.
const root = "../.."

// pages returns the Markdown files of the checkout's top and of docs, relative to the checkout.
func pages(t *testing.T) (all []string) {
	t.Helper()
	for _, folder := range []string{".", "docs"} {
		err := fs.WalkDir(os.DirFS(root), folder, func(path string, entry fs.DirEntry, err error) error {
			switch {
			case err != nil:
				return err
			case entry.IsDir() && folder == "." && path != ".":
				return fs.SkipDir
			case filepath.Ext(path) == ".md":
				all = append(all, path)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(all) < 20 {
		t.Fatalf("found only %d pages: %v", len(all), all)
	}
	return all
}

func read(t *testing.T, page string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

var (
	fence = regexp.MustCompile("(?ms)^```.*?^```$")
	link  = regexp.MustCompile(`\]\(([^()\s]+)\)`)
)

// links returns the relative links of a page's prose, without the places inside the other page that they may name.
func links(text string) (all []string) {
	for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		to, _, _ := strings.Cut(m[1], "#")
		if to != "" && !strings.Contains(to, ":") {
			all = append(all, to)
		}
	}
	return all
}

func TestLinks(t *testing.T) {
	checked := 0
	for _, page := range pages(t) {
		for _, to := range links(read(t, page)) {
			checked++
			if _, err := os.Stat(filepath.Join(root, filepath.Dir(page), to)); err != nil {
				t.Errorf("%s has a link to %s, which is not there", page, to)
			}
		}
	}
	if checked < 50 {
		t.Errorf("found only %d links", checked)
	}
}
