package limiter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/decide"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/idgen"
	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/policy"
)

// recoveryMargin is how much longer than the longest window blocks are kept at
// least: the server drops them by its clock, records bear the owner's.
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
	var err error
	o.journal, err = journal.Create(ctx, o.js, journal.Config{Names: c.Names, Shard: c.Shard, MaxAge: c.JournalAge, MaxBytes: c.JournalMax})
	if err != nil {
		return recovered{}, err
	}
	reports, err := o.createReports(ctx)
	if err != nil {
		return recovered{}, err
	}
	extent, err := o.journal.Extent(ctx)
	if err != nil {
		return recovered{}, err
	}
	if err := o.recoverOverrides(ctx, o.journal, extent); err != nil {
		return recovered{}, err
	}
	records, err := o.restore(ctx, extent)
	if err != nil {
		return recovered{}, err
	}
	o.unsaved = records
	if o.minter, err = idgen.NewMinter(c.Shard, o.last); err != nil {
		return recovered{}, err
	}
	next, err := o.resumeReports(ctx, reports)
	if err != nil {
		return recovered{}, err
	}
	o.appender, err = o.journal.Appender(extent.Last, func(err error) {
		o.metrics.appendFailures.Inc()
		o.log.Warn("block not in the journal yet", zap.Error(err))
	})
	if err != nil {
		return recovered{}, err
	}
	o.appender.ReportStream(reports.CachedInfo().Created.UnixNano())
	o.noteOverrides(o.last)
	took := time.Since(began)
	o.metrics.recovery.Set(took.Seconds())
	o.metrics.recovered.Set(float64(records))
	o.log.Info("recovered", zap.Int("records", records), zap.Int("windows", o.windows()),
		zap.Uint64("last_block", extent.Last), zap.Uint64("next_report", next), zap.Duration("took", took))
	return recovered{reports.CachedInfo().Created, next}, nil
}

// windows counts those in memory.
func (o *owner) windows() int {
	if o.memory == nil {
		return 0
	}
	return o.memory.Usage().Keys
}

// replay takes over one record of a block of the journal.
func (o *owner) replay(block uint64, r *events.Record) error {
	if err := fold(o.decider, r); err != nil {
		return err
	}
	return o.recall(block, r)
}

// fold makes a record's charges.
func fold(d *decide.Decider, r *events.Record) error {
	if r.Refused == nil && !sound(r) {
		return errors.New("charges out of bounds")
	}
	d.Replay(r)
	return nil
}

// recall takes over the time and the decision of one record of a block of the
// journal.
func (o *owner) recall(block uint64, r *events.Record) error {
	if r.Refused != nil {
		o.last = later(o.last, r.Refused.At)
		return nil
	}
	if r.Control != nil {
		o.last = later(o.last, r.Control.At)
		o.remember(*r.Control)
		return nil
	}
	o.last = later(o.last, r.Decision.DecidedAt)
	if r.Decision.DecidedAt.Before(o.forgotten) {
		return nil
	}
	o.decision = events.AppendDecision(o.decision[:0], &r.Decision)
	id := o.seen.fingerprint(r.Request.Tenant, r.Request.ID)
	if _, known := o.seen.decision(id); !known {
		o.seen.add(id, block, r.Decision.DecidedAt, decided{r.Decision.Verdict, o.decision})
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

// resumeReports tells which report comes next. If the stream is not the one that
// the last report that was applied was in, all of it is new.
func (o *owner) resumeReports(ctx context.Context, reports jetstream.Stream) (uint64, error) {
	info, err := reports.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("reports: %w", err)
	}
	another := o.reportOf != 0 && o.reportOf != info.Created.UnixNano()
	if another || info.State.LastSeq < o.reportSeq {
		o.log.Warn("the reports stream was made anew", zap.Uint64("last_applied", o.reportSeq), zap.Uint64("last_held", info.State.LastSeq))
		o.reportSeq = 0
	}
	return o.reportSeq + 1, nil
}
