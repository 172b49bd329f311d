package databases

import (
	"cmp"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"

	_ "github.com/go-sql-driver/mysql" // database/sql's
	_ "github.com/jackc/pgx/v5/stdlib"
)

type postgres struct{}

// postgresFolders is where Debian has PostgreSQL's programs, which are not in PATH.
const postgresFolders = "/usr/lib/postgresql/*/bin"

func (postgres) prepare(s *Server) error {
	initdb, err := program("initdb", postgresFolders)
	if err != nil {
		return err
	}
	return s.run(initdb, "--pgdata="+filepath.Join(s.dir, "data"), "--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-sync")
}

func (postgres) serve(s *Server) (*exec.Cmd, error) {
	path, err := program("postgres", postgresFolders)
	if err != nil {
		return nil, err
	}
	settings := []string{"unix_socket_directories=" + s.dir, "listen_addresses=" + s.options.Address, "max_connections=200"}
	if s.options.Port != 0 {
		settings = append(settings, "port="+strconv.Itoa(s.options.Port))
	}
	if s.options.CertFile != "" {
		paths, err := s.copyTLS()
		if err != nil {
			return nil, err
		}
		settings = append(settings, "ssl=on", "ssl_ca_file="+paths[0], "ssl_cert_file="+paths[1], "ssl_key_file="+paths[2])
	}
	args := []string{"-D", filepath.Join(s.dir, "data")}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	return s.command(path, args...), nil
}

func (postgres) port(s *Server) int {
	if s.options.Port != 0 {
		return s.options.Port
	}
	return 5432
}

// socket has the port in its name, also where there is no TCP.
func (p postgres) socket(s *Server) string {
	return filepath.Join(s.dir, fmt.Sprintf(".s.PGSQL.%d", p.port(s)))
}

func (p postgres) endpoint(s *Server, database string) string {
	return fmt.Sprintf("postgres://postgres@/%s?host=%s&port=%d", database, s.dir, p.port(s))
}

func (p postgres) dsn(s *Server, database string) (driver, name string) {
	return "pgx", p.endpoint(s, cmp.Or(database, "postgres"))
}

type mariadb struct{}

const mariadbFolders = "/usr/sbin"

func (mariadb) prepare(s *Server) error {
	install, err := program("mariadb-install-db")
	if err != nil {
		return err
	}
	return s.run(install, "--no-defaults", "--datadir="+filepath.Join(s.dir, "data"), "--auth-root-authentication-method=normal", "--skip-test-db")
}

func (m mariadb) serve(s *Server) (*exec.Cmd, error) {
	path, err := program("mariadbd", mariadbFolders)
	if err != nil {
		return nil, err
	}
	args := []string{"--no-defaults", "--datadir=" + filepath.Join(s.dir, "data"), "--socket=" + m.socket(s), "--pid-file=" + filepath.Join(s.dir, "pid")}
	if s.options.Address == "" {
		args = append(args, "--skip-networking")
	} else {
		args = append(args, "--bind-address="+s.options.Address, "--port="+strconv.Itoa(s.options.Port))
	}
	if s.options.CertFile != "" {
		paths, err := s.copyTLS()
		if err != nil {
			return nil, err
		}
		args = append(args, "--ssl-ca="+paths[0], "--ssl-cert="+paths[1], "--ssl-key="+paths[2])
	}
	return s.command(path, args...), nil
}

func (mariadb) socket(s *Server) string { return filepath.Join(s.dir, "sock") }

func (m mariadb) endpoint(s *Server, database string) string {
	return fmt.Sprintf("mysql://root@unix(%s)/%s", m.socket(s), database)
}

func (m mariadb) dsn(s *Server, database string) (driver, name string) {
	return "mysql", fmt.Sprintf("root@unix(%s)/%s", m.socket(s), cmp.Or(database, "mysql"))
}

// Address is where the server listens on TCP, if it does.
func (s *Server) Address() string {
	return net.JoinHostPort(s.options.Address, strconv.Itoa(s.options.Port))
}
