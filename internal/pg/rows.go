package pg

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/weirhq/weir/internal/idgen"
)

// Row is a row of requests with every column as Postgres writes it as text.
type Row struct {
	ID     idgen.ID
	TS     time.Time
	Fields []*string // in the order of Columns; nil for null
}

// Columns are the columns of requests in the order of Row.Fields.
func Columns() []string { return strings.Fields(strings.ReplaceAll(requestColumns, ",", " ")) }

// ofShard picks the rows of the shard $1: idgen puts it there.
const ofShard = `id / 10000000 % 100 = $1`

// asText selects id, ts and then every column as text.
var asText = `SELECT id, ts, ARRAY[` + strings.Join(Columns(), "::text, ") + `::text] FROM requests WHERE ` + ofShard

// RowsStored returns the rows of a shard stored after one time and not after
// another.
func (db *DB) RowsStored(ctx context.Context, shard int, after, until time.Time) ([]Row, error) {
	return db.rows(ctx, asText+` AND ts > $2 AND ts <= $3`, shard, after, until)
}

// RowsByID returns those of the rows named that were stored from one time to
// another, both included.
func (db *DB) RowsByID(ctx context.Context, shard int, ids []idgen.ID, from, to time.Time) ([]Row, error) {
	numbers := make([]int64, len(ids))
	for i, id := range ids {
		numbers[i] = int64(id)
	}
	return db.rows(ctx, asText+` AND id = ANY ($2) AND ts BETWEEN $3 AND $4`, shard, numbers, from, to)
}

func (db *DB) rows(ctx context.Context, sql string, args ...any) ([]Row, error) {
	rows, err := db.pool.Query(ctx, sql, args...)
	if err != nil {
		return nil, fmt.Errorf("rows: %w", err)
	}
	list, err := pgx.CollectRows(rows, scanRow)
	if err != nil {
		return nil, fmt.Errorf("rows: %w", err)
	}
	return list, nil
}

func scanRow(row pgx.CollectableRow) (Row, error) {
	var r Row
	err := row.Scan(&r.ID, &r.TS, &r.Fields)
	r.TS = r.TS.UTC()
	return r, err
}

// DeadLetter is a record that could not be a row.
type DeadLetter struct {
	Seq    uint64
	Index  int
	Record []byte // the line as it was stored
	Error  string
}

// DeadLetters returns those of a journal's blocks from first to last.
func (db *DB) DeadLetters(ctx context.Context, shard int, stream int64, first, last uint64) ([]DeadLetter, error) {
	rows, err := db.pool.Query(ctx, `SELECT seq, record_index, record, error FROM dead_letters
		WHERE shard = $1 AND stream = $2 AND seq BETWEEN $3 AND $4`, shard, stream, first, last)
	if err != nil {
		return nil, fmt.Errorf("dead letters: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[DeadLetter])
	if err != nil {
		return nil, fmt.Errorf("dead letters: %w", err)
	}
	return list, nil
}

// Tally is what Postgres holds of a shard, all at one moment.
type Tally struct {
	Cursor      Cursor
	Started     bool  // there is a cursor
	Rows        int64 // of requests
	Expired     int64 // rows that were dropped when their retention was over
	DeadLetters int64
	Beyond      int64 // rows stored after the block at the cursor; there should be none
	BeyondRows  []Row // the first of them, at most MaxBeyond
	Gaps        []Gap // in the order they were noticed
}

// MaxBeyond bounds Tally.BeyondRows.
const MaxBeyond = 100

// Tally counts what there is of a shard.
func (db *DB) Tally(ctx context.Context, shard int) (Tally, error) {
	var t Tally
	snapshot := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err := pgx.BeginTxFunc(ctx, db.pool, snapshot, func(tx pgx.Tx) error {
		var err error
		if t.Cursor, t.Started, err = readCursor(ctx, tx, shard); err != nil {
			return err
		}
		// The rows of an expired day are counted as such, whether or not they are gone.
		err = tx.QueryRow(ctx, `WITH expired AS (
				SELECT coalesce(sum(rows) FILTER (WHERE shard = $1), 0)::bigint AS rows,
					coalesce((max(day) + 1)::timestamp AT TIME ZONE 'UTC', '-infinity') AS until FROM expired_days)
			SELECT count(*), count(*) FILTER (WHERE ts > $2), (SELECT rows FROM expired),
				(SELECT count(*) FROM dead_letters WHERE shard = $1)
			FROM requests WHERE `+ofShard+` AND ts >= (SELECT until FROM expired)`,
			shard, t.Cursor.LastStored).Scan(&t.Rows, &t.Beyond, &t.Expired, &t.DeadLetters)
		if err != nil {
			return err
		}
		rows, err := tx.Query(ctx, asText+` AND ts > $2 ORDER BY ts, id LIMIT $3`, shard, t.Cursor.LastStored, MaxBeyond)
		if err != nil {
			return err
		}
		if t.BeyondRows, err = pgx.CollectRows(rows, scanRow); err != nil {
			return err
		}
		rows, err = tx.Query(ctx, `SELECT stream, first_seq, coalesce(last_seq, 0), reason, ts_after, ts_until
			FROM gaps WHERE shard = $1 ORDER BY gap`, shard)
		if err != nil {
			return err
		}
		t.Gaps, err = pgx.CollectRows(rows, scanGap)
		return err
	})
	if err != nil {
		return t, fmt.Errorf("tally of shard %d: %w", shard, err)
	}
	return t, nil
}

func scanGap(row pgx.CollectableRow) (Gap, error) {
	var (
		g            Gap
		after, until *time.Time
	)
	err := row.Scan(&g.Stream, &g.First, &g.Last, &g.Reason, &after, &until)
	if after != nil {
		g.After = after.UTC()
	}
	if until != nil {
		g.Until = until.UTC()
	}
	return g, err
}

// Strays counts the rows whose ids name no shard below shards.
func (db *DB) Strays(ctx context.Context, shards int) (int64, error) {
	var n int64
	err := db.pool.QueryRow(ctx, `SELECT count(*) FROM requests WHERE id / 10000000 % 100 NOT BETWEEN 0 AND $1`, shards-1).Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("rows of no shard: %w", err)
	}
	return n, nil
}
