// Package pg is Weir's Postgres: the schema, the transaction that stores a run
// of a journal's blocks, and the queries over what is stored. Every SQL string
// is here, and no value from outside ever gets into one.
//
// Times are whole microseconds in UTC.
package pg

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/tern/v2/migrate"

	"github.com/weirhq/weir/internal/events"
)

// Config says how to reach Postgres.
type Config struct {
	URL          string        // a connection URL or keyword string; it may hold a password, never show it
	MaxConns     int           // connections at most, from 3; all but two of them may be busy with queries
	QueryTimeout time.Duration // how long one query may run
}

// DefaultConfig lacks only the URL.
func DefaultConfig() Config { return Config{MaxConns: 8, QueryTimeout: 10 * time.Second} }

// Validate names every setting that is out of bounds.
func (c Config) Validate() error {
	var faults []error
	if c.URL == "" {
		faults = append(faults, &events.FieldError{Field: "postgres", Want: "a connection URL such as postgres://user:password@host/database"})
	}
	if c.MaxConns < 3 || c.MaxConns > 1000 {
		faults = append(faults, &events.FieldError{Field: "postgres connections", Value: strconv.Itoa(c.MaxConns), Want: "3 to 1000"})
	}
	if c.QueryTimeout < time.Millisecond || c.QueryTimeout > time.Hour {
		faults = append(faults, &events.FieldError{Field: "query timeout", Value: c.QueryTimeout.String(), Want: "1ms to 1h"})
	}
	return errors.Join(faults...)
}

// DB is a database with Weir's tables. It is safe for concurrent use.
type DB struct {
	pool         *pgxpool.Pool
	queryTimeout time.Duration
	queries      chan struct{} // one for each query that runs
	waiting      chan struct{} // one for each that waits for rows
	partitions   partitions
}

// Open prepares connections and makes none: whether Postgres answers shows with
// the first use. The error names what is wrong with the configuration.
func Open(ctx context.Context, c Config) (*DB, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	config, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		return nil, fmt.Errorf("postgres URL: %w", err) // pgx leaves the password out
	}
	config.MaxConns = int32(c.MaxConns)
	config.ConnConfig.RuntimeParams["timezone"] = "UTC"
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = "weir"
	}
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = 5 * time.Second
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open postgres: %w", err)
	}
	return &DB{pool: pool, queryTimeout: c.QueryTimeout, queries: make(chan struct{}, c.MaxConns-2), waiting: make(chan struct{}, maxWaiting)}, nil
}

// Close ends all connections. It waits for those in use.
func (db *DB) Close() { db.pool.Close() }

// Ping tells whether Postgres answers.
func (db *DB) Ping(ctx context.Context) error { return db.pool.Ping(ctx) }

//go:embed migrations
var migrations embed.FS

// ErrSchemaNewer says that a newer Weir has changed the database's schema.
var ErrSchemaNewer = errors.New("the database's schema is newer than this program")

// Migrate brings the schema up to what this program needs. Of several at once
// one does it and the others wait. The error is ErrSchemaNewer if the schema is
// of a newer program.
func (db *DB) Migrate(ctx context.Context) error {
	conn, err := db.pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	defer conn.Release()
	m, err := migrate.NewMigrator(ctx, conn.Conn(), "weir_schema_version")
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		panic("pg: " + err.Error()) // the directory is embedded
	}
	if err := m.LoadMigrations(files); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	have, err := m.GetCurrentVersion(ctx)
	if err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	if want := len(m.Migrations); int(have) > want {
		return fmt.Errorf("%w: it has version %d, this program knows %d; use a newer weir", ErrSchemaNewer, have, want)
	}
	if err := m.Migrate(ctx); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	return nil
}
