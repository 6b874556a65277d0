package writer_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/weirhq/weir/internal/embedded"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/pg"
	"github.com/weirhq/weir/internal/shards"
	"github.com/weirhq/weir/internal/testenv"
	"github.com/weirhq/weir/internal/writer"
)

var names = events.Names{Prefix: "weir"}

// env is a journal, a database and a way to run writers between them.
type env struct {
	*testing.T
	js       jetstream.JetStream
	url      string    // of Postgres
	conn     *pgx.Conn // sees the database from outside
	journal  *journal.Journal
	appender *journal.Appender
	appended int // records
}

func newEnv(t *testing.T) *env {
	t.Helper()
	return newEnvOn(t, testenv.NATS(t))
}

// newEnvOn is newEnv on a broker of the test's own.
func newEnvOn(t *testing.T, nats string) *env {
	t.Helper()
	js, err := jetstream.New(testenv.Connect(t, nats))
	if err != nil {
		t.Fatal(err)
	}
	e := &env{T: t, js: js, url: testenv.Postgres(t)}
	e.conn, err = pgx.Connect(t.Context(), e.url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.conn.Close(context.Background()) })
	e.create()
	return e
}

func (e *env) create() {
	e.Helper()
	var err error
	e.journal, err = journal.Create(e.Context(), e.js, journal.Config{Names: names})
	if err != nil {
		e.Fatal(err)
	}
	e.follow(0)
}

// follow makes the next block follow the one with sequence last.
func (e *env) follow(last uint64) {
	e.Helper()
	a, err := e.journal.Appender(last, func(err error) { e.Logf("append: %v", err) })
	if err != nil {
		e.Fatal(err)
	}
	e.Cleanup(a.Close)
	e.appender = a
}

// lines appends a block as it is given.
func (e *env) lines(lines ...string) {
	e.Helper()
	if _, err := e.appender.Append(e.Context(), []byte(strings.Join(lines, "\n")+"\n"), len(lines), 0); err != nil {
		e.Fatal(err)
	}
	e.appended += len(lines)
}

// blocks appends blocks of records whose ids count from 0.
func (e *env) blocks(n, records int) {
	e.Helper()
	for range n {
		lines := make([]string, records)
		for i := range lines {
			lines[i] = line(fmt.Sprint(e.appended + i))
		}
		e.lines(lines...)
	}
}

func line(id string) string {
	return string(events.AppendRecord(nil, &events.Record{
		Request: events.Request{ID: id, Tenant: "acme", Gateway: "g", User: "u", Method: "GET", Path: "/"},
		Decision: events.Decision{Verdict: events.Allow, Reason: events.ReasonRule, Rule: "r", Key: "u", Limit: 9, WindowMS: 1000,
			Remaining: 1, Cost: 1, DecidedAt: time.Now()},
	}))
}

// running is a writer under way.
type running struct {
	*writer.Writer
	registry *prometheus.Registry
	db       *pg.DB
	stop     func() error // ends it and returns what Run does
}

func (e *env) start(url string, change ...func(*writer.Config)) *running {
	e.Helper()
	config := pg.DefaultConfig()
	config.URL = url
	db, err := pg.Open(e.Context(), config)
	if err != nil {
		e.Fatal(err)
	}
	c := writer.DefaultConfig()
	c.Names, c.BatchRows, c.WatchInterval = names, 200, 50*time.Millisecond
	c.HoldInterval, c.StandBy = 100*time.Millisecond, 300*time.Millisecond
	for _, f := range change {
		f(&c)
	}
	if err := c.Validate(); err != nil {
		e.Fatal(err)
	}
	r := &running{registry: prometheus.NewRegistry(), db: db}
	r.Writer = writer.New(c, writer.Parts{DB: db, JetStream: e.js, Log: zaptest.NewLogger(e), Metrics: r.registry})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	var result error
	stopped := false
	r.stop = func() error {
		if !stopped {
			cancel()
			result, stopped = <-ended, true
			db.Close()
		}
		return result
	}
	e.Cleanup(func() {
		if err := r.stop(); err != nil {
			e.Error(err)
		}
	})
	return r
}

// metric returns a counter or gauge of shard 0.
func (r *running) metric(t *testing.T, name string) float64 {
	t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "weir_writer_"+name {
			return f.GetMetric()[0].GetGauge().GetValue() + f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return -1
}

// eventually waits until a condition holds.
func (e *env) eventually(what string, holds func() bool) {
	e.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			e.Fatalf("not in time: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// number asks Postgres for a number, -1 if it cannot tell.
func (e *env) number(sql string) int {
	n := -1
	if err := e.conn.QueryRow(e.Context(), sql).Scan(&n); err != nil {
		e.Logf("%s: %v", sql, err)
	}
	return n
}

func (e *env) exec(sql string) {
	e.Helper()
	if _, err := e.conn.Exec(e.Context(), sql); err != nil {
		e.Fatal(err)
	}
}

// caughtUp waits until the cursor is at the journal's end.
func (e *env) caughtUp() {
	e.Helper()
	extent, err := e.journal.Extent(e.Context())
	if err != nil {
		e.Fatal(err)
	}
	e.reached(e.journal.Identity(), extent.Last)
}

func (e *env) reached(stream int64, seq uint64) {
	e.Helper()
	e.eventually("the cursor at the journal's end", func() bool {
		return e.number(fmt.Sprintf(`SELECT count(*) FROM writer_cursor WHERE stream = %d AND last_seq = %d`, stream, seq)) == 1
	})
}

// everyRecordOnce checks that each record is exactly one row.
func (e *env) everyRecordOnce() {
	e.Helper()
	rows, ids, total := e.number(`SELECT count(*) FROM requests`), e.number(`SELECT count(DISTINCT request_id) FROM requests`), e.number(`SELECT records FROM writer_cursor`)
	if rows != e.appended || ids != e.appended || total != e.appended {
		e.Errorf("%d records, %d rows, %d request ids, %d by the cursor", e.appended, rows, ids, total)
	}
	if n := e.number(`SELECT count(*) FROM dead_letters`); n != 0 {
		e.Errorf("%d dead letters", n)
	}
}

func TestEveryRecordIsARow(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.blocks(20, 17)
	w := e.start(e.url)
	e.blocks(20, 300)
	e.caughtUp()
	e.everyRecordOnce()
	if got := e.number(`SELECT count(*) FROM requests WHERE id % 1000 >= 300 OR id / 1000 % 10000 NOT BETWEEN 1 AND 40`); got != 0 {
		t.Errorf("%d ids do not tell their place", got)
	}
	e.eventually("the metrics", func() bool {
		return w.metric(t, "rows_total") == float64(e.appended) && w.metric(t, "lag_blocks") == 0
	})
}

func TestAWriterGoesOnFromTheCursor(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	for range 4 {
		w := e.start(e.url)
		e.blocks(30, 20) // some stored, some not when it stops
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}
	}
	e.start(e.url)
	e.caughtUp()
	e.everyRecordOnce()
}

func TestAWriterWaitsForTheJournal(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	if err := e.js.DeleteStream(t.Context(), names.JournalStream(0)); err != nil {
		t.Fatal(err)
	}
	e.start(e.url)
	e.eventually("the schema", func() bool { return e.number(`SELECT count(*) FROM pg_tables WHERE tablename = 'gaps'`) == 1 })
	e.create()
	e.blocks(1, 1)
	e.caughtUp()
	e.everyRecordOnce()
}

// A writer that was told another number of shards than there are ends at once:
// it would leave out some.
func TestAnotherNumberOfShards(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	_, err := e.js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: names.ReportsStream(), Subjects: []string{names.Reports(0), names.Reports(1), "weir.else.0"},
	})
	if err != nil {
		t.Fatal(err)
	}
	config := pg.DefaultConfig()
	config.URL = e.url
	db, err := pg.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	w := writer.New(writer.DefaultConfig(), writer.Parts{DB: db, JetStream: e.js, Log: zaptest.NewLogger(t), Metrics: prometheus.NewRegistry()})
	err = w.Run(t.Context())
	if other, ok := errors.AsType[*shards.OtherError](err); !ok || other.Has != 2 || other.Told != 1 {
		t.Errorf("it ended: %v", err)
	}
}

// Of two writers one stores and the other takes over when it ends.
func TestTwoWritersOnAShard(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	one, two := e.start(e.url), e.start(e.url)
	for range 50 {
		e.blocks(4, 10)
	}
	e.caughtUp()
	for _, w := range []*running{one, two} {
		if err := w.stop(); err != nil {
			t.Fatal(err)
		}
		if w == one {
			e.blocks(10, 10)
			e.caughtUp()
		}
	}
	e.everyRecordOnce()
}

// Connections die at every moment, also during COMMIT.
func TestConnectionsAreKilled(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	w := e.start(e.url)
	e.eventually("the cursor", func() bool { return e.number(`SELECT count(*) FROM pg_tables WHERE tablename = 'writer_cursor'`) == 1 })
	killed := 0
	for range 60 {
		e.blocks(1, 200)
		time.Sleep(rand.N(6 * time.Millisecond)) // anywhere in the transaction
		killed += e.number(`SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
		e.caughtUp()
	}
	e.everyRecordOnce()
	if killed < 20 {
		t.Errorf("only %d connections were killed", killed)
	}
	if err := w.stop(); err != nil {
		t.Error(err)
	}
}

func TestWhatCannotBeARowIsADeadLetter(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(e.url)
	good := line("good")
	refused := string(events.AppendRecord(nil, &events.Record{Refused: &events.Refusal{Subject: "weir.report.0.a.g", Payload: []byte("x"), Error: "no JSON", At: time.Now()}}))
	surrogate := strings.Replace(good, `"cost":1`, `"cost":1e400`, 1)
	undated := strings.Replace(good, `"decided_at"`, `"undated"`, 1)
	e.lines(good, `not JSON`, good, refused, surrogate, undated, `{"request":{},"decision":{}}`, good)
	if _, err := e.appender.Append(t.Context(), []byte(good+"\n"+good+"\n"), 3, 0); err != nil { // says 3
		t.Fatal(err)
	}
	if _, err := e.appender.Append(t.Context(), nil, 1, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := e.js.Publish(t.Context(), names.Journal(0), []byte("foreign")); err != nil {
		t.Fatal(err)
	}
	e.follow(4)
	e.lines(strings.Repeat(good+"\n", 1001) + good)
	e.lines(good)
	e.caughtUp()
	if n := e.number(`SELECT count(*) FROM requests`); n != 4 {
		t.Errorf("%d rows", n)
	}
	rows, err := e.conn.Query(t.Context(), `SELECT format('%s.%s %s %s', seq, record_index, convert_from(record, 'UTF8') = '', error) FROM dead_letters WHERE seq < 5 ORDER BY seq, record_index`)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"1.1 f not a record: want an object",
		"1.3 f refused report: no JSON",
		"1.4 f not a record: ",
		`1.5 f ERROR: null value in column "decided_at"`,
		`1.6 f ERROR: null value in column "decided_at"`,
		"2.0 f the block's header says 3 records, found 2",
		"2.1 f the block's header says 3 records, found 2",
		"3.0 t the block's header says 1 records, found 0",
		"4.0 f message 4: not a block: ",
	}
	if len(got) != len(want) {
		t.Fatalf("%d dead letters, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("dead letter %q, want %q", got[i], want[i])
		}
	}
	if n := e.number(`SELECT records FROM writer_cursor`); n != 8+2+1+1+1002+1 {
		t.Errorf("%d records by the cursor", n)
	}
}

// The broker is away for a while, and then a stop does not wait for it.
func TestBrokerRestarts(t *testing.T) {
	t.Parallel()
	options := embedded.NATSOptions{Dir: t.TempDir(), Addr: "127.0.0.1:0", Log: zap.NewNop()}
	broker, err := embedded.StartNATS(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	options.Addr = strings.TrimPrefix(broker.URL(), "nats://")
	e := newEnvOn(t, broker.URL())
	w := e.start(e.url)
	for range 3 {
		e.blocks(5, 5)
		if err := broker.Close(); err != nil {
			t.Fatal(err)
		}
		if broker, err = embedded.StartNATS(t.Context(), options); err != nil {
			t.Fatal(err)
		}
	}
	e.blocks(5, 5)
	e.caughtUp()
	e.everyRecordOnce()
	if err := broker.Close(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := w.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("the stop took %v", took)
	}
}

// What the configuration is to blame for holds the shard and buries nothing.
func TestWrongConfigurationHolds(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	role := fmt.Sprintf("writer_%d", time.Now().UnixNano())
	e.exec(`CREATE ROLE ` + role + ` LOGIN SUPERUSER PASSWORD 'wrong'`)
	t.Cleanup(func() { _, _ = e.conn.Exec(context.Background(), `DROP ROLE `+role) })
	c := e.conn.Config()
	w := e.start(fmt.Sprintf("postgres://%s:right@%s:%d/%s", role, c.Host, c.Port, c.Database))
	held := func(want float64) {
		t.Helper()
		e.eventually("held", func() bool { return w.metric(t, "held") == want })
	}
	held(1)
	e.exec(`ALTER ROLE ` + role + ` PASSWORD 'right'`)
	e.blocks(5, 5)
	e.caughtUp()
	held(0)
	e.exec(`ALTER TABLE requests RENAME TO hidden`)
	e.blocks(5, 5)
	held(1)
	e.exec(`ALTER TABLE hidden RENAME TO requests`)
	e.caughtUp()
	held(0)
	e.everyRecordOnce()
	if err := w.stop(); err != nil { // before its role goes
		t.Error(err)
	}
}

// gap is what e.gaps reads.
func (e *env) gaps() string {
	e.Helper()
	var text string
	err := e.conn.QueryRow(e.Context(), `SELECT coalesce(string_agg(format('%s %s-%s', reason, first_seq, coalesce(last_seq::text, '?')), ', ' ORDER BY gap), '') FROM gaps`).Scan(&text)
	if err != nil {
		e.Fatal(err)
	}
	return text
}

func (e *env) purge(before uint64) {
	e.Helper()
	stream, err := e.js.Stream(e.Context(), names.JournalStream(0))
	if err == nil {
		err = stream.Purge(e.Context(), jetstream.WithPurgeSequence(before))
	}
	if err != nil {
		e.Fatal(err)
	}
}

func TestTrimmedBlocksAreAGap(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.blocks(10, 2)
	e.purge(6)
	w := e.start(e.url)
	e.caughtUp()
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	e.blocks(4, 2)
	e.purge(13)
	w = e.start(e.url)
	e.caughtUp()
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	e.blocks(1, 2)
	e.purge(16) // nothing is left
	e.start(e.url)
	e.caughtUp()
	if got := e.gaps(); got != "trimmed 1-5, trimmed 11-12, trimmed 15-15" {
		t.Errorf("gaps: %s", got)
	}
	if rows := e.number(`SELECT count(*) FROM requests`); rows != 14 {
		t.Errorf("%d rows", rows)
	}
}

func TestAReplacedJournalIsAGap(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.start(e.url)
	e.blocks(5, 2)
	e.caughtUp()
	if err := e.js.DeleteStream(t.Context(), names.JournalStream(0)); err != nil {
		t.Fatal(err)
	}
	e.create()
	e.blocks(8, 2) // past where the old one ended
	e.caughtUp()
	e.everyRecordOnce()
	if got := e.gaps(); got != "replaced 6-?" {
		t.Errorf("gaps: %s", got)
	}
}

// The broker comes back with an older state than what was stored: first before
// anything is appended to it, then after.
func TestAJournalThatWentBackIsAGap(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	w := e.start(e.url)
	e.blocks(5, 2)
	e.caughtUp()
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	e.exec(`UPDATE writer_cursor SET last_seq = 8, last_stored = last_stored + '2ms'`)
	w = e.start(e.url)
	e.reached(e.journal.Identity(), 5)
	e.blocks(1, 2)
	e.caughtUp()
	if err := w.stop(); err != nil {
		t.Fatal(err)
	}
	e.exec(`UPDATE writer_cursor SET last_seq = 8, last_stored = last_stored + '2ms'`)
	time.Sleep(10 * time.Millisecond) // for the clock to pass what the cursor says
	e.blocks(4, 2)
	e.start(e.url)
	e.caughtUp()
	e.everyRecordOnce()
	if got := e.gaps(); got != "went back 6-8, went back 7-8" {
		t.Errorf("gaps: %s", got)
	}
}

// A day past the retention goes while rows are stored, and nothing is missing.
func TestDaysExpire(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	w := e.start(e.url, func(c *writer.Config) { c.Retention, c.UpkeepInterval = 24*time.Hour, 20*time.Millisecond })
	e.blocks(3, 3)
	e.caughtUp()
	e.exec(`BEGIN;
		CREATE TABLE requests_20260101 (LIKE requests INCLUDING ALL);
		INSERT INTO requests_20260101 (id, ts, decided_at, tenant, cost, count, reason, policy, degraded, late)
			VALUES (2600143200000001000, '2026-01-01 12:00Z', now(), 'acme', 1, 1, 'rule', 0, false, false);
		ALTER TABLE requests ATTACH PARTITION requests_20260101 FOR VALUES FROM ('2026-01-01 00:00Z') TO ('2026-01-02 00:00Z');
		UPDATE writer_cursor SET records = records + 1 WHERE shard = 0;
		COMMIT`)
	e.blocks(3, 3)
	e.eventually("the day is gone", func() bool { return e.number(`SELECT count(*) FROM pg_class WHERE relname = 'requests_20260101'`) == 0 })
	e.eventually("the day is counted", func() bool { return w.metric(t, "days_expired_total") == 1 })
	e.caughtUp()
	rows, expired, records := e.number(`SELECT count(*) FROM requests`), e.number(`SELECT sum(rows) FROM expired_days`), e.number(`SELECT records FROM writer_cursor WHERE shard = 0`)
	if rows != e.appended || expired != 1 || records != rows+expired {
		t.Errorf("%d rows of %d, %d expired, %d records", rows, e.appended, expired, records)
	}
	if n := w.metric(t, "upkeep_failures_total"); n != 0 {
		t.Errorf("%v times it failed", n)
	}
}

// A large backlog, of which every hundredth record cannot be a row: half of them
// the writer sees, the others Postgres refuses.
func TestBacklogWithPoison(t *testing.T) {
	t.Parallel()
	const blocks, records, every = 400, 500, 100
	e := newEnv(t)
	lines := make([]string, records)
	for i := range lines {
		lines[i] = line(fmt.Sprint(i))
		switch i % (2 * every) {
		case 13:
			lines[i] = lines[i][1:]
		case 13 + every:
			lines[i] = strings.Replace(lines[i], `"decided_at"`, `"undated"`, 1)
		}
	}
	for range blocks {
		e.lines(lines...)
	}
	w := e.start(e.url, func(c *writer.Config) { c.BatchRows = writer.DefaultConfig().BatchRows })
	began := time.Now()
	e.caughtUp()
	t.Logf("%d records in %v", e.appended, time.Since(began))
	const dead = blocks * records / every
	rows, letters, total := e.number(`SELECT count(*) FROM requests`), e.number(`SELECT count(*) FROM dead_letters`), e.number(`SELECT records FROM writer_cursor WHERE shard = 0`)
	if rows != e.appended-dead || letters != dead || total != e.appended {
		t.Errorf("of %d records %d are rows and %d dead letters, want %d; %d by the cursor", e.appended, rows, letters, dead, total)
	}
	if n := e.number(`SELECT count(*) FROM dead_letters WHERE record_index % 100 <> 13`); n != 0 {
		t.Errorf("%d dead letters could be rows", n)
	}
	e.eventually("the metrics", func() bool {
		return w.metric(t, "dead_letters_total") == dead && w.metric(t, "rows_total") == float64(e.appended-dead)
	})
}
