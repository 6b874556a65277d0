package testenv

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/embedded"
)

// NATS starts a NATS server with JetStream for the test and returns its URL.
func NATS(tb testing.TB) string {
	tb.Helper()
	server, err := embedded.StartNATS(tb.Context(), embedded.NATSOptions{
		Dir:  tb.TempDir(),
		Addr: "127.0.0.1:0",
		Log:  zap.NewNop(),
	})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := server.Close(); err != nil {
			tb.Error(err)
		}
	})
	return server.URL()
}

// Connect connects to a NATS server until the test ends. The connection does
// not give up when the server is away.
func Connect(tb testing.TB, url string) *nats.Conn {
	tb.Helper()
	conn, err := nats.Connect(url, nats.MaxReconnects(-1), nats.ReconnectWait(50*time.Millisecond))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(conn.Close)
	return conn
}

var cluster struct {
	sync.Mutex // guards the rest

	server    *embedded.Postgres
	err       error
	databases int
}

// Postgres makes an empty database for the test and returns its DSN. The tests
// of a process share one cluster, which does not survive a power cut. Without
// Postgres on the machine the test is skipped, and fails where REQUIRE_ENV=1.
func Postgres(tb testing.TB) string {
	tb.Helper()
	dsn, name := newDatabase(tb)
	execute(tb, dsn, "CREATE DATABASE "+name)
	tb.Cleanup(func() {
		// FORCE: sessions of a program the test killed may not be gone yet.
		execute(tb, dsn, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
	})
	address, err := url.Parse(dsn)
	if err != nil {
		tb.Fatal(err)
	}
	address.Path = "/" + name
	return address.String()
}

// newDatabase names a database to be and returns how to reach its cluster.
func newDatabase(tb testing.TB) (dsn, name string) {
	tb.Helper()
	cluster.Lock()
	defer cluster.Unlock()
	if cluster.server == nil && cluster.err == nil {
		cluster.server, cluster.err = embedded.StartPostgres(context.Background(), embedded.PostgresOptions{
			Dir:      filepath.Join(processDir(tb), "postgres"),
			Addr:     "127.0.0.1:0",
			Settings: []string{"fsync=off", "full_page_writes=off", "max_connections=200"},
			Log:      zap.NewNop(),
		})
	}
	if errors.Is(cluster.err, embedded.ErrNoPostgres) && os.Getenv("REQUIRE_ENV") != "1" {
		tb.Skip(cluster.err)
	}
	if cluster.err != nil {
		tb.Fatal(cluster.err)
	}
	cluster.databases++
	return cluster.server.URL(), fmt.Sprintf("test_%d", cluster.databases)
}

func execute(tb testing.TB, dsn, statement string) {
	tb.Helper()
	ctx := context.Background() // also after the test, when its own is over
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		tb.Fatal(err)
	}
	_, err = conn.Exec(ctx, statement)
	if err := errors.Join(err, conn.Close(ctx)); err != nil {
		tb.Fatalf("%s: %v", statement, err)
	}
}
