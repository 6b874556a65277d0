package crashtest

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/audit"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/pg"
	"github.com/weirhq/weir/internal/testenv"
)

var names = events.Names{Prefix: events.DefaultPrefix}

func decode(payload []byte) (gateway.Decision, error) { return events.DecodeDecision(payload) }

// system is Weir on servers of its own.
type system struct {
	*testing.T
	nats, postgres string // URLs
	shards         int
	conn           *pgx.Conn
}

func newSystem(t *testing.T) *system {
	t.Helper()
	s := &system{T: t, nats: testenv.NATS(t), postgres: testenv.Postgres(t), shards: 1}
	var err error
	if s.conn, err = pgx.Connect(t.Context(), s.postgres); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.conn.Close(context.Background()) })
	return s
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

func (s *system) writer() *testenv.Process {
	s.Helper()
	return testenv.Start(s.T, testenv.Build(s.T, "./cmd/writer"), "--nats", s.nats, "--postgres", s.postgres, "--http-addr", "127.0.0.1:0")
}

// rows counts the records that are stored; there may be no tables yet.
func (s *system) rows() (n int64) {
	err := s.conn.QueryRow(s.Context(), `SELECT coalesce(sum(records), 0)::bigint FROM writer_cursor`).Scan(&n)
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

// holdCopy returns once the writer's transaction waits to store its rows, and
// keeps it waiting until released.
func (s *system) holdCopy() (release func()) {
	s.Helper()
	conn, err := pgx.Connect(s.Context(), s.postgres)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = conn.Close(context.Background()) })
	if _, err := conn.Exec(s.Context(), `BEGIN; LOCK TABLE requests IN SHARE MODE`); err != nil {
		s.Fatal(err)
	}
	testenv.Eventually(s.T, patience, func() error {
		var waits bool
		err := s.conn.QueryRow(s.Context(), `SELECT EXISTS (SELECT FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'COPY requests%')`).Scan(&waits)
		if err == nil && !waits {
			err = errors.New("the writer does not copy")
		}
		return err
	})
	return func() {
		if _, err := conn.Exec(s.Context(), `COMMIT`); err != nil {
			s.Error(err)
		}
	}
}

// row is a row of a request.
type row struct {
	verdict   gateway.Verdict
	reason    events.Reason
	decidedAt time.Time
}

// awaitReports waits until n requests that came as reports are rows.
func (s *system) awaitReports(n int) {
	s.Helper()
	testenv.Eventually(s.T, patience, func() error {
		var have int
		err := s.conn.QueryRow(s.Context(), `SELECT count(*) FROM requests WHERE reason = 'timeout' OR starts_with(request_id, $1)`, reportPrefix).Scan(&have)
		if err == nil && have < n {
			err = fmt.Errorf("%d reports of %d", have, n)
		}
		return err
	})
}

// check holds what is stored against what the load was told.
func (s *system) check(l *load) {
	s.Helper()
	s.awaitReports(len(l.timedOut) + len(l.reported)) // the limiter takes them when it can
	s.audit()
	decided, timedOut := s.stored()
	for id, d := range l.decided {
		if rows := decided[id]; len(rows) != 1 || !same(rows[0], d) {
			l.wrong("decision %+v: want it as a row, found %+v", d, rows)
		}
	}
	for id := range l.timedOut {
		if n := len(timedOut[id]); n != 1 {
			l.wrong("%s had no decision in time: want one row that says so, found %d", id, n)
		}
		if n := len(decided[id]); n > 1 {
			l.wrong("%s: want at most one row that was decided, found %d", id, n)
		}
	}
	for id := range l.reported {
		if n := len(decided[id]) + len(timedOut[id]); n != 1 {
			l.wrong("report %s: want one row, found %d", id, n)
		}
	}
	l.mu.Lock() // of a straggler that observes
	defer l.mu.Unlock()
	for at, text := range l.seen {
		rows := decided[at.id]
		if at.timeout {
			rows = timedOut[at.id]
		}
		d, err := decode([]byte(text))
		if err != nil || len(rows) != 1 || !same(rows[0], d) {
			l.wrong("somebody saw %s: want it as a row, found %+v", text, rows)
		}
	}
	s.Logf("%d decided, %d without a decision in time, %d reported, %d faults", len(l.decided), len(l.timedOut), len(l.reported), l.faults.Load())
}

func same(r row, d gateway.Decision) bool {
	return r.verdict == d.Verdict && r.reason == d.Reason && r.decidedAt.Equal(d.DecidedAt)
}

// audit proves the promises over all that is stored.
func (s *system) audit() {
	s.Helper()
	js, err := jetstream.New(testenv.Connect(s.T, s.nats))
	if err != nil {
		s.Fatal(err)
	}
	config := pg.DefaultConfig()
	config.URL = s.postgres
	db, err := pg.Open(s.Context(), config)
	if err != nil {
		s.Fatal(err)
	}
	defer db.Close()
	report, err := audit.Run(s.Context(), audit.Options{DB: db, JetStream: js, Names: names, Shards: s.shards, Wait: patience})
	if err != nil {
		s.Fatal(err)
	}
	if !report.OK() {
		s.Errorf("audit:\n%s", &report)
	}
}

// stored returns all rows by their request's id: those that were decided, and
// those that tell of a gateway that did without a decision.
func (s *system) stored() (decided, timedOut map[string][]row) {
	s.Helper()
	decided, timedOut = map[string][]row{}, map[string][]row{}
	rows, err := s.conn.Query(s.Context(), `SELECT request_id, verdict, reason, decided_at FROM requests`)
	if err != nil {
		s.Fatal(err)
	}
	var id string
	var r row
	_, err = pgx.ForEachRow(rows, []any{&id, &r.verdict, &r.reason, &r.decidedAt}, func() error {
		if r.reason == gateway.ReasonTimeout {
			timedOut[id] = append(timedOut[id], r)
		} else {
			decided[id] = append(decided[id], r)
		}
		return nil
	})
	if err != nil {
		s.Fatal(err)
	}
	return decided, timedOut
}
