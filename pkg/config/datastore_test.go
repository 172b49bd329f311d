package config

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestDatastoreEndpoint(t *testing.T) {
	for endpoint, want := range map[string]struct {
		kind, place string
		secrets     []string
	}{
		"":                       {SQLite, "", nil},
		"https://a:2379":         {Etcd, "https://a:2379", nil},
		"http://a:1,https://b:2": {Etcd, "http://a:1,https://b:2", nil},
		"postgres://labk:pw@db:5432/labk?sslmode=require":     {Postgres, "postgres://labk@db:5432/labk", []string{"pw"}},
		"postgresql://labk:p%40w@db/labk?sslpassword=a%2Fb&x": {Postgres, "postgresql://labk@db/labk", []string{"p%40w", "a%2Fb", "p@w", "a/b"}},
		"postgres://labk@db/labk":                             {Postgres, "postgres://labk@db/labk", nil},
		"mysql://labk:a/b@c:d@tcp(db:3306)/labk":              {MySQL, "mysql://labk@tcp(db:3306)/labk", []string{"a/b@c:d"}},
		"mysql://tcp(db:3306)/labk":                           {MySQL, "mysql://tcp(db:3306)/labk", nil},
	} {
		c := Default()
		c.NodeName, c.DatastoreEndpoint = "pc1", endpoint
		if err := c.Validate(); err != nil {
			t.Errorf("%s: %v", endpoint, err)
		}
		if c.DatastoreKind() != want.kind || c.DatastorePlace() != want.place || !slices.Equal(c.DatastoreSecrets(), want.secrets) {
			t.Errorf("%s: %s, %s, %q", endpoint, c.DatastoreKind(), c.DatastorePlace(), c.DatastoreSecrets())
		}
	}
}

// No error tells the password.
func TestBadDatastoreEndpoint(t *testing.T) {
	for endpoint, want := range map[string]string{
		"db":                              "not the URL of a datastore",
		"nats://u:hidden@a":               "not the URL of a datastore",
		"postgres://":                     "not the URL of a datastore",
		"postgres://u:hid%zzden@a/b":      "postgres://USER:PASSWORD@HOST",
		"postgres:///labk":                "postgres://USER:PASSWORD@HOST",
		"mysql://u:hidden@a":              "mysql://USER:PASSWORD@tcp(HOST:3306)",
		"https://a":                       "https://HOST:2379",
		"https://a:2379,b:2379":           "https://HOST:2379",
		"https://a:2379/etcd":             "ends after its port",
		"https://u:hidden@a:2379":         "datastore-certfile",
		"https://a:2379,postgres://b:1/c": "https://HOST:2379",
	} {
		c := Default()
		c.NodeName, c.DatastoreEndpoint = "pc1", endpoint
		err := c.Validate()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hid") {
			t.Errorf("%s: %v", endpoint, err)
		}
	}
}

func TestDatastoreFiles(t *testing.T) {
	text := write(t, filepath.Join(t.TempDir(), "ca.crt"), "no PEM")
	for name, tc := range map[string]struct {
		change func(*Config)
		want   string // empty: valid
	}{
		"none":          {func(*Config) {}, ""},
		"no key":        {func(c *Config) { c.DatastoreCertFile = text }, "belong together"},
		"no file":       {func(c *Config) { c.DatastoreCAFile = text + ".none" }, "no such file"},
		"no PEM":        {func(c *Config) { c.DatastoreCAFile = text }, "is not PEM"},
		"for nothing":   {func(c *Config) { c.DatastoreEndpoint, c.DatastoreCAFile = "", text }, "give datastore-endpoint"},
		"unknown store": {func(c *Config) { c.Datastore = "paper" }, "use one of sqlite, etcd"},
	} {
		c := Default()
		c.NodeName, c.DatastoreEndpoint = "pc1", "https://a:2379"
		tc.change(&c)
		err := c.Validate()
		if err == nil {
			err = c.ValidateDatastoreFiles()
		}
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
}
