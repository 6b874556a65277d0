package journal

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/events"
)

// Since returns the sequence of the first block that was decided at most d before
// the last one, as their records say. When they were stored does not tell: the
// clock of an owner may have been ahead of the server's, or stood still for long.
func (j *Journal) Since(ctx context.Context, e Extent, d time.Duration) (uint64, error) {
	var last time.Time
	for seq := e.Last; seq >= e.First && last.IsZero(); seq-- {
		var err error
		if last, err = j.decidedAt(ctx, seq); err != nil {
			return 0, err
		}
	}
	return j.After(ctx, e, last.Add(-d))
}

// After returns the sequence of the first block that was decided at a time or
// later, as Since tells it; the last block's if all were decided before.
func (j *Journal) After(ctx context.Context, e Extent, after time.Time) (uint64, error) {
	low, high := e.First, e.Last // all before low were decided before
	for low < high {
		mid := low + (high-low)/2
		seq, at := mid, time.Time{}
		for ; seq < high && at.IsZero(); seq++ {
			var err error
			if at, err = j.decidedAt(ctx, seq); err != nil {
				return 0, err
			}
		}
		if !at.IsZero() && at.Before(after) {
			low = seq
		} else {
			high = mid
		}
	}
	return low, nil
}

// decidedAt returns when the first record of a block that can be read was decided;
// the zero time if there is none, or no such block any more.
func (j *Journal) decidedAt(ctx context.Context, seq uint64) (time.Time, error) {
	m, err := j.stream.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, fmt.Errorf("block %d of shard %d: %w", seq, j.config.Shard, err)
	}
	var r events.Record
	for line := range strings.Lines(string(m.Data)) {
		if events.DecodeRecord(strings.TrimSuffix(line, "\n"), &r) != nil {
			continue
		}
		at := r.Decision.DecidedAt
		if r.Refused != nil {
			at = r.Refused.At
		}
		if !at.IsZero() {
			return at, nil
		}
	}
	return time.Time{}, nil
}
