package limiter

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/decide"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/journal"
)

// restore takes over what the shard's owner before knew: the windows of its
// snapshot and the journal since, else what the journal holds of the time that
// still matters. It counts the records that were charged again.
func (o *owner) restore(ctx context.Context, extent journal.Extent) (records int, err error) {
	if extent.Blocks == 0 {
		return 0, nil
	}
	o.forgotten = o.config.Clock().Add(-Horizon - recoveryMargin)
	s, err := o.openSnapshot(ctx, extent)
	if s != nil {
		if records, err = o.replayAfter(ctx, s, extent); err == nil {
			o.log.Info("from a snapshot", zap.Time("made", s.header.Made), zap.Uint64("begins", s.header.Begins))
			return records, nil
		}
	}
	if errors.Is(err, errSnapshot) && ctx.Err() == nil {
		o.metrics.ignoredSnapshots.Inc()
		o.log.Warn("the journal is read without it", zap.Error(err))
		overrides := o.decider.Overrides(o.config.Clock())
		o.forget()
		if err := putInForce(ctx, o.decider, overrides); err != nil {
			return 0, err
		}
	} else if err != nil {
		return 0, err
	}
	return o.replayJournal(ctx, extent)
}

// replayAfter loads a snapshot and takes over the blocks after the one that it
// begins with; of those before, and it reads as far back as ids are remembered,
// the decisions. The error is errSnapshot if the snapshot is no good.
func (o *owner) replayAfter(ctx context.Context, s *snapshotReader, extent journal.Extent) (records int, err error) {
	take := func(b journal.Block) error {
		if b.Seq <= s.header.Begins {
			o.replayBlock(&b, o.recall)
			return nil
		}
		records += b.Count
		err := s.load(b.Seq, o.memory.LoadPart)
		if err == nil {
			o.replayBlock(&b, o.replay)
		}
		return err
	}
	start := journal.Start{Seq: max(1, min(s.header.SeenFrom, s.header.Begins+1, extent.Last))}
	if err := o.readJournal(ctx, start, extent, take); err != nil {
		return 0, err
	}
	return records, s.finish(ctx, o.memory.LoadPart)
}

// replayJournal takes over what the journal holds of the time that still
// matters, and counts the records.
func (o *owner) replayJournal(ctx context.Context, extent journal.Extent) (records int, err error) {
	matters := Horizon
	if o.memory != nil {
		matters = max(o.policy.LongestWindow(), o.longestOverride(), Horizon)
	}
	first, err := o.journal.Since(ctx, extent, matters)
	if err != nil {
		return 0, err
	}
	start := journal.Start{Seq: first}
	return records, o.readJournal(ctx, start, extent, func(b journal.Block) error {
		records += b.Count
		o.replayBlock(&b, o.replay)
		return nil
	})
}

// readJournal calls take with the blocks that the journal holds from start on, and with
// one at least if there is any: for its report sequence and its time.
func (o *owner) readJournal(ctx context.Context, start journal.Start, extent journal.Extent, take func(journal.Block) error) error {
	blocks := 0
	counted := func(b journal.Block) error {
		blocks++
		return take(b)
	}
	err := o.journal.Read(ctx, start, extent.Last, counted)
	if err == nil && blocks == 0 { // what is there is no block, and the last one lies before it
		err = o.journal.Read(ctx, journal.Start{Seq: extent.First}, extent.Last, counted)
	}
	return err
}

// putInForce has a decider heed overrides by hand.
func putInForce(ctx context.Context, d *decide.Decider, overrides []events.Control) error {
	for i := range overrides {
		if err := d.Apply(ctx, &overrides[i]); err != nil {
			return err
		}
	}
	return nil
}

// replayBlock takes over a block's records.
func (o *owner) replayBlock(b *journal.Block, each func(block uint64, r *events.Record) error) {
	o.reportSeq, o.reportOf = b.ReportSeq, b.Reports
	o.reread(b, func(_ int, r *events.Record) error { return each(b.Seq, r) })
}

// reread calls each with a block's records. A block that cannot be read, whoever
// put it there, must not keep the shard from deciding.
func (o *owner) reread(b *journal.Block, each func(int, *events.Record) error) {
	if err := b.Records(each); err != nil {
		o.metrics.unreplayed.Inc()
		o.log.Error("a block that cannot be read is left out", zap.Error(err))
	}
}
