package writer

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

// begin returns a batch that follows the cursor and holds no record yet, but
// the gap there is between the cursor and what the journal holds.
func (s *shard) begin(ctx context.Context, j *journal.Journal) (*pg.Batch, error) {
	cursor, found, err := s.db.Cursor(ctx, s.number)
	if err == nil && !found {
		if err = s.db.StartCursor(ctx, s.number, j.Identity()); err == nil {
			cursor, _, err = s.db.Cursor(ctx, s.number)
		}
	}
	if err != nil {
		return nil, err
	}
	extent, err := j.Extent(ctx)
	if err != nil {
		return nil, err
	}
	b := new(pg.Batch)
	b.Reset(cursor)
	if cursor.Stream != j.Identity() {
		b.AddGap(pg.Gap{Stream: cursor.Stream, First: cursor.LastSeq + 1, Reason: pg.GapReplaced, After: cursor.LastStored})
		b.Advance(j.Identity(), 0, time.Time{})
	} else if err := goneBack(ctx, j, extent, b); err != nil {
		return nil, err
	}
	skipTo(b, extent.First)
	return b, nil
}

// skipTo records the blocks before first, which are gone, as a gap.
func skipTo(b *pg.Batch, first uint64) {
	to := b.To()
	if first <= to.LastSeq+1 {
		return
	}
	b.AddGap(pg.Gap{Stream: to.Stream, First: to.LastSeq + 1, Last: first - 1, Reason: pg.GapTrimmed, After: to.LastStored})
	b.Advance(to.Stream, first-1, to.LastStored)
}

// goneBack moves the batch's end back if the journal is an older state of what
// was stored: the block at the cursor is missing or another one. What was
// stored after that state stays; blocks that were appended since are new.
func goneBack(ctx context.Context, j *journal.Journal, extent journal.Extent, b *pg.Batch) error {
	cursor := b.From()
	if cursor.LastSeq == 0 || cursor.LastSeq < extent.First {
		return nil // nothing stored, or the block at the cursor is trimmed
	}
	if cursor.LastSeq <= extent.Last {
		at, err := firstBlock(ctx, j, journal.Start{Seq: cursor.LastSeq})
		if err != nil || at.Stored.Equal(cursor.LastStored) {
			return err
		}
	}
	next := extent.Last + 1
	if extent.LastStored.Truncate(time.Microsecond).After(cursor.LastStored) {
		newer, err := firstBlock(ctx, j, journal.Start{Time: cursor.LastStored.Add(time.Microsecond)})
		if err != nil {
			return err
		}
		next = newer.Seq
	}
	var last time.Time // when the last block that both have was stored
	if extent.Blocks > 0 && next > extent.First {
		block, err := firstBlock(ctx, j, journal.Start{Seq: next - 1})
		if err != nil {
			return err
		}
		last = block.Stored
	}
	b.AddGap(pg.Gap{Stream: cursor.Stream, First: next, Last: max(cursor.LastSeq, next), Reason: pg.GapWentBack, After: last, Until: cursor.LastStored})
	b.Advance(cursor.Stream, next-1, last)
	return nil
}

// firstBlock reads one block.
func firstBlock(ctx context.Context, j *journal.Journal, start journal.Start) (journal.Block, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	blocks, err := j.Blocks(ctx, start)
	if err != nil {
		return journal.Block{}, err
	}
	defer blocks.Stop()
	b, err := blocks.Next(ctx)
	if errors.Is(err, journal.ErrForeign) {
		err = nil
	}
	return b, err
}

// add puts a block's records into the batch: a row each, or a dead letter if
// it cannot be one.
func (s *shard) add(b *pg.Batch, m *message) {
	skipTo(b, m.Seq)
	lines := strings.Count(m.Body, "\n")
	if m.Body != "" && !strings.HasSuffix(m.Body, "\n") {
		lines++
	}
	fault := m.fault
	if fault == nil && lines != m.Count {
		fault = fmt.Errorf("the block's header says %d records, found %d", m.Count, lines)
	}
	place := pg.Place{Seq: m.Seq, Stored: m.Stored}
	if fault != nil && lines == 0 {
		b.Bury(place, fault)
	}
	var r events.Record
	for line := range strings.Lines(m.Body) {
		place.Line = strings.TrimSuffix(line, "\n")
		if err := s.addRecord(b, place, &r, fault); err != nil {
			b.Bury(place, err)
		}
		place.Index++
	}
	b.Advance(b.To().Stream, m.Seq, m.Stored)
}

// addRecord adds one row, or says why it cannot.
func (s *shard) addRecord(b *pg.Batch, p pg.Place, r *events.Record, fault error) error {
	if fault != nil {
		return fault
	}
	if err := events.DecodeRecord(p.Line, r); err != nil {
		return fmt.Errorf("not a record: %w", err)
	}
	if r.Refused != nil {
		return fmt.Errorf("refused report: %s", r.Refused.Error)
	}
	id, err := idgen.Derive(p.Stored, s.number, p.Seq, p.Index)
	if err != nil {
		return fmt.Errorf("no id: %w", err)
	}
	b.Add(id, p, r)
	return nil
}
