package pg_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/pg"
)

// mustCommit stores outcomes that follow those stored before.
func mustCommit(tb testing.TB, db *pg.DB, list ...events.Outcome) pg.Stored {
	tb.Helper()
	if err := db.StartCursor(tb.Context(), pg.OutcomesShard, stream); err != nil {
		tb.Fatal(err)
	}
	c, _, err := db.Cursor(tb.Context(), pg.OutcomesShard)
	if err != nil {
		tb.Fatal(err)
	}
	var b pg.Batch
	b.Reset(c)
	for i := range list {
		seq := c.LastSeq + uint64(i) + 1
		at := stored.Add(time.Duration(seq) * time.Second)
		b.AddOutcome(pg.Place{Seq: seq, Stored: at, Line: string(events.AppendOutcome(nil, &list[i]))}, &list[i])
		b.Advance(stream, seq, at)
	}
	got, err := db.Commit(tb.Context(), &b)
	if err != nil {
		tb.Fatal(err)
	}
	return got
}

// lines reads rows of one text each.
func lines(tb testing.TB, conn *pgx.Conn, sql string) string {
	tb.Helper()
	rows, err := conn.Query(tb.Context(), sql)
	if err != nil {
		tb.Fatal(err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		tb.Fatal(err)
	}
	return strings.Join(list, "\n")
}

// The first outcome of a request stays, of several in one batch and in two.
func TestOneOutcomeForARequest(t *testing.T) {
	db, conn := mustMigrated(t)
	first := events.Outcome{ID: "a", Tenant: "acme", Gateway: "g", Time: stored, Status: 200, LatencyUS: 1, BytesIn: 2, BytesOut: 3}
	again := first
	again.Status = 500
	other := events.Outcome{ID: "a", Tenant: "globex", Gateway: "g"}
	if got := mustCommit(t, db, first, again, other); got != (pg.Stored{Rows: 2, Present: 1}) {
		t.Errorf("stored %+v", got)
	}
	if got := mustCommit(t, db, again, events.Outcome{ID: "b", Tenant: "acme", Gateway: "g", Status: 404}); got != (pg.Stored{Rows: 1, Present: 1}) {
		t.Errorf("stored %+v", got)
	}
	const want = `(acme,a,g,"2026-11-23 14:32:26.123456+00","2026-11-23 14:32:25.123456+00",200,1,2,3)
(acme,b,g,"2026-11-23 14:32:30.123456+00",,404,,,)
(globex,a,g,"2026-11-23 14:32:28.123456+00",,,,,)`
	if got := lines(t, conn, `SELECT outcomes::text FROM outcomes ORDER BY tenant, request_id`); got != want {
		t.Errorf("rows\n%s\nwant\n%s", got, want)
	}
	if c, _, err := db.Cursor(t.Context(), pg.OutcomesShard); err != nil || c.Records != 3 || c.LastSeq != 5 {
		t.Errorf("cursor %+v, %v", c, err)
	}
}

// One that Postgres refuses is a dead letter, and the rest is stored.
func TestBadOutcomesBecomeDeadLetters(t *testing.T) {
	db, conn := mustMigrated(t)
	var list []events.Outcome
	for i := range 20 {
		list = append(list, events.Outcome{ID: fmt.Sprint(i / 2), Tenant: "acme", Gateway: "g"})
	}
	list[7].ID, list[12].Tenant = "\xff", "a\x00"
	if got := mustCommit(t, db, list...); got != (pg.Stored{Rows: 10, DeadLetters: 2, Present: 8}) {
		t.Errorf("stored %+v", got)
	}
	if got := lines(t, conn, `SELECT format('%s %s', shard, seq) FROM dead_letters ORDER BY seq`); got != "-1 8\n-1 13" {
		t.Errorf("dead letters %s", got)
	}
	if tally, err := db.Tally(t.Context(), 0); err != nil || tally.DeadLetters != 0 {
		t.Errorf("of shard 0: %+v, %v", tally, err)
	}
}

// What an outcome says goes before what was reported with the request. It may
// come first, or for no request; what was done by hand has none.
func TestRequestsWithOutcomes(t *testing.T) {
	db, conn := mustMigrated(t)
	mustCommit(t, db,
		events.Outcome{ID: "a", Tenant: "acme", Gateway: "g", Status: 201, LatencyUS: 7},
		events.Outcome{ID: "none", Tenant: "acme", Gateway: "g", Status: 202},
		events.Outcome{ID: "a", Tenant: "globex", Gateway: "g", Status: 203},
		events.Outcome{ID: "hand", Tenant: "acme", Gateway: "g", Status: 204})
	var b pg.Batch
	b.Reset(mustCursor(t, db))
	a, reported := record("a"), record("r")
	a.Request.Status, a.Request.BytesOut = 100, 9
	reported.Request.Status = 404
	add(t, &b, 1, stored, a, reported, record("plain"),
		events.Record{Control: &events.Control{Kind: events.ControlReset, ID: "hand", Tenant: "acme", Rule: "r", Key: "42", By: "ann", At: stored}})
	if _, err := db.Commit(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	const want = `a 201 7  9 2026-11-23 14:32:26.123456+00
hand     
plain     
r 404    `
	if got := lines(t, conn, `SELECT format('%s %s %s %s %s %s', request_id, status, latency_us, bytes_in, bytes_out, outcome_ts)
		FROM requests_with_outcomes ORDER BY request_id`); got != want {
		t.Errorf("rows\n%s\nwant\n%s", got, want)
	}
	q, err := pg.DecodeQuery(strings.NewReader(`{"group_by":["status"],"select":["count","max(latency_us)"],"where":[{"col":"status","op":">=","value":200}]}`))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := db.Query(t.Context(), q, stored.Add(time.Minute))
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(answer)
	if err != nil || !strings.HasPrefix(string(text), `{"rows":[{"status":201,"count":1,"max(latency_us)":7},{"status":404,"count":1,"max(latency_us)":null}]`) {
		t.Errorf("query: %s, %v", text, err)
	}
}

// Every column says what it holds, and what does not ask for outcomes does not
// pay for them.
func TestViewOfOutcomes(t *testing.T) {
	db, conn := mustMigrated(t)
	var b pg.Batch
	b.Reset(mustCursor(t, db))
	add(t, &b, 1, stored, record("a"))
	if _, err := db.Commit(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	if got := lines(t, conn, `SELECT a.attname::text FROM pg_attribute a WHERE attrelid = 'requests_with_outcomes'::regclass AND coalesce(col_description(attrelid, attnum), '') = ''
		UNION SELECT a.attname FROM pg_attribute a WHERE attrelid = 'outcomes'::regclass AND attnum > 0 AND coalesce(col_description(attrelid, attnum), '') = ''`); got != "" {
		t.Errorf("no comment on %s", got)
	}
	if got := lines(t, conn, `SELECT column_name::text FROM information_schema.columns WHERE table_name = 'requests'
		EXCEPT SELECT column_name FROM information_schema.columns WHERE table_name = 'requests_with_outcomes'`); got != "" {
		t.Errorf("the view lacks %s", got)
	}
	if plan := lines(t, conn, `EXPLAIN SELECT count(*), max(decided_at) FROM requests_with_outcomes WHERE verdict = 'deny'`); strings.Contains(plan, "outcomes") {
		t.Errorf("it looks for outcomes:\n%s", plan)
	}
	if plan := lines(t, conn, `EXPLAIN SELECT max(status) FROM requests_with_outcomes`); !strings.Contains(plan, "outcomes") {
		t.Errorf("it looks for no outcomes:\n%s", plan)
	}
}

// Of two writers that begin at the same cursor one stores.
func TestOutcomesCursorIsComparedAndSet(t *testing.T) {
	db, conn := mustMigrated(t)
	mustCommit(t, db, events.Outcome{ID: "a", Tenant: "acme", Gateway: "g"})
	c, _, err := db.Cursor(t.Context(), pg.OutcomesShard)
	if err != nil {
		t.Fatal(err)
	}
	var b pg.Batch
	b.Reset(c)
	o := events.Outcome{ID: "b", Tenant: "acme", Gateway: "g"}
	b.AddOutcome(pg.Place{Seq: 2, Stored: stored}, &o)
	b.Advance(stream, 2, stored)
	for i, want := range []error{nil, pg.ErrCursorMoved} {
		if _, err := db.Commit(t.Context(), &b); !errors.Is(err, want) {
			t.Errorf("attempt %d: %v, want %v", i, err, want)
		}
	}
	if n := count(t, conn, "outcomes"); n != 2 {
		t.Errorf("%d rows", n)
	}
}

// Outcomes a second of whole commits.
func BenchmarkCommitOutcomes(b *testing.B) {
	db, _ := mustMigrated(b)
	if err := db.StartCursor(b.Context(), pg.OutcomesShard, stream); err != nil {
		b.Fatal(err)
	}
	const rows = 5000
	var batch pg.Batch
	var c pg.Cursor
	ids := make([]string, rows)
	for round := 0; b.Loop(); round++ {
		c, _, _ = db.Cursor(b.Context(), pg.OutcomesShard)
		batch.Reset(c)
		for i := range rows {
			ids[i] = fmt.Sprintf("%x", uint64(round*rows+i)*0x9E3779B97F4A7C15)
			seq := c.LastSeq + uint64(i) + 1
			batch.AddOutcome(pg.Place{Seq: seq, Stored: stored}, &events.Outcome{ID: ids[i], Tenant: "acme", Gateway: "g", Time: stored, Status: 200, LatencyUS: 1234, BytesIn: 10, BytesOut: 20})
			batch.Advance(stream, seq, stored.Add(time.Duration(seq)*time.Microsecond))
		}
		if _, err := db.Commit(b.Context(), &batch); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(rows*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
}
