package pg

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Cursor tells how far a shard's journal has been stored, or the stream of
// outcomes.
type Cursor struct {
	Shard      int       // or OutcomesShard, and then all of it is about outcomes
	Stream     int64     // the journal's identity
	LastSeq    uint64    // last block stored
	Records    int64     // that became rows or dead letters, ever, each once
	LastStored time.Time // when the journal stored that block; zero before the first
}

// Cursor returns a shard's cursor, or false if there is none yet.
func (db *DB) Cursor(ctx context.Context, shard int) (Cursor, bool, error) {
	return readCursor(ctx, db.pool, shard)
}

// querier is a pool or a transaction.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func readCursor(ctx context.Context, q querier, shard int) (Cursor, bool, error) {
	c := Cursor{Shard: shard}
	var stored *time.Time
	err := q.QueryRow(ctx, `SELECT stream, last_seq, records, last_stored FROM writer_cursor WHERE shard = $1`, shard).
		Scan(&c.Stream, &c.LastSeq, &c.Records, &stored)
	if errors.Is(err, pgx.ErrNoRows) {
		return c, false, nil
	}
	if err != nil {
		return c, false, fmt.Errorf("read cursor of %s: %w", logOf(shard), err)
	}
	if stored != nil {
		c.LastStored = stored.UTC()
	}
	return c, true, nil
}

// At tells whether c is where other is, however many records they count.
func (c Cursor) At(other Cursor) bool {
	return c.Shard == other.Shard && c.Stream == other.Stream && c.LastSeq == other.LastSeq && c.LastStored.Equal(other.LastStored)
}

// StartCursor makes the cursor of a shard of which nothing has been stored. If
// there is one meanwhile, it stays.
func (db *DB) StartCursor(ctx context.Context, shard int, stream int64) error {
	_, err := db.pool.Exec(ctx, `INSERT INTO writer_cursor (shard, stream, last_seq, records)
		VALUES ($1, $2, 0, 0) ON CONFLICT DO NOTHING`, shard, stream)
	if err != nil {
		return fmt.Errorf("start cursor of %s: %w", logOf(shard), err)
	}
	return nil
}

// moveCursor is a compare-and-set, and counts the records in between: the error
// is ErrCursorMoved if the cursor is not at from.
func moveCursor(ctx context.Context, tx pgx.Tx, from, to Cursor) error {
	tag, err := tx.Exec(ctx, `UPDATE writer_cursor
		SET stream = $4, last_seq = $5, records = records + $6, last_stored = $7, updated_at = now()
		WHERE shard = $1 AND stream = $2 AND last_seq = $3`,
		from.Shard, from.Stream, from.LastSeq, to.Stream, to.LastSeq, to.Records-from.Records, moment(to.LastStored))
	if err != nil {
		return fmt.Errorf("move cursor: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return ErrCursorMoved
	}
	return nil
}

// uncount takes back records that were counted before.
func uncount(ctx context.Context, tx pgx.Tx, shard, records int) error {
	if records == 0 {
		return nil
	}
	if _, err := tx.Exec(ctx, `UPDATE writer_cursor SET records = records - $2 WHERE shard = $1`, shard, records); err != nil {
		return fmt.Errorf("count records: %w", err)
	}
	return nil
}
