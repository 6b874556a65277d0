package limiter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/journal"
)

// backlog is what was decided while the journal did not take blocks, in order.
// It is made for one block that was not taken in time, and ends when all that
// came meanwhile is stored.
type backlog struct {
	done chan struct{} // closed when it has ended; then err is set

	mu     sync.Mutex // guards the rest
	blocks []pending
	bytes  int
	ended  bool
	err    error
}

// pending is a block that waits for the journal.
type pending struct {
	body      []byte
	records   int
	reportSeq uint64
}

// newBacklog begins to store a first block, and what is pushed after it, until
// ctx ends or nothing is left. The appender is the backlog's until done.
func newBacklog(ctx context.Context, a *journal.Appender, first pending) *backlog {
	b := &backlog{done: make(chan struct{}), blocks: []pending{first}, bytes: len(first.body)}
	go func() {
		defer close(b.done)
		for next := &first; next != nil; {
			_, err := a.Append(ctx, next.body, next.records, next.reportSeq)
			next = b.stored(err)
		}
	}()
	return b
}

// stored takes note of what became of the first block, and returns the next.
func (b *backlog) stored(err error) *pending {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.ended, b.err = true, fmt.Errorf("%d decided blocks are not in the journal: %w", len(b.blocks), err)
		return nil
	}
	b.bytes -= len(b.blocks[0].body)
	b.blocks = b.blocks[1:]
	if b.ended = len(b.blocks) == 0; b.ended {
		return nil
	}
	next := b.blocks[0]
	return &next
}

// push adds a block, unless the backlog has ended.
func (b *backlog) push(p pending) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended {
		b.blocks = append(b.blocks, p)
		b.bytes += len(p.body)
	}
	return !b.ended
}

// size is the bytes that wait.
func (b *backlog) size() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.bytes
}

// append stores the block, or puts it into the backlog when the journal does
// not take it in time.
func (o *owner) append(ctx context.Context) error {
	b := &o.block
	if o.backlog != nil {
		if o.backlog.push(o.pending()) {
			return nil
		}
		if err := o.caughtUp(); err != nil {
			return err
		}
	}
	sent := time.Now()
	inTime, cancel := context.WithTimeout(ctx, o.config.DegradeAfter)
	_, err := o.appender.Append(inTime, b.body, b.records, o.reportSeq)
	cancel()
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		o.log.Error("degraded: decisions go out before the journal has them", zap.Error(err))
		o.metrics.degraded.Set(1)
		o.backlog = newBacklog(ctx, o.appender, o.pending())
		return nil
	}
	o.metrics.append.Observe(time.Since(sent).Seconds())
	return err
}

// pending is a copy of the block: its memory is used for the next one.
func (o *owner) pending() pending {
	return pending{slices.Clone(o.block.body), o.block.records, o.reportSeq}
}

// caughtUp waits until the backlog has ended, and leaves it behind.
func (o *owner) caughtUp() error {
	if o.backlog == nil {
		return nil
	}
	<-o.backlog.done
	err := o.backlog.err
	o.metrics.lost.Add(float64(len(o.backlog.blocks)))
	o.backlog = nil
	o.metrics.degraded.Set(0)
	o.metrics.backlog.Set(0)
	if err == nil {
		o.log.Info("the journal has all that was decided")
	}
	return err
}

// degradedMark is how a decision says that it is given before the journal had
// it.
var degradedMark = []byte(`,"degraded":true`)

// marked returns the decision with the mark.
func marked(decision []byte) []byte {
	if bytes.Contains(decision, degradedMark) {
		return decision
	}
	end := len(decision) - 1
	return append(append(decision[:end:end], degradedMark...), '}')
}
