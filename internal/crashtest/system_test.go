package crashtest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/testenv"
)

var names = events.Names{Prefix: events.DefaultPrefix}

func decode(payload []byte) (gateway.Decision, error) { return events.DecodeDecision(payload) }

// system is Weir on servers of its own.
type system struct {
	*testing.T
	nats, postgres string // URLs; Postgres only once there is a writer
	shards         int
	conn           *pgx.Conn
	forgives       bool // what an owner answered as degraded before it ended may be lost
}

func newSystem(t *testing.T) *system {
	t.Helper()
	return &system{T: t, nats: testenv.NATS(t), shards: 1}
}

// limiter starts a limiter. One with the name of one that was killed does not
// wait for its lease to run out. None gives a decision before the journal has
// it, as a busy machine could make it do: what is not degraded is what is tested.
func (s *system) limiter(name string) *testenv.Process {
	s.Helper()
	return s.limiterThatDegrades(name, "1m")
}

// limiterThatDegrades starts a limiter that waits only so long for the journal.
func (s *system) limiterThatDegrades(name, after string) *testenv.Process {
	s.Helper()
	return testenv.Start(s.T, testenv.Build(s.T, "./cmd/limiter"), "--nats", s.nats, "--http-addr", "127.0.0.1:0", "--shards", strconv.Itoa(s.shards), "--name", name, "--degrade-after", after)
}

// writer starts a writer, the first time on a database of its own.
func (s *system) writer() *testenv.Process {
	s.Helper()
	if s.conn == nil {
		s.postgres = testenv.Postgres(s.T)
		var err error
		if s.conn, err = pgx.Connect(s.Context(), s.postgres); err != nil {
			s.Fatal(err)
		}
		s.Cleanup(func() { _ = s.conn.Close(context.Background()) })
	}
	return testenv.Start(s.T, testenv.Build(s.T, "./cmd/writer"), "--nats", s.nats, "--postgres", s.postgres, "--http-addr", "127.0.0.1:0")
}

// rows counts the records that are stored; there may be no tables yet.
func (s *system) rows() (n int64) {
	err := s.conn.QueryRow(s.Context(), `SELECT coalesce(sum(records), 0)::bigint FROM writer_cursor WHERE shard >= 0`).Scan(&n)
	if err != nil {
		return 0
	}
	return n
}

func (s *system) awaitRows(n int64) {
	s.Helper()
	testenv.Eventually(s.T, patience, func() error {
		if have := s.rows(); have < n {
			return fmt.Errorf("%d rows of %d", have, n)
		}
		return nil
	})
}

// hold returns once a transaction of the writer's waits to store its rows in a
// table, and keeps it waiting until released.
func (s *system) hold(table string) (release func()) {
	s.Helper()
	conn, err := pgx.Connect(s.Context(), s.postgres)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = conn.Close(context.Background()) })
	if _, err := conn.Exec(s.Context(), `BEGIN; LOCK TABLE `+table+` IN SHARE MODE`); err != nil {
		s.Fatal(err)
	}
	testenv.Eventually(s.T, patience, func() error {
		var waits bool
		err := s.conn.QueryRow(s.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock' AND query ~ ('^(COPY|INSERT INTO) ' || $1))`, table).Scan(&waits)
		if err == nil && !waits {
			err = errors.New("the writer does not wait")
		}
		return err
	})
	return func() {
		if _, err := conn.Exec(s.Context(), `COMMIT`); err != nil {
			s.Error(err)
		}
	}
}
