package writer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/journal"
)

// upkeep makes partitions ahead, has complete ones analysed and drops what is
// past its retention, until ctx ends. What fails is tried again the next time:
// partitions are made days before they are needed, and the transaction that
// needs one makes it itself when it must.
func (w *Writer) upkeep(ctx context.Context, shards int) {
	for ctx.Err() == nil {
		if err := w.keep(ctx, shards); err != nil && ctx.Err() == nil {
			w.metrics.upkeepFailures.Inc()
			w.log.Warn("tables are not kept up, trying again", zap.Error(err), zap.Duration("next_attempt_in", w.config.UpkeepInterval))
		}
		sleep(ctx, w.config.UpkeepInterval)
	}
}

func (w *Writer) keep(ctx context.Context, shards int) error {
	now := time.Now()
	var expire time.Time
	var journals error
	if w.config.Retention > 0 {
		expire, journals = w.stored(ctx, shards)
		if due := now.Add(-w.config.Retention); due.Before(expire) {
			expire = due
		}
	}
	done, err := w.db.Upkeep(ctx, now, expire)
	w.metrics.daysExpired.Add(float64(len(done.Dropped)))
	if len(done.Dropped)+len(done.Analyzed) > 0 {
		w.log.Info("tables kept up", zap.Times("days_dropped", done.Dropped), zap.Int64("outcomes_dropped", done.Outcomes), zap.Times("days_analysed", done.Analyzed))
	}
	if err == nil {
		err = journals
	}
	return err
}

// stored returns the time before which every block is stored and the journals
// have dropped it: no row of before will be written again, nor held to its record
// by an audit. With an error it is the zero time.
func (w *Writer) stored(ctx context.Context, shards int) (time.Time, error) {
	until := time.Now()
	for number := range shards {
		l, err := journal.OpenLog(ctx, w.js, w.config.Names.JournalStream(number))
		if errors.Is(err, journal.ErrNone) {
			return time.Time{}, nil // a limiter is about to make it
		}
		if err != nil {
			return time.Time{}, fmt.Errorf("nothing expires: %w", err)
		}
		extent, err := l.Extent(ctx)
		if err != nil {
			return time.Time{}, fmt.Errorf("nothing expires: %w", err)
		}
		cursor, _, err := w.db.Cursor(ctx, number)
		switch {
		case err != nil:
			return time.Time{}, fmt.Errorf("nothing expires: %w", err)
		case cursor.Stream != l.Identity() || cursor.LastSeq+1 < extent.First:
			return time.Time{}, nil // the writer may hold blocks that the journal has dropped
		case extent.Blocks > 0 && extent.FirstStored.Before(until):
			until = extent.FirstStored
		}
	}
	return until, nil
}
