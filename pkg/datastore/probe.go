package datastore

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/go-sql-driver/mysql"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/labk/labk/pkg/config"
)

// probeLimit bounds one question to a datastore elsewhere.
const probeLimit = 10 * time.Second

// probe asks the datastore elsewhere whether it would take this server. kine's own way in tries for five minutes, whatever is wrong, and says nothing.
func (s *Store) probe(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	var err error
	switch s.opts.Config.DatastoreKind() {
	case config.Etcd:
		err = s.probeEtcd(ctx)
	case config.Postgres:
		err = probePostgres(ctx, s.opts.Config)
	case config.MySQL:
		err = probeMySQL(ctx, s.opts.Config)
	}
	return judgeTLS(err)
}

// judgeTLS tells which failures of TLS no waiting mends. A certificate that is not valid yet, or not any more, is not among them: the clock may still be set.
func judgeTLS(err error) error {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var plain tls.RecordHeaderError
	switch {
	case err == nil || errors.As(err, new(*refusedError)):
		return err
	case errors.As(err, &unknown):
		return &refusedError{err, "name the file of the CA that signed its certificate with datastore-cafile"}
	case errors.As(err, &name):
		return &refusedError{err, "write its address in datastore-endpoint as its certificate does"}
	case errors.As(err, &plain):
		return &refusedError{err, "it does not speak TLS there"}
	case strings.Contains(err.Error(), "remote error: tls:"):
		return &refusedError{err, "it does not take the certificate: give one that it does with datastore-certfile and datastore-keyfile"}
	}
	return err
}

// probeEtcd is content when one member answers. All are asked at the same time: one that is switched off may use up all of it. The client itself would only say that it got no answer in time, so each is
// called by hand before.
func (s *Store) probeEtcd(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	endpoints := s.Endpoints()
	errs, asked := make([]error, len(endpoints)), make(chan error, len(endpoints))
	for i, endpoint := range endpoints {
		go func() {
			errs[i] = s.probeMember(ctx, endpoint)
			asked <- errs[i]
		}()
	}
	for range endpoints {
		if err := <-asked; err == nil {
			return nil
		}
	}
	return errors.Join(errs...)
}

func (s *Store) probeMember(ctx context.Context, endpoint string) error {
	files := s.TLS()
	cfg, err := files.ClientConfig()
	if err != nil {
		return &refusedError{err, "name files in PEM with datastore-cafile, datastore-certfile and datastore-keyfile"}
	}
	if err := call(ctx, endpoint, cfg); err != nil {
		return err
	}
	client, err := s.client(ctx, []string{endpoint}, files)
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = client.Get(ctx, asked)
	if errors.Is(err, rpctypes.ErrUserEmpty) || errors.Is(err, rpctypes.ErrPermissionDenied) || errors.Is(err, rpctypes.ErrInvalidAuthToken) {
		return &refusedError{err, "give a certificate whose name is a user that may read and write everything below /registry with datastore-certfile and datastore-keyfile"}
	}
	return err
}

// call asks for a page. What the page says is not looked at, nor whether there is one: with TLS 1.3 only an answer tells that the server has taken this side's certificate.
func call(ctx context.Context, endpoint string, cfg *tls.Config) error {
	transport := &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint+"/version", nil)
	if err != nil {
		return err
	}
	response, err := transport.RoundTrip(request)
	if err == nil {
		return response.Body.Close()
	}
	var dial *net.OpError
	if errors.As(judgeTLS(err), new(*refusedError)) || errors.As(err, &dial) && dial.Op == "dial" || ctx.Err() != nil {
		return err
	}
	return nil
}

// probePostgres connects as kine's driver does. That the database is not there yet is no fault: kine makes it.
func probePostgres(ctx context.Context, c *config.Config) error {
	u, err := url.Parse(c.DatastoreEndpoint)
	if err != nil {
		return &refusedError{errors.New("the endpoint can't be understood"), "write it as postgres://USER:PASSWORD@HOST:5432/DATABASE"}
	}
	if u.Path == "" || u.Path == "/" {
		u.Path = "/kubernetes"
	}
	query := u.Query()
	for name, file := range map[string]string{"sslrootcert": c.DatastoreCAFile, "sslcert": c.DatastoreCertFile, "sslkey": c.DatastoreKeyFile} {
		if file == "" {
			continue
		}
		if !query.Has(name) {
			query.Set(name, file)
		}
		if !query.Has("sslmode") {
			query.Set("sslmode", "verify-full")
		}
	}
	u.RawQuery = query.Encode()
	cfg, err := pgx.ParseConfig(u.String())
	if err != nil {
		return &refusedError{err, "write datastore-endpoint as postgres://USER:PASSWORD@HOST:5432/DATABASE"}
	}
	connection, err := pgx.ConnectConfig(ctx, cfg)
	if err == nil {
		return connection.Close(ctx)
	}
	var answer *pgconn.PgError
	switch {
	case errors.As(err, &answer) && answer.Code == "3D000": // there is no such database
		return nil
	case errors.As(err, &answer) && strings.HasPrefix(answer.Code, "28"): // not authorized
		return &refusedError{errors.New(answer.Message), "correct the user and the password in datastore-endpoint, or let them in on that server (pg_hba.conf)"}
	case strings.Contains(err.Error(), "server refused TLS connection"):
		return &refusedError{errors.New("it does not speak TLS"), "switch it on there (ssl = on), or leave out the certificates and sslmode"}
	}
	return err
}

// What MySQL and MariaDB answer.
const (
	mysqlNoDatabase = 1049
	mysqlNoTLS      = "TLS requested but server does not support TLS"
)

var mysqlDenied = []uint16{1044, 1045, 1130, 1698}

// probeMySQL connects as kine's driver does.
func probeMySQL(ctx context.Context, c *config.Config) error {
	_, rest, _ := strings.Cut(c.DatastoreEndpoint, "://")
	cfg, err := mysql.ParseDSN(rest)
	if err != nil {
		return &refusedError{errors.New("the endpoint can't be understood"), "write datastore-endpoint as mysql://USER:PASSWORD@tcp(HOST:3306)/DATABASE"}
	}
	cfg.Logger = &mysql.NopLogger{}
	if c.DatastoreCAFile != "" || c.DatastoreCertFile != "" {
		if cfg.TLS, err = files(c).ClientConfig(); err != nil {
			return &refusedError{err, "name files in PEM with datastore-cafile, datastore-certfile and datastore-keyfile"}
		}
		if cfg.TLS.ServerName == "" {
			cfg.TLS.ServerName, _, _ = net.SplitHostPort(cfg.Addr)
		}
	}
	connector, err := mysql.NewConnector(cfg)
	if err != nil {
		return &refusedError{err, "write datastore-endpoint as mysql://USER:PASSWORD@tcp(HOST:3306)/DATABASE"}
	}
	db := sql.OpenDB(connector)
	defer db.Close()
	err = db.PingContext(ctx)
	var answer *mysql.MySQLError
	switch {
	case errors.As(err, &answer) && answer.Number == mysqlNoDatabase:
		return nil
	case errors.As(err, &answer) && slices.Contains(mysqlDenied, answer.Number):
		return &refusedError{errors.New(answer.Message), "correct the user and the password in datastore-endpoint, or let them in on that server (GRANT ALL)"}
	case err != nil && strings.Contains(err.Error(), mysqlNoTLS):
		return &refusedError{errors.New("it does not speak TLS"), "switch it on there (ssl_cert, ssl_key), or leave out the certificates"}
	}
	return err
}

// reason is an error in short: without the port that a connection happened to have, which would make every try look like news.
func reason(err error) string {
	var connection *net.OpError
	if errors.As(err, &connection) && connection.Addr != nil {
		return fmt.Sprintf("%s %s: %v", connection.Op, connection.Addr, connection.Err)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return "no answer"
	}
	return strings.ReplaceAll(err.Error(), "\n", "; ")
}
