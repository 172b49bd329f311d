package addon

import (
	"io/fs"
	"strings"
	"testing"

	"github.com/labk/labk/manifests"
)

func TestFill(t *testing.T) {
	got, err := Fill([]byte("a: ${ONE}\nb: $${ONE} ${TWO}\n"), map[string]string{"ONE": "1", "TWO": "2"})
	if err != nil || string(got) != "a: 1\nb: $1 2\n" {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := Fill([]byte("${NONE}"), nil); err == nil || !strings.Contains(err.Error(), "${NONE}") {
		t.Errorf("got %v", err)
	}
}

func TestPackagedManifestsParse(t *testing.T) {
	files, err := fs.Glob(manifests.FS, "*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		data, err := fs.ReadFile(manifests.FS, file)
		if err != nil {
			t.Fatal(err)
		}
		filled, err := Fill(data, map[string]string{"CLUSTER_DNS": "10.43.0.10", "CLUSTER_DOMAIN": "cluster.local", "IMAGE_COREDNS": "x/coredns:1"})
		if err != nil {
			t.Fatal(file, err)
		}
		objects, err := parse(filled)
		if err != nil || len(objects) == 0 {
			t.Fatal(file, err)
		}
		for _, o := range objects {
			if o.GetKind() == "" || o.GetAPIVersion() == "" || o.GetName() == "" {
				t.Errorf("%s: %v", file, o.Object)
			}
		}
	}
}

func TestParseRefusesWhatIsNotYAML(t *testing.T) {
	if _, err := parse([]byte("a: [\n")); err == nil {
		t.Error("no error")
	}
	if objects, err := parse([]byte("---\n# nothing\n---\n")); err != nil || len(objects) != 0 {
		t.Errorf("got %v, %v", objects, err)
	}
}
