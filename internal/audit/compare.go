package audit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/idgen"
	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/pg"
)

const (
	chunkRecords = 5000 // compared at a time
	maxStrays    = 1000 // rows without a record that are kept to be named
)

// line is one record of the journal, to be found in Postgres.
type line struct {
	seq    uint64
	index  int
	stored time.Time
	text   string
	id     idgen.ID // 0 if it cannot be a row
}

type place struct {
	seq   uint64
	index int
}

// rowKey is a row's primary key; times are microseconds since 1970.
type rowKey struct {
	ts int64
	id idgen.ID
}

func (l *line) key() rowKey { return rowKey{l.stored.UnixMicro(), l.id} }

// comparer compares records with what Postgres holds, chunk by chunk.
type comparer struct {
	db     *pg.DB
	shard  *shardAudit
	stream int64

	lines  []line
	until  time.Time         // rows stored up to then have been looked at
	strays map[rowKey]pg.Row // rows for which no record has come yet
	more   int64             // strays beyond maxStrays
}

// add adds a block to the chunk.
func (c *comparer) add(ctx context.Context, b *journal.Block, foreign bool) error {
	first := len(c.lines)
	for text := range strings.Lines(b.Body) {
		l := line{seq: b.Seq, index: len(c.lines) - first, stored: b.Stored, text: strings.TrimSuffix(text, "\n")}
		l.id, _ = idgen.Derive(b.Stored, c.shard.number, b.Seq, l.index) // 0 where there is none
		c.lines = append(c.lines, l)
	}
	lines := len(c.lines) - first
	if foreign || lines != b.Count {
		for i := range c.lines[first:] {
			c.lines[first+i].id = 0 // of a broken block nothing is a row
		}
		if lines == 0 {
			c.lines = append(c.lines, line{seq: b.Seq, stored: b.Stored})
		}
	}
	if len(c.lines) < chunkRecords {
		return nil
	}
	return c.compare(ctx)
}

// compare compares the chunk and empties it.
func (c *comparer) compare(ctx context.Context) error {
	if len(c.lines) == 0 {
		return nil
	}
	rows, err := c.rows(ctx)
	if err != nil {
		return err
	}
	letters := map[place]pg.DeadLetter{}
	list, err := c.db.DeadLetters(ctx, c.shard.number, c.stream, c.lines[0].seq, c.lines[len(c.lines)-1].seq)
	if err != nil {
		return err
	}
	for _, l := range list {
		letters[place{l.Seq, l.Index}] = l
	}
	for i := range c.lines {
		l := &c.lines[i]
		letter, buried := letters[place{l.seq, l.index}]
		delete(letters, place{l.seq, l.index})
		row, stored := rows[l.key()]
		if !stored {
			row, stored = c.strays[l.key()]
			delete(c.strays, l.key())
		}
		delete(rows, l.key())
		c.judge(l, &row, stored, &letter, buried)
	}
	for at, l := range letters {
		c.shard.fault(6, at, fmt.Sprintf("a dead letter without a record: %s", l.Error))
	}
	for key, row := range rows {
		if len(c.strays) < maxStrays {
			c.strays[key] = row
		} else {
			c.more++
		}
	}
	c.until = c.lines[len(c.lines)-1].stored
	clear(c.lines)
	c.lines = c.lines[:0]
	return nil
}

// rows fetches the chunk's rows, and with them those that were stored in its
// time and belong to no record of it. Where the broker's clock has stepped
// back, times tell nothing and only the chunk's own rows are fetched.
func (c *comparer) rows(ctx context.Context) (map[rowKey]pg.Row, error) {
	from, to := c.lines[0].stored, c.lines[0].stored
	for i := range c.lines {
		from, to = earlier(from, c.lines[i].stored), later(to, c.lines[i].stored)
	}
	var list []pg.Row
	var err error
	if from.After(c.until) {
		list, err = c.db.RowsStored(ctx, c.shard.number, c.until, to)
	} else {
		ids := make([]idgen.ID, len(c.lines))
		for i := range c.lines {
			ids[i] = c.lines[i].id
		}
		list, err = c.db.RowsByID(ctx, c.shard.number, ids, from, to)
	}
	rows := make(map[rowKey]pg.Row, len(list))
	for _, row := range list {
		rows[rowKey{row.TS.UnixMicro(), row.ID}] = row
	}
	return rows, err
}

// judge holds one record to what was found of it.
func (c *comparer) judge(l *line, row *pg.Row, stored bool, letter *pg.DeadLetter, buried bool) {
	at := place{l.seq, l.index}
	var r events.Record
	isRow := l.id != 0 && events.DecodeRecord(l.text, &r) == nil && r.Refused == nil
	switch {
	case stored && buried:
		c.shard.fault(6, at, fmt.Sprintf("both a row, %s, and a dead letter", l.id))
	case stored && !isRow:
		c.shard.fault(6, at, fmt.Sprintf("row %s for what is no record of a request", l.id))
	case stored:
		c.shard.report.Rows++
		if d := differences(wanted(l.id, l.stored, &r), row); len(d) > 0 {
			c.shard.fault(6, at, fmt.Sprintf("row %s is changed: %s", l.id, strings.Join(d, "; ")))
		}
	case buried:
		c.shard.report.DeadLetters++
		if string(letter.Record) != l.text {
			c.shard.fault(6, at, "its dead letter holds another text")
		}
	case !isRow:
		c.shard.fault(6, at, "not a dead letter, although it cannot be a row")
	default:
		c.shard.fault(6, at, fmt.Sprintf("no row %s", l.id))
	}
}

// finish names the rows that no record came for. Those whose blocks a gap says
// are gone need none.
func (c *comparer) finish(gaps []pg.Gap) {
	for _, row := range c.strays {
		if !explained(row.TS, gaps) {
			c.shard.fault(6, place{}, fmt.Sprintf("row %s, stored %s, has no record in the journal", row.ID, row.TS.Format(time.RFC3339Nano)))
		}
	}
	if c.more > 0 {
		c.shard.fault(6, place{}, fmt.Sprintf("%d more rows have no record in the journal", c.more))
	}
}

func explained(ts time.Time, gaps []pg.Gap) bool {
	for _, g := range gaps {
		if g.Reason == pg.GapWentBack && ts.After(g.After) && !ts.After(g.Until) {
			return true
		}
	}
	return false
}

// nextWithin bounds the wait for a block that the journal holds.
const nextWithin = 30 * time.Second

// nextBlock reads on; foreign says that the message is no block.
func nextBlock(ctx context.Context, blocks *journal.Blocks) (b journal.Block, foreign bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, nextWithin)
	defer cancel()
	b, err = blocks.Next(ctx)
	if errors.Is(err, journal.ErrForeign) {
		return b, true, nil
	}
	return b, false, err
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
