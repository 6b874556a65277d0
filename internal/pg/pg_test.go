package pg_test

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/idgen"
	"github.com/weirhq/weir/internal/pg"
	"github.com/weirhq/weir/internal/testenv"
)

// stored is when the tests' blocks were stored, unless they say otherwise.
var stored = time.Date(2026, 11, 23, 14, 32, 25, 123456000, time.UTC)

const stream = 1_700_000_000_000_000_001

func mustOpen(tb testing.TB, url string) *pg.DB {
	tb.Helper()
	config := pg.DefaultConfig()
	config.URL = url
	db, err := pg.Open(tb.Context(), config)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(db.Close)
	return db
}

// mustMigrated returns a database with the schema, and a connection that sees
// it from outside.
func mustMigrated(tb testing.TB) (*pg.DB, *pgx.Conn) {
	tb.Helper()
	url := testenv.Postgres(tb)
	db := mustOpen(tb, url)
	if err := db.Migrate(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	conn, err := pgx.Connect(tb.Context(), url)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close(context.Background()) })
	if err := db.StartCursor(tb.Context(), 0, stream); err != nil {
		tb.Fatal(err)
	}
	return db, conn
}

func mustExec(tb testing.TB, conn *pgx.Conn, sql string, args ...any) {
	tb.Helper()
	if _, err := conn.Exec(tb.Context(), sql, args...); err != nil {
		tb.Fatal(err)
	}
}

func mustCursor(tb testing.TB, db *pg.DB) pg.Cursor {
	tb.Helper()
	c, _, err := db.Cursor(tb.Context(), 0)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// count counts the rows of a table.
func count(tb testing.TB, conn *pgx.Conn, table string) int {
	tb.Helper()
	var n int
	if err := conn.QueryRow(tb.Context(), `SELECT count(*) FROM `+table).Scan(&n); err != nil {
		tb.Fatal(err)
	}
	return n
}

// add adds a block of records stored at a time to the batch.
func add(tb testing.TB, b *pg.Batch, seq uint64, at time.Time, records ...events.Record) {
	tb.Helper()
	for i := range records {
		id, err := idgen.Derive(at, 0, seq, i)
		if err != nil {
			tb.Fatal(err)
		}
		b.Add(id, pg.Place{Seq: seq, Index: i, Stored: at, Line: string(events.AppendRecord(nil, &records[i]))}, &records[i])
	}
	b.Advance(stream, seq, at)
}

func record(id string) events.Record {
	return events.Record{
		Request:  events.Request{ID: id, Tenant: "acme", Gateway: "g"},
		Decision: events.Decision{Verdict: events.Allow, Reason: events.ReasonNoRule, Cost: 1, DecidedAt: stored},
	}
}

func full() events.Record {
	return events.Record{
		Request: events.Request{
			ID: "r-1", Tenant: "acme", Gateway: "g-1", Time: stored.Add(-time.Second), User: "zoë",
			APIKey: "0123456789abcdef", IP: netip.MustParseAddr("192.0.2.7"), Method: "GET", Host: "example.org",
			Path: "/api/order/17/", Route: "/api/order/{id}/", Cost: 3, Attrs: `{"plan": "free", "n": [1, 2.50]}`,
			Status: 429, LatencyUS: 1234, BytesIn: 10, BytesOut: 20, Count: 7,
		},
		Decision: events.Decision{
			Verdict: events.Deny, Reason: events.ReasonRule, Rule: "per-minute", Key: "zoë", Limit: 256, WindowMS: 60_000,
			Remaining: 2, RetryAfterMS: 1500, Cost: 3, Policy: 12, Degraded: true, DecidedAt: stored.Add(-time.Millisecond),
		},
		Charges: []events.Charge{{Rule: "per-minute", Key: "zoë", Limit: 256, WindowMS: 60_000, Cost: 3, Remaining: 2, RetryAfterMS: 1500, Denied: true}},
	}
}

func TestEveryColumnReadsBack(t *testing.T) {
	db, _ := mustMigrated(t)
	only6 := record("")
	only6.Request.IP = netip.MustParseAddr("2001:db8::1")
	late := record("late")
	late.Request.APIKey = "key"
	late.Decision.Reason, late.Decision.Cost = events.ReasonLate, 0
	var b pg.Batch
	b.Reset(mustCursor(t, db))
	override := events.Record{Control: &events.Control{Kind: events.ControlOverride, ID: "c1", Tenant: "acme", Rule: "per-minute", Key: "zoë",
		Limit: 0, WindowMS: 1000, Until: stored.Add(time.Hour), By: "ann", Policy: 12, At: stored}}
	reset := events.Record{Control: &events.Control{Kind: events.ControlReset, ID: "c2", Tenant: "acme", Rule: "per-minute", Key: "zoë", By: "ann", At: stored}}
	add(t, &b, 1, stored, full(), only6, late, override, reset)
	if got, err := db.Commit(t.Context(), &b); err != nil || got.Rows != 5 || got.DeadLetters != 0 {
		t.Fatalf("commit: %+v, %v", got, err)
	}
	rows, err := db.RowsStored(t.Context(), 0, stored.Add(-1000), stored)
	if err != nil || len(rows) != 5 {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	want := []map[string]string{
		{
			"id": "2632752345000001000", "ts": "2026-11-23 14:32:25.123456+00", "decided_at": "2026-11-23 14:32:25.122456+00",
			"occurred_at": "2026-11-23 14:32:24.123456+00", "request_id": "r-1", "tenant": "acme", "gateway": "g-1",
			"identity": "zoë", "user_id": "zoë", "api_key": "0123456789abcdef", "ip": "192.0.2.7/32", "method": "GET",
			"host": "example.org", "path": "/api/order/17/", "route": "/api/order/{id}/", "cost": "3", "count": "7",
			"verdict": "deny", "reason": "rule", "rule": "per-minute", "key": "zoë", "limit_count": "256", "remaining": "2",
			"retry_after_ms": "1500", "policy": "12", "degraded": "true", "late": "false", "status": "429",
			"latency_us": "1234", "bytes_in": "10", "bytes_out": "20",
			"rules": `[{"key": "zoë", "cost": 3, "rule": "per-minute", "limit": 256, "denied": true, "remaining": 2, "window_ms": 60000, "retry_after_ms": 1500}]`,
			"attrs": `{"n": [1, 2.50], "plan": "free"}`,
		},
		{
			"id": "2632752345000001001", "ts": "2026-11-23 14:32:25.123456+00", "decided_at": "2026-11-23 14:32:25.123456+00",
			"tenant": "acme", "gateway": "g", "identity": "2001:db8::1", "ip": "2001:db8::1/128", "cost": "1", "count": "1",
			"verdict": "allow", "reason": "no_rule", "policy": "0", "degraded": "false", "late": "false",
		},
		{
			"id": "2632752345000001002", "ts": "2026-11-23 14:32:25.123456+00", "decided_at": "2026-11-23 14:32:25.123456+00",
			"request_id": "late", "tenant": "acme", "gateway": "g", "identity": "key", "api_key": "key", "cost": "0", "count": "1",
			"verdict": "allow", "reason": "late", "policy": "0", "degraded": "false", "late": "true",
		},
		{
			"id": "2632752345000001003", "ts": "2026-11-23 14:32:25.123456+00", "decided_at": "2026-11-23 14:32:25.123456+00",
			"request_id": "c1", "tenant": "acme", "identity": "ann", "user_id": "ann", "cost": "0", "count": "0",
			"reason": "override", "rule": "per-minute", "key": "zoë", "limit_count": "0", "policy": "12", "degraded": "false", "late": "false",
			"attrs": `{"until": "2026-11-23T15:32:25.123456Z", "window_ms": 1000}`,
		},
		{
			"id": "2632752345000001004", "ts": "2026-11-23 14:32:25.123456+00", "decided_at": "2026-11-23 14:32:25.123456+00",
			"request_id": "c2", "tenant": "acme", "identity": "ann", "user_id": "ann", "cost": "0", "count": "0",
			"reason": "reset", "rule": "per-minute", "key": "zoë", "policy": "0", "degraded": "false", "late": "false",
		},
	}
	for i, row := range rows {
		for j, name := range pg.Columns() {
			wanted, known := want[i][name]
			switch found := row.Fields[j]; {
			case known && found == nil, !known && found != nil, known && *found != wanted:
				t.Errorf("row %d, %s: want %q, found %v", i, name, wanted, text(found))
			}
		}
	}
	if c := mustCursor(t, db); c != (pg.Cursor{Stream: stream, LastSeq: 1, Records: 5, LastStored: stored}) {
		t.Errorf("cursor %+v", c)
	}
}

func text(s *string) string {
	if s == nil {
		return "null"
	}
	return *s
}

// Postgres refuses what these hold; nothing else of their batch may suffer.
func TestBadRowsBecomeDeadLetters(t *testing.T) {
	db, conn := mustMigrated(t)
	var b pg.Batch
	b.Reset(mustCursor(t, db))
	records := make([]events.Record, 300)
	for i := range records {
		records[i] = record(fmt.Sprint(i))
	}
	records[0].Request.Attrs = `{"a":"\u0000"}`
	records[7].Request.User = "\xff"
	records[8].Request.User = "nul\x00"
	records[150].Decision.DecidedAt = time.Time{}
	records[299].Request.Attrs = `{`
	add(t, &b, 1, stored, records...)
	b.Bury(pg.Place{Seq: 1, Index: 300, Stored: stored, Line: "\xff\x00"}, errors.New("no record: \xff\x00"))
	got, err := db.Commit(t.Context(), &b)
	if err != nil || got.Rows != 295 || got.DeadLetters != 6 {
		t.Fatalf("commit: %+v, %v", got, err)
	}
	if n := count(t, conn, "requests"); n != 295 {
		t.Errorf("%d rows", n)
	}
	letters, err := db.DeadLetters(t.Context(), 0, stream, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]pg.DeadLetter{}
	for _, l := range letters {
		found[l.Index] = l
	}
	for index, want := range map[int]string{0: "22P05", 7: "22021", 8: "22021", 150: "23502", 299: "22P02", 300: "no record: \uFFFD\uFFFD"} {
		if !strings.Contains(found[index].Error, want) {
			t.Errorf("dead letter %d: %q, want %s", index, found[index].Error, want)
		}
	}
	if string(found[300].Record) != "\xff\x00" || string(found[7].Record) != string(events.AppendRecord(nil, &records[7])) {
		t.Error("a dead letter's record is not the line")
	}
	if c := mustCursor(t, db); c.Records != 301 {
		t.Errorf("cursor %+v", c)
	}
}

func TestAllRowsBad(t *testing.T) {
	db, _ := mustMigrated(t)
	var b pg.Batch
	b.Reset(mustCursor(t, db))
	records := make([]events.Record, 200)
	for i := range records {
		records[i] = record("\xff")
	}
	add(t, &b, 1, stored, records...)
	if got, err := db.Commit(t.Context(), &b); err != nil || got.Rows != 0 || got.DeadLetters != 200 {
		t.Fatalf("commit: %+v, %v", got, err)
	}
}

func TestCursorIsComparedAndSet(t *testing.T) {
	db, conn := mustMigrated(t)
	start := mustCursor(t, db)
	var one, two pg.Batch
	one.Reset(start)
	add(t, &one, 1, stored, record("a"))
	two.Reset(start)
	add(t, &two, 1, stored, record("a"))
	add(t, &two, 2, stored, record("b"))
	if _, err := db.Commit(t.Context(), &one); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Commit(t.Context(), &two); !errors.Is(err, pg.ErrCursorMoved) {
		t.Fatalf("second writer: %v", err)
	}
	if n := count(t, conn, "requests"); n != 1 {
		t.Errorf("%d rows", n)
	}
}

// A record that is stored stays that one row or dead letter, and counts once,
// when it is stored again.
func TestStoredAgainIsStoredOnce(t *testing.T) {
	db, conn := mustMigrated(t)
	var b pg.Batch
	b.Reset(mustCursor(t, db))
	add(t, &b, 1, stored, record("a"), record("b"))
	b.Bury(pg.Place{Seq: 1, Index: 2, Stored: stored}, errors.New("bad"))
	if _, err := db.Commit(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	mustExec(t, conn, `UPDATE writer_cursor SET last_seq = 0, records = records - 1`)
	mustExec(t, conn, `DELETE FROM requests WHERE request_id = 'b'`)
	if got, err := db.Commit(t.Context(), &b); err != nil || got != (pg.Stored{Rows: 1, Present: 2}) {
		t.Fatalf("commit: %+v, %v", got, err)
	}
	if n := count(t, conn, "requests"); n != 2 {
		t.Errorf("%d rows", n)
	}
	if c := mustCursor(t, db); c.Records != 3 {
		t.Errorf("cursor %+v", c)
	}
}

// Each of many writers that begin at the same cursor stores the block, or
// finds that another did.
func TestOneOfManyWritersStores(t *testing.T) {
	db, conn := mustMigrated(t)
	start := mustCursor(t, db)
	won := make(chan bool, 4)
	var g errgroup.Group
	for range cap(won) {
		g.Go(func() error {
			var b pg.Batch
			b.Reset(start)
			add(t, &b, 1, stored, record("a"))
			_, err := db.Commit(t.Context(), &b)
			won <- err == nil
			if errors.Is(err, pg.ErrCursorMoved) {
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	winners := 0
	for range cap(won) {
		if <-won {
			winners++
		}
	}
	if n := count(t, conn, "requests"); winners != 1 || n != 1 {
		t.Errorf("%d won, %d rows", winners, n)
	}
}

func TestPartitionsAreMadeWhereMissing(t *testing.T) {
	db, conn := mustMigrated(t)
	lastOfYear := time.Date(2027, 12, 31, 23, 59, 59, 999999000, time.UTC)
	var b pg.Batch
	b.Reset(mustCursor(t, db))
	add(t, &b, 1, stored, record("a"))
	add(t, &b, 2, lastOfYear, record("b"))
	add(t, &b, 3, lastOfYear.Add(time.Microsecond), record("c"))
	if _, err := db.Commit(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	if n := count(t, conn, "requests_20271231"); n != 1 {
		t.Errorf("%d rows on the year's last day", n)
	}

	// Somebody drops a partition that this process knows: no dead letter.
	mustExec(t, conn, `DROP TABLE requests_20261123`)
	b.Reset(mustCursor(t, db))
	add(t, &b, 4, stored, record("d"))
	_, err := db.Commit(t.Context(), &b)
	if err == nil || pg.Misconfigured(err) {
		t.Fatalf("without a partition: %v", err)
	}
	if got, err := db.Commit(t.Context(), &b); err != nil || got.Rows != 1 {
		t.Fatalf("second attempt: %+v, %v", got, err)
	}
}

func TestMisconfigured(t *testing.T) {
	db, conn := mustMigrated(t)
	var b pg.Batch
	b.Reset(mustCursor(t, db))
	add(t, &b, 1, stored, record("a"))
	try := func(name string) {
		t.Helper()
		if _, err := db.Commit(t.Context(), &b); !pg.Misconfigured(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	mustExec(t, conn, `ALTER TABLE requests RENAME COLUMN path TO paths`)
	try("no column")
	mustExec(t, conn, `ALTER TABLE requests RENAME COLUMN paths TO path; ALTER TABLE requests RENAME TO elsewhere`)
	try("no table")
	mustExec(t, conn, `ALTER TABLE elsewhere RENAME TO requests`)
	// What somebody has changed may fit no row: none is to blame.
	for name, change := range map[string][2]string{
		"a column that must have a value": {`ADD COLUMN added text NOT NULL`, `DROP COLUMN added`},
		"a check":                         {`ADD CONSTRAINT added CHECK (tenant <> 'acme')`, `DROP CONSTRAINT added`},
		"a reference":                     {`ADD CONSTRAINT added FOREIGN KEY (cost) REFERENCES writer_cursor (shard)`, `DROP CONSTRAINT added`},
		"a wider type":                    {`ALTER COLUMN late TYPE bigint USING 0`, `ALTER COLUMN late TYPE boolean USING false`},
		"a narrower type":                 {`ALTER COLUMN cost TYPE integer`, `ALTER COLUMN cost TYPE bigint`},
	} {
		mustExec(t, conn, `DROP VIEW IF EXISTS requests_with_outcomes; ALTER TABLE requests `+change[0])
		try(name)
		mustExec(t, conn, `ALTER TABLE requests `+change[1])
	}
	mustExec(t, conn, `CREATE UNIQUE INDEX added ON requests (ts, tenant)`)
	two := record("b")
	add(t, &b, 2, stored, two)
	try("a unique index")
	mustExec(t, conn, `DROP INDEX added`)
	if _, err := db.Commit(t.Context(), &b); err != nil {
		t.Errorf("mended: %v", err)
	}
	mustExec(t, conn, `CREATE ROLE nobody LOGIN PASSWORD 'x'`)
	t.Cleanup(func() { mustExecLate(t, conn, `DROP ROLE nobody`) })
	config := conn.Config()
	for name, url := range map[string]string{
		"no such database": fmt.Sprintf("postgres://%s:%s@%s:%d/nonesuch", config.User, config.Password, config.Host, config.Port),
		"wrong password":   fmt.Sprintf("postgres://nobody:wrong@%s:%d/%s", config.Host, config.Port, config.Database),
		"no privilege":     fmt.Sprintf("postgres://nobody:x@%s:%d/%s", config.Host, config.Port, config.Database),
	} {
		if _, _, err := mustOpen(t, url).Cursor(t.Context(), 0); !pg.Misconfigured(err) || strings.Contains(fmt.Sprint(err), "wrong@") {
			t.Errorf("%s: %v", name, err)
		}
	}
	away := mustOpen(t, "postgres://a:b@127.0.0.1:1/c")
	if _, _, err := away.Cursor(t.Context(), 0); err == nil || pg.Misconfigured(err) {
		t.Errorf("Postgres away: %v", err)
	}
}

func mustExecLate(tb testing.TB, conn *pgx.Conn, sql string) {
	tb.Helper()
	if _, err := conn.Exec(context.Background(), sql); err != nil {
		tb.Error(err)
	}
}

func TestMigrate(t *testing.T) {
	url := testenv.Postgres(t)
	var g errgroup.Group
	for range 4 {
		db := mustOpen(t, url)
		g.Go(func() error { return db.Migrate(t.Context()) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	mustExec(t, conn, `UPDATE weir_schema_version SET version = 99`)
	if err := mustOpen(t, url).Migrate(t.Context()); !errors.Is(err, pg.ErrSchemaNewer) {
		t.Errorf("newer schema: %v", err)
	}
}

func TestConfigNamesEveryFault(t *testing.T) {
	err := pg.Config{MaxConns: 1}.Validate()
	for _, want := range []string{"postgres:", "postgres connections:", "query timeout:"} {
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%v does not name %s", err, want)
		}
	}
	if _, err := pg.Open(t.Context(), pg.Config{URL: "postgres://u:secret@h:port/d", MaxConns: 3, QueryTimeout: time.Second}); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("bad URL: %v", err)
	}
}

// Rows a second of whole commits, and of encoding alone.
func BenchmarkCommit(b *testing.B) {
	db, _ := mustMigrated(b)
	r := full()
	r.Charges = nil
	const rows = 5000
	var batch pg.Batch
	seq := uint64(0)
	for b.Loop() {
		batch.Reset(mustCursor(b, db))
		for range 10 {
			seq++
			at := stored.Add(time.Duration(seq) * time.Millisecond)
			for i := range rows / 10 {
				id, _ := idgen.Derive(at, 0, seq, i)
				batch.Add(id, pg.Place{Seq: seq, Index: i, Stored: at}, &r)
			}
			batch.Advance(stream, seq, at)
		}
		if _, err := db.Commit(b.Context(), &batch); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(rows*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}

func BenchmarkEncode(b *testing.B) {
	r := full()
	r.Charges = nil
	var batch pg.Batch
	for i := 0; b.Loop(); i++ {
		if i%1000 == 0 {
			batch.Reset(pg.Cursor{})
		}
		batch.Add(1, pg.Place{Stored: stored}, &r)
	}
	b.ReportAllocs()
}
