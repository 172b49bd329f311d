package config

import (
	"crypto/tls"
	"encoding/pem"
	"net/url"
	"os"
	"strings"
)

// What a datastore can be: the first two in this process, the others, and etcd, elsewhere.
const (
	SQLite   = "sqlite"
	Etcd     = "etcd"
	Postgres = "postgres"
	MySQL    = "mysql"
)

// elsewhere tells by the scheme of an endpoint what is there.
var elsewhere = map[string]string{"https": Etcd, "http": Etcd, "postgres": Postgres, "postgresql": Postgres, "mysql": MySQL}

// DatastoreKind is one of the constants. The configuration must be valid.
func (c *Config) DatastoreKind() string {
	if c.DatastoreEndpoint == "" {
		return c.Datastore
	}
	scheme, _, _ := strings.Cut(c.DatastoreEndpoint, "://")
	return elsewhere[scheme]
}

// DatastorePlace is where the datastore elsewhere is, for people to read: the endpoint without its password and its parameters, which may have one too. It is empty without an
// endpoint.
func (c *Config) DatastorePlace() string {
	endpoint, _, _ := strings.Cut(c.DatastoreEndpoint, "?")
	scheme, rest, ok := strings.Cut(endpoint, "://")
	if !ok {
		return ""
	}
	if at := strings.LastIndex(rest, "@"); at >= 0 {
		user, _, _ := strings.Cut(rest[:at], ":")
		rest = user + rest[at:]
	}
	return scheme + "://" + rest
}

// DatastoreSecrets are the texts in the endpoint that nobody may read, as they are written and as they are meant.
func (c *Config) DatastoreSecrets() []string {
	_, rest, _ := strings.Cut(c.DatastoreEndpoint, "://")
	address, parameters, _ := strings.Cut(rest, "?")
	var all []string
	if at := strings.LastIndex(address, "@"); at >= 0 {
		_, password, _ := strings.Cut(address[:at], ":")
		all = append(all, password)
	}
	for parameter := range strings.SplitSeq(parameters, "&") {
		if name, value, _ := strings.Cut(parameter, "="); strings.Contains(strings.ToLower(name), "pass") {
			all = append(all, value)
		}
	}
	for _, s := range all {
		if meant, err := url.PathUnescape(s); err == nil && meant != s {
			all = append(all, meant)
		}
	}
	var out []string
	for _, s := range all {
		if s != "" {
			out = append(out, s)
		}
	}
	return out
}

func (c *Config) validateDatastore() error {
	if err := oneOf("datastore", c.Datastore, SQLite, Etcd); err != nil {
		return err
	}
	for _, f := range c.datastoreFiles() {
		if f.path != "" && c.DatastoreEndpoint == "" {
			return &Error{f.option, "there is no datastore elsewhere that it could be for", "give datastore-endpoint, too, or leave it out"}
		}
	}
	if (c.DatastoreCertFile == "") != (c.DatastoreKeyFile == "") {
		return &Error{"datastore-certfile", "a certificate and its key belong together", "give both datastore-certfile and datastore-keyfile, or neither"}
	}
	return c.validateEndpoint()
}

type optionFile struct{ option, path string }

func (c *Config) datastoreFiles() []optionFile {
	return []optionFile{{"datastore-cafile", c.DatastoreCAFile}, {"datastore-certfile", c.DatastoreCertFile}, {"datastore-keyfile", c.DatastoreKeyFile}}
}

// ValidateDatastoreFiles looks at the files that the options name, which Validate does not. The error is an *Error.
func (c *Config) ValidateDatastoreFiles() error {
	for _, f := range c.datastoreFiles() {
		if f.path == "" {
			continue
		}
		text, err := os.ReadFile(f.path)
		if err != nil {
			return &Error{f.option, err.Error(), "name a file that root can read"}
		}
		if block, _ := pem.Decode(text); block == nil {
			return &Error{f.option, f.path + " is not PEM", "name a file that begins with -----BEGIN"}
		}
	}
	if c.DatastoreCertFile == "" {
		return nil
	}
	if _, err := tls.LoadX509KeyPair(c.DatastoreCertFile, c.DatastoreKeyFile); err != nil {
		return &Error{"datastore-keyfile", err.Error(), "give the key of the certificate in datastore-certfile"}
	}
	return nil
}

// validateEndpoint never says what the endpoint is: it may have a password.
func (c *Config) validateEndpoint() error {
	const option = "datastore-endpoint"
	if c.DatastoreEndpoint == "" {
		return nil
	}
	scheme, rest, _ := strings.Cut(c.DatastoreEndpoint, "://")
	kind, ok := elsewhere[scheme]
	if !ok || rest == "" {
		return &Error{option, "it is not the URL of a datastore", "begin it with https:// (etcd), postgres:// or mysql://"}
	}
	switch kind {
	case Etcd:
		return validateEtcd(strings.Split(c.DatastoreEndpoint, ","))
	case Postgres:
		if u, err := url.Parse(c.DatastoreEndpoint); err != nil || u.Hostname() == "" {
			return &Error{option, "it can't be understood", "write it as postgres://USER:PASSWORD@HOST:5432/DATABASE, with % and two hexadecimal digits for each sign in the password that is neither a letter nor a digit"}
		}
	case MySQL:
		if !strings.Contains(rest, "/") || !strings.Contains(rest, "(") {
			return &Error{option, "it can't be understood", "write it as mysql://USER:PASSWORD@tcp(HOST:3306)/DATABASE"}
		}
	}
	return nil
}

func validateEtcd(endpoints []string) error {
	for _, e := range endpoints {
		u, err := url.Parse(e)
		switch {
		case err != nil || u.Port() == "" || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http":
			return &Error{"datastore-endpoint", "it can't be understood", "write it as https://HOST:2379, several of them separated by commas"}
		case u.User != nil:
			return &Error{"datastore-endpoint", "the API server shows etcd a certificate, no password", "give datastore-certfile and datastore-keyfile, and leave USER:PASSWORD@ out"}
		case u.Path != "" && u.Path != "/" || u.RawQuery != "":
			return &Error{"datastore-endpoint", "an etcd's URL ends after its port", "write it as https://HOST:2379, several of them separated by commas"}
		}
	}
	return nil
}
