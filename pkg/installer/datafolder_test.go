package installer

import (
	"io/fs"
	"testing"
)

func TestDataFolderOf(t *testing.T) {
	const (
		start   = "ExecStart={ path=/usr/local/bin/labk ; argv[]=/usr/local/bin/labk server ; ignore_errors=no ; pid=0 }\n"
		files   = "EnvironmentFiles=/etc/default/labk (ignore_errors=yes)\n"
		another = "EnvironmentFiles=/etc/more (ignore_errors=no)\n"
	)
	texts := map[string]string{"/etc/default/labk": "LABK_NODE_NAME=a\nLABK_DATA_DIR=\"/srv/labk\"\n# LABK_DATA_DIR=/srv/old\n", "/etc/more": "LABK_DATA_DIR=/srv/more/"}
	for name, tc := range map[string]struct {
		shown, want string
	}{
		"nothing":             {start, ""},
		"file":                {files + start, "/srv/labk"},
		"two files":           {files + another + start, "/srv/more"},
		"a missing file":      {"EnvironmentFiles=/etc/none (ignore_errors=yes)\n" + start, ""},
		"variable":            {start + "Environment=A=1 LABK_DATA_DIR=/srv/env B=2\n", "/srv/env"},
		"another variable":    {start + "Environment=MY_LABK_DATA_DIR=/srv/env\n", ""},
		"variable and file":   {start + "Environment=LABK_DATA_DIR=/srv/env\n" + files, "/srv/labk"},
		"flag":                {"ExecStart={ path=/labk ; argv[]=/labk server --data-dir /srv/flag ; ignore_errors=no }\n" + files, "/srv/flag"},
		"flag with a sign":    {"ExecStart={ path=/labk ; argv[]=/labk server --data-dir=/srv/flag --debug ; ignore_errors=no }", "/srv/flag"},
		"relative, of nobody": {start + "Environment=LABK_DATA_DIR=srv\n", ""},
	} {
		got := dataFolderOf(tc.shown, func(path string) ([]byte, error) {
			if text, ok := texts[path]; ok {
				return []byte(text), nil
			}
			return nil, fs.ErrNotExist
		})
		if got != tc.want {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}
