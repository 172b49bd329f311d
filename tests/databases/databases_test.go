package databases_test

import (
	"context"
	"testing"
	"time"

	"github.com/labk/labk/tests/databases"
)

// TestServers writes to each server, kills it, and reads what was written from the one that comes after.
func TestServers(t *testing.T) {
	for name, start := range map[string]func(testing.TB, databases.Options) *databases.Server{
		"PostgreSQL": databases.PostgreSQL,
		"MariaDB":    databases.MariaDB,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			server := start(t, databases.Options{})
			write(ctx, t, server)
			server.Kill()
			server.Start()
			db, err := server.Open("")
			if err != nil {
				t.Fatal(err)
			}
			defer db.Close()
			var got string
			if err := db.QueryRowContext(ctx, "SELECT word FROM kept").Scan(&got); err != nil || got != "here" {
				t.Errorf("after a kill, got %q, %v", got, err)
			}
		})
	}
}

func write(ctx context.Context, t *testing.T, server *databases.Server) {
	t.Helper()
	db, err := server.Open("")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, statement := range []string{"CREATE TABLE kept (word varchar(10))", "INSERT INTO kept VALUES ('here')"} {
		if _, err := db.ExecContext(ctx, statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
}
