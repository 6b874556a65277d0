package limiter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/idgen"
	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/policy"
)

// recoveryMargin is how much further back than the longest window the journal
// is read: blocks are found by the server's clock, records bear the owner's.
const recoveryMargin = 5 * time.Minute

// recovered is where a limiter goes on.
type recovered struct {
	reportsMade time.Time // when the reports stream was
	nextReport  uint64
}

// recover makes the windows and the known ids again from the journal, and
// readies the appender after its last block.
func (o *owner) recover(ctx context.Context) (recovered, error) {
	began := time.Now()
	c := o.config
	j, err := journal.Create(ctx, o.js, journal.Config{Names: c.Names, Shard: c.Shard, MaxAge: c.JournalAge, MaxBytes: c.JournalMax})
	if err != nil {
		return recovered{}, err
	}
	reports, err := o.createReports(ctx)
	if err != nil {
		return recovered{}, err
	}
	extent, err := j.Extent(ctx)
	if err != nil {
		return recovered{}, err
	}
	if err := o.recoverOverrides(ctx, j, extent); err != nil {
		return recovered{}, err
	}
	records, err := o.replayJournal(ctx, j, extent)
	if err != nil {
		return recovered{}, err
	}
	if o.minter, err = idgen.NewMinter(c.Shard, o.last); err != nil {
		return recovered{}, err
	}
	next, err := o.resumeReports(ctx, reports)
	if err != nil {
		return recovered{}, err
	}
	o.appender, err = j.Appender(extent.Last, func(err error) {
		o.metrics.appendFailures.Inc()
		o.log.Warn("block not in the journal yet", zap.Error(err))
	})
	if err != nil {
		return recovered{}, err
	}
	o.noteOverrides(o.last)
	o.log.Info("recovered", zap.Int("records", records), zap.Int("windows", o.windows()),
		zap.Uint64("last_block", extent.Last), zap.Uint64("next_report", next), zap.Duration("took", time.Since(began)))
	return recovered{reports.CachedInfo().Created, next}, nil
}

// windows counts those in memory.
func (o *owner) windows() int {
	if o.memory == nil {
		return 0
	}
	return o.memory.Usage().Keys
}

// replayJournal takes over what the journal holds of the time that still
// matters, and counts the records.
func (o *owner) replayJournal(ctx context.Context, j *journal.Journal, extent journal.Extent) (records int, err error) {
	if extent.Blocks == 0 {
		return 0, nil
	}
	matters := Horizon + recoveryMargin
	if o.memory != nil {
		matters = max(o.config.Policy.LongestWindow(), o.longestOverride(), Horizon) + recoveryMargin
	}
	blocks := 0
	take := func(b journal.Block) error {
		o.reportSeq = b.ReportSeq
		blocks++
		records += b.Count
		if err := b.Records(o.replay); err != nil { // whoever put it there: it must not keep the shard from deciding
			o.metrics.unreplayed.Inc()
			o.log.Error("a block that cannot be read is left out", zap.Error(err))
		}
		return nil
	}
	start := journal.Start{Time: o.config.Clock().Add(-matters)}
	if extent.LastStored.Before(start.Time) {
		start = journal.Start{Seq: extent.Last} // for its report sequence and its time
	}
	err = j.Read(ctx, start, extent.Last, take)
	if err == nil && blocks == 0 { // what is there is no block, and the last one lies before it
		err = j.Read(ctx, journal.Start{Seq: extent.First}, extent.Last, take)
	}
	return records, err
}

// replay takes over one record of the journal.
func (o *owner) replay(_ int, r *events.Record) error {
	if r.Refused != nil {
		o.last = later(o.last, r.Refused.At)
		return nil
	}
	if !sound(r) {
		return errors.New("charges out of bounds")
	}
	if r.Control != nil {
		o.last = later(o.last, r.Control.At)
		o.decider.Replay(r)
		o.remember(*r.Control)
		return nil
	}
	o.last = later(o.last, r.Decision.DecidedAt)
	o.decider.Replay(r)
	o.decision = events.AppendDecision(o.decision[:0], &r.Decision)
	id := o.seen.fingerprint(r.Request.Tenant, r.Request.ID)
	if _, known := o.seen.decision(id); !known {
		o.seen.add(id, r.Decision.DecidedAt, decided{r.Decision.Verdict, o.decision})
	}
	return nil
}

// sound tells whether a record's charges, or its override, are such as a limiter makes.
func sound(r *events.Record) bool {
	fits := func(cost, windowMS int64) bool {
		return cost >= 0 && cost <= events.MaxCost && windowMS > 0 && windowMS <= policy.MaxWindow.Milliseconds()
	}
	if c := r.Control; c != nil {
		return c.Kind != events.ControlOverride || fits(0, c.WindowMS) && c.Limit >= 0 && c.Limit <= policy.MaxLimit
	}
	if len(r.Charges) == 0 {
		return r.Decision.Rule == "" || fits(r.Decision.Cost, r.Decision.WindowMS)
	}
	for i := range r.Charges {
		if !fits(r.Charges[i].Cost, r.Charges[i].WindowMS) {
			return false
		}
	}
	return true
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// resumeReports tells which report comes next. A stream that ends before the
// last report that was applied is not the one that report was in: it was made
// anew, and all of it is new.
func (o *owner) resumeReports(ctx context.Context, reports jetstream.Stream) (uint64, error) {
	info, err := reports.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("reports: %w", err)
	}
	if info.State.LastSeq < o.reportSeq {
		o.log.Warn("the reports stream was made anew", zap.Uint64("last_applied", o.reportSeq), zap.Uint64("last_held", info.State.LastSeq))
		o.reportSeq = 0
	}
	return o.reportSeq + 1, nil
}
