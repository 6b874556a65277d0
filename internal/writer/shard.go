package writer

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/pg"
)

var (
	// errMoved says that another writer stores the shard.
	errMoved = errors.New("another writer has moved the cursor")
	// errChanged says that the stream is not the one that reading began with.
	errChanged = errors.New("the stream was replaced or went back")
	// errRestored says that Postgres has lost what it had stored.
	errRestored = errors.New("the database is an older state of what was stored")
)

// shard writes one shard's journal, or the outcomes of all.
type shard struct {
	*Writer
	number   int                               // or pg.OutcomesShard
	stream   string                            // that holds the journal, or outcomes
	add      func(*pg.Batch, *journal.Message) // puts what a message holds into a batch
	log      *zap.Logger
	metrics  shardMetrics
	retry    *backoff.ExponentialBackOff
	isHeld   bool
	position atomic.Pointer[pg.Cursor] // where the session began, then how far it has stored
	known    atomic.Pointer[pg.Cursor] // the cursor as the database is known to have it
}

func newShard(w *Writer, number int) *shard {
	s := &shard{Writer: w, number: number, stream: w.config.Names.JournalStream(number), log: w.log.With(zap.Int("shard", number)), metrics: w.metrics.shard(number), retry: newBackOff()}
	s.add = s.addBlock
	return s
}

func newOutcomes(w *Writer) *shard {
	s := &shard{Writer: w, number: pg.OutcomesShard, stream: w.config.Names.OutcomesStream(), log: w.log.Named("outcomes"), metrics: w.metrics.ofOutcomes(), retry: newBackOff()}
	s.add = s.addOutcome
	return s
}

// run writes until ctx ends.
func (s *shard) run(ctx context.Context) {
	defer s.hold(false)
	for waiting := false; ctx.Err() == nil; {
		err := s.session(ctx)
		if ctx.Err() != nil {
			return
		}
		switch {
		case errors.Is(err, errMoved):
			s.standBy(ctx)
		case errors.Is(err, errChanged):
			s.log.Warn("stream changed, reading it anew", zap.String("stream", s.stream))
		case errors.Is(err, errRestored):
			s.log.Error("the database went back, storing again what it lost", zap.Error(err))
		case errors.Is(err, journal.ErrNone):
			if !waiting {
				s.log.Info("waiting for a limiter to make the stream", zap.String("stream", s.stream))
			}
			waiting = true
			sleep(ctx, s.retry.NextBackOff())
			continue
		default:
			s.pause(ctx, err)
		}
		waiting = false
	}
}

// pause waits after a failed attempt: a growing while, or the hold interval if
// the configuration is wrong. It tells whether ctx goes on.
func (s *shard) pause(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	wait := s.retry.NextBackOff()
	if pg.Misconfigured(err) {
		wait = s.config.HoldInterval
		s.metrics.configuration.Inc()
		s.log.Error("held: nothing is stored until the configuration is mended", zap.Error(err), zap.Duration("next_attempt_in", wait))
		s.hold(true)
	} else {
		s.metrics.transient.Inc()
		s.log.Warn("trying again", zap.Error(err), zap.Duration("next_attempt_in", wait))
		s.hold(false)
	}
	return sleep(ctx, wait)
}

// progress forgets the faults there were.
func (s *shard) progress() {
	s.retry.Reset()
	s.hold(false)
}

func (s *shard) hold(held bool) {
	if held == s.isHeld {
		return
	}
	s.isHeld = held
	if held {
		s.metrics.held.Set(1)
		s.Writer.held.Add(1)
	} else {
		s.metrics.held.Set(0)
		s.Writer.held.Add(-1)
	}
}

// standBy waits until the other writer has not moved the cursor for a while.
func (s *shard) standBy(ctx context.Context) {
	s.log.Warn("another writer stores this shard, standing by")
	s.metrics.standingBy.Set(1)
	defer s.metrics.standingBy.Set(0)
	var last pg.Cursor
	since := time.Now()
	for sleep(ctx, s.config.StandBy/10) {
		c, _, err := s.db.Cursor(ctx, s.number)
		switch {
		case err != nil:
			s.pause(ctx, err)
			since = time.Now()
		case c != last:
			last, since = c, time.Now()
		case time.Since(since) >= s.config.StandBy:
			s.log.Info("the other writer's cursor rests, going on")
			return
		}
	}
}

// session reads the stream from the cursor and stores it until ctx ends or
// something is not as it was.
func (s *shard) session(ctx context.Context) error {
	l, err := journal.OpenLog(ctx, s.js, s.stream)
	if err != nil {
		return err
	}
	first, err := s.begin(ctx, l)
	if err != nil {
		return err
	}
	start, cursor := first.To(), first.From()
	s.position.Store(&start)
	s.known.Store(&cursor)
	messages, err := l.Messages(ctx, journal.Start{Seq: start.LastSeq + 1})
	if err != nil {
		return err
	}
	defer messages.Stop()
	s.log.Info("writing", zap.String("stream", s.stream), zap.Uint64("from", start.LastSeq+1))

	read := make(chan journal.Message)
	full := make(chan *pg.Batch)
	free := make(chan *pg.Batch, 1) // the batch that is not filling, once it is stored
	free <- new(pg.Batch)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return readMessages(ctx, messages, read) })
	g.Go(func() error { return s.fill(ctx, first, read, full, free) })
	g.Go(func() error { return s.store(ctx, full, free) })
	g.Go(func() error { return s.watch(ctx, l.Identity()) })
	return g.Wait()
}

func readMessages(ctx context.Context, messages *journal.Messages, read chan<- journal.Message) error {
	for {
		m, err := messages.Next(ctx)
		if err != nil {
			return err
		}
		select {
		case read <- m:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// fill puts messages into batches. A batch is handed over when the last one is
// stored; until then it grows, up to its bounds.
func (s *shard) fill(ctx context.Context, b *pg.Batch, read <-chan journal.Message, full chan<- *pg.Batch, free <-chan *pg.Batch) error {
	for {
		out, in := full, read
		if b.To() == b.From() {
			out = nil
		}
		if b.Len() >= s.config.BatchRows || b.Bytes() >= s.config.BatchBytes {
			in = nil
		}
		select {
		case out <- b:
			after := b.To()
			select {
			case b = <-free:
			case <-ctx.Done():
				return ctx.Err()
			}
			b.Reset(after)
		case m := <-in:
			if m.Seq <= b.To().LastSeq {
				return errChanged
			}
			skipTo(b, m.Seq)
			s.add(b, &m)
			b.Advance(b.To().Stream, m.Seq, m.Stored)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *shard) store(ctx context.Context, full <-chan *pg.Batch, free chan<- *pg.Batch) error {
	for {
		select {
		case b := <-full:
			if err := s.commit(ctx, b); err != nil {
				return err
			}
			free <- b // has room: there are two batches, and the other one is filling
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// commit stores a batch, however long it takes. The error is errMoved if
// another writer did, errRestored, or that of ctx.
func (s *shard) commit(ctx context.Context, b *pg.Batch) error {
	for {
		began := time.Now()
		attempt, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.config.CommitTimeout)
		stored, err := s.db.Commit(attempt, b)
		if errors.Is(err, pg.ErrCursorMoved) {
			stored, err = s.settle(attempt, b)
		}
		cancel()
		if err == nil {
			s.Writer.metrics.commitSeconds.Observe(time.Since(began).Seconds())
			s.stored(b, stored)
			return nil
		}
		if errors.Is(err, errMoved) || errors.Is(err, errRestored) {
			return err
		}
		if !s.pause(ctx, err) {
			return ctx.Err()
		}
	}
}

// settle finds out who moved the cursor: an earlier attempt at this batch
// whose outcome was unknown, another writer, or somebody who restored the
// database.
func (s *shard) settle(ctx context.Context, b *pg.Batch) (pg.Stored, error) {
	c, _, err := s.db.Cursor(ctx, s.number)
	switch {
	case err != nil:
		return pg.Stored{}, err
	case c.At(b.To()):
		return pg.Stored{Rows: b.Len()}, nil
	}
	from := b.From()
	if err := restored(&c, &from); err != nil {
		return pg.Stored{}, err
	}
	return pg.Stored{}, fmt.Errorf("%w to block %d of stream %d", errMoved, c.LastSeq, c.Stream)
}

// restored tells whether a cursor is behind where it was known to be. A server
// that was killed may lose its last transactions (synchronous_commit), and so
// may one that took over from it.
func restored(cursor, known *pg.Cursor) error {
	if cursor.Stream > known.Stream || cursor.Stream == known.Stream && cursor.LastSeq >= known.LastSeq {
		return nil
	}
	return fmt.Errorf("%w: to block %d of stream %d, where it had %d of %d", errRestored, cursor.LastSeq, cursor.Stream, known.LastSeq, known.Stream)
}

func (s *shard) stored(b *pg.Batch, stored pg.Stored) {
	to := b.To()
	s.position.Store(&to)
	s.known.Store(&to)
	s.progress()
	s.Writer.metrics.batchRows.Observe(float64(b.Len()))
	s.metrics.rows.Add(float64(stored.Rows))
	s.metrics.deadLetters.Add(float64(stored.DeadLetters))
	s.metrics.present.Add(float64(stored.Present))
	s.metrics.gaps.Add(float64(b.Gaps()))
	if stored.Present > 0 && s.number != pg.OutcomesShard { // gateways tell some again
		s.log.Warn("some records were stored already", zap.Int("records", stored.Present), zap.Uint64("up_to_block", to.LastSeq))
	}
	if stored.DeadLetters > 0 || b.Gaps() > 0 {
		s.log.Error("not every record is a row", zap.Int("dead_letters", stored.DeadLetters), zap.Int("gaps", b.Gaps()), zap.Uint64("up_to_block", to.LastSeq))
	}
}

// watch looks at the stream's end: how far it is ahead, and whether it is still
// the stream that is being read; and at the cursor: whether the database still
// has what was stored, though there may be nothing to store.
func (s *shard) watch(ctx context.Context, stream int64) error {
	var behind *pg.Cursor // the database's cursor was behind this one
	for {
		position := s.position.Load() // before the stream's end, which only grows
		l, err := journal.OpenLog(ctx, s.js, s.stream)
		if errors.Is(err, journal.ErrNone) {
			return errChanged
		}
		if err == nil {
			extent, err := l.Extent(ctx)
			if err == nil && (l.Identity() != stream || extent.Last < position.LastSeq) {
				return errChanged
			}
			if err == nil {
				s.lag(position, extent)
			}
		} // else reading fails as well, and says so
		known := s.known.Load()
		if cursor, _, err := s.db.Cursor(ctx, s.number); err == nil { // else storing fails as well
			// Twice, since a commit that has just been made may move the cursor back.
			if err := restored(&cursor, known); err == nil {
				behind = nil
			} else if behind == known {
				return err
			} else {
				behind = known
			}
		}
		if !sleep(ctx, s.config.WatchInterval) {
			return ctx.Err()
		}
	}
}

func (s *shard) lag(position *pg.Cursor, extent journal.Extent) {
	blocks, seconds := extent.Last-position.LastSeq, 0.0
	if blocks > 0 && !position.LastStored.IsZero() {
		seconds = max(0, time.Since(position.LastStored).Seconds())
	}
	s.metrics.lagBlocks.Set(float64(blocks))
	s.metrics.lagSeconds.Set(seconds)
}
