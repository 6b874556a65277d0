package writer

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/idgen"
	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/pg"
)

// begin returns a batch that follows the cursor and holds no record yet, but
// the gap there is between the cursor and what the stream holds.
func (s *shard) begin(ctx context.Context, l *journal.Log) (*pg.Batch, error) {
	cursor, found, err := s.db.Cursor(ctx, s.number)
	if err == nil && !found {
		if err = s.db.StartCursor(ctx, s.number, l.Identity()); err == nil {
			cursor, _, err = s.db.Cursor(ctx, s.number)
		}
	}
	if err != nil {
		return nil, err
	}
	extent, err := l.Extent(ctx)
	if err != nil {
		return nil, err
	}
	b := new(pg.Batch)
	b.Reset(cursor)
	if cursor.Stream != l.Identity() {
		b.AddGap(pg.Gap{Stream: cursor.Stream, First: cursor.LastSeq + 1, Reason: pg.GapReplaced, After: cursor.LastStored})
		b.Advance(l.Identity(), 0, time.Time{})
	} else if err := goneBack(ctx, l, extent, b); err != nil {
		return nil, err
	}
	skipTo(b, extent.First)
	return b, nil
}

// skipTo records the messages before first, which are gone, as a gap.
func skipTo(b *pg.Batch, first uint64) {
	to := b.To()
	if first <= to.LastSeq+1 {
		return
	}
	b.AddGap(pg.Gap{Stream: to.Stream, First: to.LastSeq + 1, Last: first - 1, Reason: pg.GapTrimmed, After: to.LastStored})
	b.Advance(to.Stream, first-1, to.LastStored)
}

// goneBack moves the batch's end back if the stream is an older state of what
// was stored: the message at the cursor is missing or another one. What was
// stored after that state stays; messages that came since are new.
func goneBack(ctx context.Context, l *journal.Log, extent journal.Extent, b *pg.Batch) error {
	cursor := b.From()
	if cursor.LastSeq == 0 || cursor.LastSeq < extent.First {
		return nil // nothing stored, or the message at the cursor is trimmed
	}
	if cursor.LastSeq <= extent.Last {
		at, err := firstMessage(ctx, l, journal.Start{Seq: cursor.LastSeq})
		if err != nil || at.Stored.Equal(cursor.LastStored) {
			return err
		}
	}
	next := extent.Last + 1
	if extent.LastStored.Truncate(time.Microsecond).After(cursor.LastStored) {
		newer, err := firstMessage(ctx, l, journal.Start{Time: cursor.LastStored.Add(time.Microsecond)})
		if err != nil {
			return err
		}
		next = newer.Seq
	}
	var last time.Time // when the last message that both have was stored
	if extent.Blocks > 0 && next > extent.First {
		before, err := firstMessage(ctx, l, journal.Start{Seq: next - 1})
		if err != nil {
			return err
		}
		last = before.Stored
	}
	b.AddGap(pg.Gap{Stream: cursor.Stream, First: next, Last: max(cursor.LastSeq, next), Reason: pg.GapWentBack, After: last, Until: cursor.LastStored})
	b.Advance(cursor.Stream, next-1, last)
	return nil
}

// firstMessage reads one message.
func firstMessage(ctx context.Context, l *journal.Log, start journal.Start) (journal.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	messages, err := l.Messages(ctx, start)
	if err != nil {
		return journal.Message{}, err
	}
	defer messages.Stop()
	return messages.Next(ctx)
}

// addBlock puts a block's records into the batch: a row each, or a dead letter if
// it cannot be one.
func (s *shard) addBlock(b *pg.Batch, m *journal.Message) {
	block, fault := m.Block()
	lines := strings.Count(block.Body, "\n")
	if block.Body != "" && !strings.HasSuffix(block.Body, "\n") {
		lines++
	}
	if fault == nil && lines != block.Count {
		fault = fmt.Errorf("the block's header says %d records, found %d", block.Count, lines)
	}
	place := pg.Place{Seq: m.Seq, Stored: m.Stored}
	if fault != nil && lines == 0 {
		b.Bury(place, fault)
	}
	var r events.Record
	for line := range strings.Lines(block.Body) {
		place.Line = strings.TrimSuffix(line, "\n")
		if err := s.addRecord(b, place, &r, fault); err != nil {
			b.Bury(place, err)
		}
		place.Index++
	}
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

// addOutcome puts an outcome into the batch: a row, or a dead letter if it cannot
// be one.
func (s *shard) addOutcome(b *pg.Batch, m *journal.Message) {
	place := pg.Place{Seq: m.Seq, Stored: m.Stored, Line: string(m.Data)}
	if o, err := s.readOutcome(m); err != nil {
		b.Bury(place, fmt.Errorf("%s: %w", m.Subject, err))
	} else {
		b.AddOutcome(place, &o)
	}
}

// readOutcome decodes and validates an outcome. Tenant and gateway are its
// subject's.
func (s *shard) readOutcome(m *journal.Message) (events.Outcome, error) {
	origin, err := s.config.Names.ParseOrigin(m.Subject)
	if err != nil {
		return events.Outcome{}, err
	}
	o, err := events.DecodeOutcome(m.Data, false)
	if err != nil {
		return o, fmt.Errorf("not an outcome: %w", err)
	}
	if err := origin.Fill(&o.Tenant, &o.Gateway); err != nil {
		return o, err
	}
	return o, o.Validate()
}
