package limiter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/decide"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/revision"
	"github.com/weirhq/weir/internal/window"
)

const (
	// fewBlocks is how many blocks the owner takes over itself, between two of
	// its own, into windows that were made anew: milliseconds' worth.
	fewBlocks = 8
	// fewTimeout bounds how long it waits for them.
	fewTimeout = time.Second
)

// decide owns the shard until ctx ends, under the newest policy.
func (l *Limiter) decide(ctx context.Context, lease *lease) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	o := newOwner(l, lease)
	done := make(chan error, 1)
	go func() {
		done <- o.run(ctx)
		stop() // nobody follows for it any more
	}()
	l.follow(ctx, o)
	return <-done
}

// follow has an owner decide under each newer policy, between two blocks, until
// ctx ends. What the windows hold is kept if it is enough for the policy; if a
// window gets longer, windows are made anew from the journal while the owner goes
// on under the policy before. Where that fails it is tried again.
func (l *Limiter) follow(ctx context.Context, o *owner) {
	again := backoff.NewExponentialBackOff(backoff.WithInitialInterval(100*time.Millisecond),
		backoff.WithMaxInterval(5*time.Second), backoff.WithMaxElapsedTime(0))
	for {
		newer := l.awaitPolicy(ctx)
		if newer == nil {
			return
		}
		err := o.offer(ctx, change{policy: newer})
		notKept, rebuilt := errors.AsType[*notKeptError](err)
		if rebuilt {
			err = o.rebuild(ctx, newer, notKept.overrides)
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			l.log.Warn("policy not in force yet, the one before is", zap.Uint64("revision", newer.Revision), zap.Error(err))
			timer := time.NewTimer(again.NextBackOff())
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
			}
			continue
		}
		again.Reset()
		l.log.Info("policy changed", zap.Uint64("from", l.config.Policy.Revision), zap.Uint64("to", newer.Revision), zap.Bool("rebuilt", rebuilt))
		l.config.Policy = newer // the owner, which has answered, reads it no more
	}
}

// change is a policy that an owner is to decide under.
type change struct {
	policy  *policy.Policy
	rebuilt *rebuilt // windows for it; nil for those that there are
	answer  chan error
}

// notKeptError says that the windows do not hold all that a policy counts.
type notKeptError struct {
	overrides []events.Control // by hand, that are in force
}

func (*notKeptError) Error() string { return "the policy has windows that are longer than they were" }

// offer hands a change to the committing goroutine and returns its answer.
func (o *owner) offer(ctx context.Context, c change) error {
	c.answer = make(chan error, 1)
	select {
	case o.changes <- c:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-c.answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// change decides under another policy from the next block on.
func (o *owner) change(ctx context.Context, c change) error {
	if r := c.rebuilt; r != nil {
		if err := o.catchUp(ctx, r); err != nil {
			return err
		}
		if err := putInForce(ctx, r.decider, o.decider.Overrides(o.last)); err != nil {
			return err
		}
		o.decider, o.memory, o.evicted = r.decider, r.memory, 0
	} else if !o.decider.Adopt(c.policy, o.last) {
		return &notKeptError{o.decider.Overrides(o.last)}
	}
	o.abandonSnapshot()
	o.policy = c.policy
	o.tellOfPolicy(o.policy.Revision)
	return nil
}

// rebuilt is windows that are made anew from the journal for a policy.
type rebuilt struct {
	decider *decide.Decider
	memory  *window.Memory
	blocks  *journal.Blocks
	seq     uint64 // of the last block that is in them
}

// rebuild makes windows anew from the journal, for as long as a policy counts, and
// has the owner decide in them. Meanwhile there are two stores of windows, each of
// WindowMax at most.
func (o *owner) rebuild(ctx context.Context, p *policy.Policy, overrides []events.Control) error {
	j, err := journal.Open(ctx, o.js, o.config.Names, o.config.Shard) // not the owner's: it uses that
	if err != nil {
		return err
	}
	extent, err := j.Extent(ctx)
	if err != nil {
		return err
	}
	r := &rebuilt{memory: o.newMemory()}
	r.decider = decide.New(p, r.memory)
	if err := putInForce(ctx, r.decider, overrides); err != nil { // for how long they have a key kept
		return err
	}
	start := journal.Start{Seq: extent.Last + 1}
	if extent.Blocks == 0 {
		r.seq = extent.Last
	} else if start.Seq, err = j.Since(ctx, extent, max(p.LongestWindow(), longestOf(overrides))); err != nil {
		return err
	}
	if r.blocks, err = j.Blocks(ctx, start); err != nil {
		return err
	}
	defer r.blocks.Stop()
	for r.seq < extent.Last {
		if err := o.foldNext(ctx, r); err != nil {
			return err
		}
		if r.seq >= extent.Last {
			if extent, err = j.Extent(ctx); err != nil {
				return err
			}
			if extent.Last <= r.seq+fewBlocks {
				break
			}
		}
	}
	return o.offer(ctx, change{policy: p, rebuilt: r})
}

// foldNext takes over the next block.
func (o *owner) foldNext(ctx context.Context, r *rebuilt) error {
	b, err := r.blocks.Next(ctx)
	if err != nil && !errors.Is(err, journal.ErrForeign) {
		return err
	}
	if r.seq = b.Seq; err == nil {
		o.reread(&b, func(_ int, record *events.Record) error { return fold(r.decider, record) })
	}
	return nil
}

// catchUp takes over what the journal has got since, and the blocks on their way
// to it.
func (o *owner) catchUp(ctx context.Context, r *rebuilt) error {
	ctx, cancel := context.WithTimeout(ctx, fewTimeout)
	defer cancel()
	for r.seq < o.appender.Last() {
		if err := o.foldNext(ctx, r); err != nil {
			return fmt.Errorf("catch up: %w", err)
		}
	}
	seq := o.appender.Last()
	for _, b := range o.queue {
		if b.records == 0 {
			continue
		}
		if seq++; seq > r.seq { // else it was read before its acknowledgement
			o.reread(&journal.Block{Seq: seq, Count: b.records, Body: string(b.body)},
				func(_ int, record *events.Record) error { return fold(r.decider, record) })
		}
	}
	return nil
}

// awaitPolicy returns a newer policy as soon as there is one, or nil when ctx
// ends. One that cannot be decided under is told of once.
func (l *Limiter) awaitPolicy(ctx context.Context) *policy.Policy {
	seen := l.config.Policy.Revision
	for {
		newest, err := revision.Next(ctx, l.js, l.config.Names, seen)
		if err != nil {
			return nil
		}
		seen = newest.Number
		p, err := newest.Policy()
		if err == nil {
			config := l.config
			config.Policy = p
			err = config.Validate()
		}
		if err == nil {
			return p
		}
		l.metrics.refusedPolicies.Inc()
		l.log.Error("a policy is refused, the last good one stays", zap.Uint64("revision", newest.Number), zap.Error(err))
	}
}
