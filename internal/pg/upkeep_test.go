package pg_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/weirhq/weir/internal/pg"
)

const day = 24 * time.Hour

// tables lists the partitions that there are, attached or not.
func tables(tb testing.TB, conn *pgx.Conn) string {
	tb.Helper()
	rows, err := conn.Query(tb.Context(), `SELECT right(relname, 4) FROM pg_class WHERE relname ~ '^requests_[0-9]+$' AND relkind = 'r' ORDER BY 1`)
	if err != nil {
		tb.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		tb.Fatal(err)
	}
	return strings.Join(names, " ")
}

// mustStore stores one row of a time.
func mustStore(tb testing.TB, db *pg.DB, at time.Time) {
	tb.Helper()
	var b pg.Batch
	c := mustCursor(tb, db)
	b.Reset(c)
	add(tb, &b, c.LastSeq+1, at, record("r"))
	if _, err := db.Commit(tb.Context(), &b); err != nil {
		tb.Fatal(err)
	}
}

// addsUp checks that nothing is missing, at any moment.
func addsUp(tb testing.TB, db *pg.DB, rows int64) {
	tb.Helper()
	tally, err := db.Tally(tb.Context(), 0)
	if err != nil || tally.Rows != rows || tally.Rows+tally.Expired != tally.Cursor.Records {
		tb.Errorf("%d rows, want %d, %d expired ones and %d records, %v", tally.Rows, rows, tally.Expired, tally.Cursor.Records, err)
	}
}

func TestUpkeepMakesPartitionsAhead(t *testing.T) {
	db, conn := mustMigrated(t)
	if _, err := db.Upkeep(t.Context(), stored, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if got := tables(t, conn); got != "1123 1124 1125 1126" {
		t.Errorf("partitions %s", got)
	}
	if _, err := db.Upkeep(t.Context(), stored.Add(day), time.Time{}); err != nil {
		t.Fatal(err)
	}
	if got := tables(t, conn); got != "1123 1124 1125 1126 1127" {
		t.Errorf("partitions a day later %s", got)
	}
}

// A day is dropped although somebody has read it in a transaction that goes on
// and on: it is gone for others, who do not wait, and its table goes later.
func TestUpkeepDropsDays(t *testing.T) {
	db, conn := mustMigrated(t)
	for n := range 3 {
		mustStore(t, db, stored.Add(time.Duration(n)*day))
	}
	mustExec(t, conn, `CREATE TABLE requests_20261101 (LIKE requests)`) // somebody has detached it, to keep it
	reader, err := pgx.ConnectConfig(t.Context(), conn.Config())
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close(context.Background())
	mustExec(t, reader, `BEGIN; SELECT FROM requests`)

	now, expire := stored.Add(2*day), stored.Truncate(day).Add(2*day)
	done, err := db.Upkeep(t.Context(), now, expire)
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != "55P03" || len(done.Dropped) != 0 {
		t.Errorf("with a reader: %+v, %v", done, err)
	}
	if n := count(t, conn, "requests"); n != 2 {
		t.Errorf("%d rows to be read, want 2: a day has expired", n)
	}
	addsUp(t, db, 2)
	mustStore(t, db, now) // waits for nobody
	addsUp(t, db, 3)
	mustExec(t, reader, `SELECT FROM requests WHERE ts < '2026-11-24'; COMMIT`)

	done, err = db.Upkeep(t.Context(), now, expire)
	want := []time.Time{stored.Truncate(day), stored.Truncate(day).Add(day)}
	if err != nil || !slices.Equal(done.Dropped, want) {
		t.Errorf("without the reader: %+v, %v", done, err)
	}
	addsUp(t, db, 2)
	if got := tables(t, conn); got != "1101 1125 1126 1127 1128" {
		t.Errorf("partitions %s", got)
	}
	if n := count(t, conn, "expired_days"); n != 2 {
		t.Errorf("%d expired days", n)
	}
}

// A process may end between counting, detaching and dropping.
func TestUpkeepGoesOnWhereItWasCut(t *testing.T) {
	db, conn := mustMigrated(t)
	for n := range 3 {
		mustStore(t, db, stored.Add(time.Duration(n)*day))
	}
	const counted = `INSERT INTO expired_days (relation, shard, day, rows) SELECT to_regclass('requests_' || $1)::oid, 0, $1::text::date, 1`
	mustExec(t, conn, counted, "20261123")
	mustExec(t, conn, counted, "20261124")
	addsUp(t, db, 1)
	mustExec(t, conn, `ALTER TABLE requests DETACH PARTITION requests_20261124`)
	addsUp(t, db, 1)
	done, err := db.Upkeep(t.Context(), stored.Add(2*day), stored.Truncate(day).Add(2*day))
	if err != nil || len(done.Dropped) != 2 {
		t.Errorf("%+v, %v", done, err)
	}
	addsUp(t, db, 1)
}

func TestUpkeepAnalysesCompleteDaysOnce(t *testing.T) {
	db, conn := mustMigrated(t)
	mustStore(t, db, time.Now().Add(-2*day))
	mustStore(t, db, time.Now())
	for _, want := range []int{1, 0} {
		done, err := db.Upkeep(t.Context(), time.Now(), time.Time{})
		if err != nil || len(done.Analyzed) != want {
			t.Errorf("%+v, want %d analysed, %v", done, want, err)
		}
	}
	var whole, day int
	err := conn.QueryRow(t.Context(), `SELECT count(*) FILTER (WHERE tablename = 'requests'), count(*) FILTER (WHERE tablename <> 'requests')
		FROM pg_stats WHERE schemaname = 'public' AND tablename ~ '^requests' AND attname = 'ts'`).Scan(&whole, &day)
	if err != nil || whole == 0 || day == 0 {
		t.Errorf("statistics of the whole: %d, of a day: %d, %v", whole, day, err)
	}
}

// Outcomes go a day after their requests.
func TestUpkeepDeletesOutcomes(t *testing.T) {
	db, conn := mustMigrated(t)
	mustExec(t, conn, `INSERT INTO outcomes (tenant, request_id, gateway, ts)
		SELECT 'acme', n::text, 'g', timestamptz '2026-11-22 12:00Z' + n * interval '1 day' / 50000 FROM generate_series(1, 150000) n`)
	for n := range 3 {
		mustStore(t, db, stored.Add(time.Duration(n-1)*day))
	}
	done, err := db.Upkeep(t.Context(), stored.Add(2*day), stored.Truncate(day).Add(day))
	if err != nil || done.Outcomes != 24_999 {
		t.Errorf("%+v, %v", done, err)
	}
	var earliest time.Time
	if err := conn.QueryRow(t.Context(), `SELECT min(ts) FROM outcomes`).Scan(&earliest); err != nil || !earliest.Equal(stored.Truncate(day)) {
		t.Errorf("the earliest is of %v, %v", earliest, err)
	}
}

// While one process does the upkeep another does nothing, and does not wait.
func TestUpkeepIsOfOneProcess(t *testing.T) {
	db, conn := mustMigrated(t)
	mustExec(t, conn, `SELECT pg_advisory_lock(5719266042)`)
	if _, err := db.Upkeep(t.Context(), stored, time.Time{}); err != nil {
		t.Fatal(err)
	}
	if got := tables(t, conn); got != "" {
		t.Errorf("partitions %s", got)
	}
}
