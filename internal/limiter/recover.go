package limiter

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/idgen"
	"github.com/weirhq/weir/internal/journal"
)

// recoveryMargin is how much further back than the longest window the journal
// is read: blocks are found by the server's clock, records bear the owner's.
const recoveryMargin = 5 * time.Minute

// recovered is where a limiter goes on.
type recovered struct {
	reports    jetstream.Stream
	nextReport uint64
}

// recover makes the windows and the known ids again from the journal, and
// readies the appender after its last block.
func (l *Limiter) recover(ctx context.Context) (recovered, error) {
	began := time.Now()
	c := l.config
	j, err := journal.Create(ctx, l.js, journal.Config{Names: c.Names, Shard: c.Shard, MaxAge: c.JournalAge, MaxBytes: c.JournalMax})
	if err != nil {
		return recovered{}, err
	}
	reports, err := l.createReports(ctx)
	if err != nil {
		return recovered{}, err
	}
	extent, err := j.Extent(ctx)
	if err != nil {
		return recovered{}, err
	}
	records := 0
	if extent.Blocks > 0 {
		from := c.Clock().Add(-max(c.Policy.LongestWindow(), Horizon) - recoveryMargin)
		start := journal.Start{Time: from}
		if extent.LastStored.Before(from) {
			start = journal.Start{Seq: extent.Last} // for its report sequence and its time
		}
		err := j.Read(ctx, start, extent.Last, func(b journal.Block) error {
			l.reportSeq = b.ReportSeq
			records += b.Count
			return b.Records(l.replay)
		})
		if err != nil {
			return recovered{}, err
		}
	}
	if l.minter, err = idgen.NewMinter(c.Shard, l.last); err != nil {
		return recovered{}, err
	}
	next, err := l.resumeReports(ctx, reports)
	if err != nil {
		return recovered{}, err
	}
	l.appender, err = j.Appender(extent.Last, func(err error) {
		l.metrics.appendFailures.Inc()
		l.log.Warn("block not in the journal yet", zap.Error(err))
	})
	if err != nil {
		return recovered{}, err
	}
	l.log.Info("recovered", zap.Int("records", records), zap.Int("windows", l.decider.Windows()),
		zap.Uint64("last_block", extent.Last), zap.Uint64("next_report", next), zap.Duration("took", time.Since(began)))
	return recovered{reports, next}, nil
}

// replay takes over one record of the journal.
func (l *Limiter) replay(_ int, r *events.Record) error {
	if r.Refused != nil {
		l.last = later(l.last, r.Refused.At)
		return nil
	}
	l.last = later(l.last, r.Decision.DecidedAt)
	l.decider.Replay(r)
	l.block.decision = events.AppendDecision(l.block.decision[:0], &r.Decision)
	id := l.seen.fingerprint(r.Request.Tenant, r.Request.ID)
	l.seen.add(id, r.Decision.DecidedAt, decided{r.Decision.Verdict, l.block.decision})
	return nil
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
func (l *Limiter) resumeReports(ctx context.Context, reports jetstream.Stream) (uint64, error) {
	info, err := reports.Info(ctx)
	if err != nil {
		return 0, fmt.Errorf("reports: %w", err)
	}
	if info.State.LastSeq < l.reportSeq {
		l.log.Warn("the reports stream was made anew", zap.Uint64("last_applied", l.reportSeq), zap.Uint64("last_held", info.State.LastSeq))
		l.reportSeq = 0
	}
	return l.reportSeq + 1, nil
}
