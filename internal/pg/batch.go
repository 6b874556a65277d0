package pg

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/idgen"
)

// Place is where a record stands in its journal, or an outcome in its stream.
type Place struct {
	Seq    uint64    // the block's, or the outcome's
	Index  int       // in the block
	Stored time.Time // when the journal stored the block, or the stream the outcome
	Line   string    // the record as the journal holds it, or the outcome as it came
}

// Gap is where the journal and the rows cannot agree. The meaning of each
// reason is in the table's comments.
type Gap struct {
	Stream      int64
	First, Last uint64 // sequences; Last 0 when nobody can know
	Reason      string
	After       time.Time // the blocks were stored after this time; zero when not known
	Until       time.Time // and not after this one; zero when not known
}

// The reasons of a gap.
const (
	GapTrimmed  = "trimmed"
	GapReplaced = "replaced"
	GapWentBack = "went back"
)

// Batch is what one transaction stores: the records of a run of blocks, or the
// outcomes of a run of their stream, and the cursor's move past them. Its memory
// is kept from use to use. It is for one goroutine at a time.
type Batch struct {
	from, to Cursor
	rows     []byte // records, as COPY takes them
	outcomes outcomes
	held     int // bytes of the records' lines
	places   []placed
	dead     []deadLetter
	gaps     []Gap
	days     []time.Time // on which the rows' blocks were stored, each a midnight in UTC
}

// placed is a row's place and where the row ends.
type placed struct {
	Place
	end int
}

type deadLetter struct {
	Place
	err string
}

// Reset empties the batch; what is added follows the cursor given.
func (b *Batch) Reset(from Cursor) {
	clear(b.places) // they hold on to the blocks' memory
	clear(b.dead)
	b.outcomes.reset()
	*b = Batch{from: from, to: from, rows: b.rows[:0], outcomes: b.outcomes, places: b.places[:0], dead: b.dead[:0], gaps: b.gaps[:0], days: b.days[:0]}
}

// Add adds a record as a row. The record may be reused afterwards, its memory
// must stay.
func (b *Batch) Add(id idgen.ID, p Place, r *events.Record) {
	b.rows = appendRow(b.rows, id, p.Stored, r)
	b.places = append(b.places, placed{Place: p, end: len(b.rows)})
	if d := p.Stored.Truncate(day); !slices.Contains(b.days, d) {
		b.days = append(b.days, d)
	}
	b.held += len(p.Line)
	b.to.Records++
}

// AddOutcome adds an outcome as a row, to a batch of theirs. Its memory must stay.
func (b *Batch) AddOutcome(p Place, o *events.Outcome) {
	b.outcomes.add(p.Stored, o)
	b.places = append(b.places, placed{Place: p})
	b.held += len(p.Line)
	b.to.Records++
}

// Bury adds a record, or an outcome, as a dead letter.
func (b *Batch) Bury(p Place, why error) {
	b.dead = append(b.dead, deadLetter{p, why.Error()})
	b.held += len(p.Line)
	b.to.Records++
}

// AddGap records a gap.
func (b *Batch) AddGap(g Gap) { b.gaps = append(b.gaps, g) }

// Advance moves the batch's end: to a block, of which all records have been
// added, or to where another journal or an older state of this one goes on.
func (b *Batch) Advance(stream int64, seq uint64, stored time.Time) {
	b.to.Stream, b.to.LastSeq, b.to.LastStored = stream, seq, stored
}

// From returns the cursor the batch follows.
func (b *Batch) From() Cursor { return b.from }

// To returns the cursor as it is when the batch is stored.
func (b *Batch) To() Cursor { return b.to }

// Len returns how many records the batch has.
func (b *Batch) Len() int { return len(b.places) + len(b.dead) }

// Bytes returns about how much memory the batch takes.
func (b *Batch) Bytes() int { return len(b.rows) + b.held + 128*b.Len() }

// Gaps returns how many gaps the batch has.
func (b *Batch) Gaps() int { return len(b.gaps) }

// Stored is what became of a batch.
type Stored struct {
	Rows        int // new ones
	DeadLetters int // new ones
	Present     int // rows and dead letters that were there already: the cursor had been moved back, or a request has an outcome
}

// Commit stores the batch in one transaction, all of it or nothing. Rows that
// Postgres refuses for what they hold become dead letters.
//
// The error is ErrCursorMoved if the cursor is not where the batch begins. After
// any other error it may still have been stored: the cursor tells.
func (db *DB) Commit(ctx context.Context, b *Batch) (Stored, error) {
	if err := db.makePartitions(ctx, b.days); err != nil {
		return Stored{}, err
	}
	stored, err := db.commit(ctx, b, storeAll)
	if faultyData(err) {
		stored, err = db.commit(ctx, b, storeSound(err))
	}
	if lostPartition(err) {
		db.partitions.forget() // somebody dropped it; the next attempt makes it again
	}
	if err != nil {
		return Stored{}, fmt.Errorf("store %d to %d of %s: %w", b.from.LastSeq+1, b.to.LastSeq, logOf(b.from.Shard), err)
	}
	return stored, nil
}

// storing stores the rows of a batch.
type storing func(context.Context, pgx.Tx, *Batch) (unstored, error)

// unstored are the rows of a batch that were not stored.
type unstored struct {
	refused []deadLetter // for what they hold
	present int          // a row of the same place is there already
}

func (db *DB) commit(ctx context.Context, b *Batch, rows storing) (Stored, error) {
	var stored Stored
	err := pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		// First, so that of two writers one waits for the other and stores nothing.
		if err := moveCursor(ctx, tx, b.from, b.to); err != nil {
			return err
		}
		not, err := rows(ctx, tx, b)
		if err != nil {
			return err
		}
		letters := slices.Concat(b.dead, not.refused)
		buried, err := bury(ctx, tx, b.to, letters)
		if err != nil {
			return err
		}
		stored = Stored{
			Rows:        len(b.places) - len(not.refused) - not.present,
			DeadLetters: buried,
			Present:     not.present + len(letters) - buried,
		}
		if err := uncount(ctx, tx, b.from.Shard, stored.Present); err != nil {
			return err
		}
		return recordGaps(ctx, tx, b.from.Shard, b.gaps)
	})
	return stored, err
}

func storeAll(ctx context.Context, tx pgx.Tx, b *Batch) (unstored, error) {
	present, err := b.store(ctx, tx, 0, len(b.places))
	return unstored{present: present}, err
}

// storeSound stores what Postgres takes, once it has refused all of the batch. Of
// the rows that it does not take COPY names the first: those before it are
// stored then, and those after it, of which nothing is known, in two halves.
// So a row is copied twice at most, and where all are bad little is sent for
// nothing. Where no row is named, halving finds it.
func storeSound(refused error) storing {
	return func(ctx context.Context, tx pgx.Tx, b *Batch) (unstored, error) {
		s := sound{b: b, tx: tx}
		err := s.split(ctx, 0, len(b.places), refused)
		return s.not, err
	}
}

type sound struct {
	b   *Batch
	tx  pgx.Tx
	not unstored
}

// try stores the rows from one place up to another but for the bad ones.
func (s *sound) try(ctx context.Context, from, to int) error {
	if from == to {
		return nil
	}
	if _, err := s.tx.Exec(ctx, `SAVEPOINT part`); err != nil {
		return err
	}
	present, bad := s.b.store(ctx, s.tx, from, to)
	if bad == nil {
		s.not.present += present
		_, err := s.tx.Exec(ctx, `RELEASE SAVEPOINT part`)
		return err
	}
	if !faultyData(bad) {
		return bad
	}
	if _, err := s.tx.Exec(ctx, `ROLLBACK TO SAVEPOINT part; RELEASE SAVEPOINT part`); err != nil {
		return err
	}
	return s.split(ctx, from, to, bad)
}

// split stores rows but for the bad ones, of which the error tells that there
// are some.
func (s *sound) split(ctx context.Context, from, to int, bad error) error {
	if to-from == 1 {
		if duplicate(bad) {
			s.not.present++
		} else {
			s.not.refused = append(s.not.refused, deadLetter{s.b.places[from].Place, bad.Error()})
		}
		return nil
	}
	rest := from
	if at, ok := blamed(bad, to-from); ok {
		rest = from + at + 1
		if err := s.try(ctx, from, rest-1); err != nil {
			return err
		}
		if err := s.try(ctx, rest-1, rest); err != nil {
			return err
		}
	}
	half := rest + (to-rest)/2
	if err := s.try(ctx, rest, half); err != nil {
		return err
	}
	return s.try(ctx, half, to)
}

// store stores the rows from one place up to another, and tells how many were
// there already and stay as they are.
func (b *Batch) store(ctx context.Context, tx pgx.Tx, from, to int) (present int, err error) {
	switch {
	case from == to:
		return 0, nil // of none but dead letters
	case b.from.Shard == OutcomesShard:
		return b.outcomes.insert(ctx, tx, from, to)
	}
	return 0, b.copy(ctx, tx, from, to)
}

// copy stores the rows of records from one place up to another.
func (b *Batch) copy(ctx context.Context, tx pgx.Tx, from, to int) error {
	begin := 0
	if from > 0 {
		begin = b.places[from-1].end
	}
	rows := io.MultiReader(strings.NewReader(copyHeader), bytes.NewReader(b.rows[begin:b.places[to-1].end]), strings.NewReader(copyTrailer))
	_, err := tx.Conn().PgConn().CopyFrom(ctx, rows, copyRequests)
	return err
}

// bury stores dead letters and tells how many are new. One that is there stays
// as it is.
func bury(ctx context.Context, tx pgx.Tx, c Cursor, letters []deadLetter) (int, error) {
	if len(letters) == 0 {
		return 0, nil
	}
	var (
		seqs    []int64
		indexes []int
		stored  []time.Time
		records [][]byte
		errs    []string
	)
	for _, l := range letters {
		seqs = append(seqs, int64(l.Seq))
		indexes = append(indexes, l.Index)
		stored = append(stored, l.Stored)
		records = append(records, []byte(l.Line))
		errs = append(errs, storable(l.err))
	}
	tag, err := tx.Exec(ctx, `INSERT INTO dead_letters (shard, stream, seq, record_index, ts, record, error)
		SELECT $1, $2, * FROM unnest($3::bigint[], $4::integer[], $5::timestamptz[], $6::bytea[], $7::text[])
		ON CONFLICT DO NOTHING`, c.Shard, c.Stream, seqs, indexes, stored, records, errs)
	if err != nil {
		return 0, fmt.Errorf("dead letters: %w", err)
	}
	return int(tag.RowsAffected()), nil
}

func recordGaps(ctx context.Context, tx pgx.Tx, shard int, gaps []Gap) error {
	for _, g := range gaps {
		_, err := tx.Exec(ctx, `INSERT INTO gaps (shard, stream, first_seq, last_seq, reason, ts_after, ts_until)
			VALUES ($1, $2, $3, $4, $5, $6, $7)`, shard, g.Stream, int64(g.First), known(int64(g.Last)), g.Reason, moment(g.After), moment(g.Until))
		if err != nil {
			return fmt.Errorf("gap: %w", err)
		}
	}
	return nil
}

// known returns nil for a number whose zero says that it is not known.
func known(n int64) *int64 {
	if n == 0 {
		return nil
	}
	return &n
}

// moment returns nil for the zero time.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
