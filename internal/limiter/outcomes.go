package limiter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/events"
)

// watchOutcomes is how often it is looked whether the outcomes' stream is there.
const watchOutcomes = 2 * time.Second

// createOutcomes makes the stream that keeps outcomes until they are written, or
// gives it the configuration that it should have.
//
// It keeps them as long as the journals keep the records that they are of, and
// takes half as many bytes: an outcome takes about half of what its request's
// record does. When it is full the oldest go, which have long been written
// unless the writer lags, and it records the gap then.
func (l *Limiter) createOutcomes(ctx context.Context) error {
	names := l.config.Names
	subjects := make([]string, l.config.Shards)
	for shard := range subjects {
		subjects[shard] = names.Outcomes(shard)
	}
	limit := l.config.JournalMax / 2 * int64(l.config.Shards)
	if limit == 0 {
		limit = -1
	}
	_, err := l.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:        names.OutcomesStream(),
		Description: "what became of requests, until it is written",
		Subjects:    subjects,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardOld,
		MaxAge:      l.config.JournalAge,
		MaxBytes:    limit,
		MaxMsgSize:  events.MaxOutcome + headerRoom,
		Storage:     jetstream.FileStorage,
		DenyDelete:  true,
		Duplicates:  Horizon,
	})
	if err != nil {
		return fmt.Errorf("make stream %s: %w", names.OutcomesStream(), err)
	}
	return nil
}

// keepOutcomes makes the outcomes' stream again whenever it is gone, until ctx
// ends. Limiters have no use for it, so no decision waits for it; the
// owner of the first shard sees to it because gateways may need it before there
// is a writer.
func (l *Limiter) keepOutcomes(ctx context.Context, made bool) error {
	tick := time.NewTicker(watchOutcomes)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if made {
			_, err := l.js.Stream(ctx, l.config.Names.OutcomesStream())
			made = !errors.Is(err, jetstream.ErrStreamNotFound)
		}
		if !made {
			made = l.tryOutcomes(ctx)
		}
	}
}

// tryOutcomes tells whether the outcomes' stream is made.
func (l *Limiter) tryOutcomes(ctx context.Context) bool {
	err := l.createOutcomes(ctx)
	if err != nil && ctx.Err() == nil {
		l.log.Warn("outcomes cannot be stored yet", zap.Error(err))
	}
	return err == nil
}
