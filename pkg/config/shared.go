package config

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
)

// defaultPort is the API's when a URL names none.
const defaultPort = "6443"

// Shared are the options that all nodes of a cluster have from its server: name to value.
func (c *Config) Shared() map[string]string {
	out := map[string]string{}
	for _, o := range Options() {
		if o.shared {
			out[o.Name] = fmt.Sprint(c.field(o).Interface())
		}
	}
	return out
}

// Adopt sets the shared options to another Config's Shared; other keys are left alone. A value that is missing or wrong changes nothing.
func (c *Config) Adopt(shared map[string]string) error {
	adopted := *c
	for _, o := range Options() {
		if !o.shared {
			continue
		}
		v, ok := shared[o.Name]
		if !ok {
			return fmt.Errorf("the server does not tell %s: is it a labk of the same version?", o.Name)
		}
		if err := adopted.set(o, []string{v}, o.Name); err != nil {
			return err
		}
	}
	if err := adopted.validateNetworks(); err != nil {
		return err
	}
	*c = adopted
	return nil
}

// ServerURL is the server that an agent joins. A mistake is an *Error.
func (c *Config) ServerURL() (*url.URL, error) {
	wrong := func(problem string) error {
		return &Error{"server", problem, "write it like https://first-pc:6443, with the name or address of the PC that runs labk server"}
	}
	if c.Server == "" {
		return nil, wrong("no server to join")
	}
	u, err := url.Parse(c.Server)
	switch {
	case err != nil || u.Host == "" || u.Hostname() == "":
		return nil, wrong(fmt.Sprintf("%q is no URL", c.Server))
	case u.Scheme != "https":
		return nil, wrong(fmt.Sprintf("%q does not begin with https://", c.Server))
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return nil, wrong(fmt.Sprintf("%q has more in it than a name and a port", c.Server))
	}
	port := cmp.Or(u.Port(), defaultPort)
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return nil, wrong(fmt.Sprintf("%q: %s is no port", c.Server, port))
	}
	return &url.URL{Scheme: u.Scheme, Host: net.JoinHostPort(u.Hostname(), port)}, nil
}

// ReadToken returns the configured token, from wherever it is; empty if there is none. A mistake is an *Error.
func (c *Config) ReadToken() (string, error) {
	if c.TokenFile == "" {
		return strings.TrimSpace(c.Token), nil
	}
	if c.Token != "" {
		return "", &Error{"token-file", "there is a token as well", "give one of the two"}
	}
	data, err := os.ReadFile(c.TokenFile)
	if err != nil {
		return "", &Error{"token-file", err.Error(), "name a file that is there"}
	}
	token := strings.TrimSpace(string(data))
	if token == "" {
		return "", &Error{"token-file", c.TokenFile + " is empty", "put the token into it"}
	}
	return token, nil
}
