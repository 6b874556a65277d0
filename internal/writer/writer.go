// Package writer copies the journal into Postgres: every record is one row or
// one dead letter, through kills, lost connections and second writers. The
// outcomes of requests go the same way, from a stream that all shards share.
//
// Rows, dead letters, gaps and the cursor's move are one transaction, so a
// batch is in or not. While one batch commits the next one fills: a batch is
// what came in while the last one committed. Where the writer stands is told by
// the cursor alone.
//
// Of several writers on a shard one stores. The others find the cursor moved
// and stand by; one of them goes on when the cursor has not moved for a while.
package writer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/pg"
	"github.com/weirhq/weir/internal/shards"
)

// Config says what a writer does.
type Config struct {
	Names         events.Names  // the subjects' prefix
	Shards        int           // all of them are written, to 100; 0: as many as the limiters have
	BatchRows     int           // rows of a transaction at most, give or take a block
	BatchBytes    int           // bytes of rows of a transaction at most, give or take a block; a shard holds two batches
	CommitTimeout time.Duration // how long one attempt to store a batch may take, also while stopping
	HoldInterval  time.Duration // pause between attempts while the configuration is wrong
	StandBy       time.Duration // how long another writer's cursor must rest before this one goes on
	WatchInterval time.Duration // how often the journal's end is looked at

	// Retention is how long rows are kept, by whole days (UTC), and at least as long
	// as the journal keeps their blocks; 0: for ever.
	Retention      time.Duration
	UpkeepInterval time.Duration // how often partitions are made and dropped
}

// DefaultConfig returns what is right for one shard.
func DefaultConfig() Config {
	return Config{
		Names:         events.Names{Prefix: events.DefaultPrefix},
		Shards:        1,
		BatchRows:     10_000,
		BatchBytes:    16 << 20,
		CommitTimeout: 30 * time.Second,
		HoldInterval:  5 * time.Second,
		StandBy:       10 * time.Second,
		WatchInterval: 2 * time.Second,

		UpkeepInterval: 10 * time.Minute,
	}
}

// Validate names every setting that is out of bounds.
func (c Config) Validate() error {
	var faults []error
	number := func(field string, value, least, most int) {
		if value < least || value > most {
			faults = append(faults, &events.FieldError{Field: field, Value: strconv.Itoa(value), Want: fmt.Sprintf("%d to %d", least, most)})
		}
	}
	span := func(field string, value time.Duration) {
		if value < time.Millisecond || value > time.Hour {
			faults = append(faults, &events.FieldError{Field: field, Value: value.String(), Want: "1ms to 1h"})
		}
	}
	if err := events.CheckToken("prefix", c.Names.Prefix); err != nil {
		faults = append(faults, err)
	}
	number("shards", c.Shards, 0, events.MaxShards)
	number("batch rows", c.BatchRows, 1, 1_000_000)
	number("batch bytes", c.BatchBytes, 1, 1<<30)
	span("commit timeout", c.CommitTimeout)
	span("hold interval", c.HoldInterval)
	span("stand-by", c.StandBy)
	span("watch interval", c.WatchInterval)
	span("upkeep interval", c.UpkeepInterval)
	if least := 24 * time.Hour; c.Retention != 0 && c.Retention < least {
		faults = append(faults, &events.FieldError{Field: "retention", Value: c.Retention.String(), Want: "at least 24h, or 0 to keep everything"})
	}
	return errors.Join(faults...)
}

// Parts are what a writer works with. The caller closes them after Run.
type Parts struct {
	DB        *pg.DB
	JetStream jetstream.JetStream
	Log       *zap.Logger
	Metrics   *prometheus.Registry
}

// Writer writes all shards, and the outcomes of their requests.
type Writer struct {
	config   Config
	db       *pg.DB
	js       jetstream.JetStream
	log      *zap.Logger
	registry *prometheus.Registry
	metrics  *metrics
	held     atomic.Int32  // shards that wait for their configuration to be mended
	schema   chan struct{} // closed once the schema is made
}

// New returns a writer that does nothing before Run. The configuration must be
// valid.
func New(c Config, p Parts) *Writer {
	return &Writer{config: c, db: p.DB, js: p.JetStream, log: p.Log.Named("writer"), registry: p.Metrics, metrics: newMetrics(p.Metrics), schema: make(chan struct{})}
}

// Ready is closed once the schema is made: queries can be answered.
func (w *Writer) Ready() <-chan struct{} { return w.schema }

// Run makes the schema and then writes until ctx ends. It waits out whatever
// passes, however long; the error is one that nothing but a new program mends.
// The batch under way when ctx ends is still committed.
func (w *Writer) Run(ctx context.Context) error {
	if err := w.migrate(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	asked, stop, err := w.takeQueries()
	if err != nil {
		return err
	}
	defer stop()
	close(w.schema)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return w.answerQueries(ctx, asked) })
	g.Go(func() error { return w.write(ctx) })
	return g.Wait()
}

// write writes all shards and the outcomes until ctx ends.
func (w *Writer) write(ctx context.Context) error {
	n, err := w.shards(ctx)
	if err != nil {
		return err
	}
	var g errgroup.Group
	all := []*shard{newOutcomes(w)}
	for number := range n {
		all = append(all, newShard(w, number))
	}
	for _, s := range all {
		g.Go(func() error {
			s.run(ctx)
			return nil
		})
	}
	g.Go(func() error {
		w.upkeep(ctx, n)
		return nil
	})
	return g.Wait()
}

// shards waits until a limiter has said how many shards there are: before that
// there is nothing to write. The error is a *shards.OtherError.
func (w *Writer) shards(ctx context.Context) (int, error) {
	retry := newBackOff()
	for waiting := false; ; waiting = true {
		n, err := shards.Find(ctx, w.js, w.config.Names, w.config.Shards)
		if _, other := errors.AsType[*shards.OtherError](err); other {
			return 0, err
		}
		if n > 0 {
			return n, nil
		}
		if !waiting {
			w.log.Info("waiting to learn the number of shards", zap.Error(err))
		}
		if !sleep(ctx, retry.NextBackOff()) {
			return 0, nil
		}
	}
}

func (w *Writer) migrate(ctx context.Context) error {
	s := newShard(w, 0)
	for {
		attempt, cancel := context.WithTimeout(ctx, w.config.CommitTimeout)
		err := w.db.Migrate(attempt)
		cancel()
		if err == nil {
			s.progress()
			return nil
		}
		if errors.Is(err, pg.ErrSchemaNewer) {
			return err
		}
		if !s.pause(ctx, err) {
			return nil
		}
	}
}

// newBackOff is how transient faults are retried: for ever, at least every few
// seconds, with jitter.
func newBackOff() *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(20*time.Millisecond),
		backoff.WithMaxInterval(3*time.Second),
		backoff.WithMaxElapsedTime(0),
	)
}

// sleep waits, and tells whether ctx goes on.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
