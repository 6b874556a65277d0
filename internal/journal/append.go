package journal

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// Headers of a block.
const (
	headerCount  = "Weir-Count"      // records in it
	headerOwner  = "Weir-Owner"      // who appended it: one name for every Appender
	headerReport = "Weir-Report-Seq" // sequence of the last report applied up to its end
)

// ErrFenced says that another owner has appended to the journal. Whoever gets
// it must answer nobody and start anew from what the journal holds.
var ErrFenced = errors.New("another owner has appended to the journal")

const (
	// minGap keeps a shard below 10,000 blocks a second, so that the block
	// digits of ids cannot wrap within one.
	minGap = 100 * time.Microsecond
	// appendTimeout is how long one attempt waits for its acknowledgement.
	appendTimeout = 5 * time.Second
)

// Appender appends blocks as one owner. It is for one goroutine.
type Appender struct {
	journal *Journal
	owner   string
	last    uint64    // sequence of the last block
	sent    time.Time // when the last block was sent
	failed  func(error)
}

// Appender returns an appender that goes on after the block with sequence
// last. failed is told of each attempt that failed and is tried again.
func (j *Journal) Appender(last uint64, failed func(error)) *Appender {
	return &Appender{journal: j, owner: nuid.Next(), last: last, failed: failed}
}

// Append stores a block of count records, one a line, and returns its
// sequence. reportSeq is the sequence of the last report applied up to its end.
// It tries until the block is stored, ctx ends, or the error is ErrFenced. The
// body may be reused afterwards unless ctx ended.
func (a *Appender) Append(ctx context.Context, body []byte, count int, reportSeq uint64) (uint64, error) {
	if gap := minGap - time.Since(a.sent); gap > 0 {
		time.Sleep(gap)
	}
	msg := &nats.Msg{Subject: a.journal.subject, Data: body, Header: nats.Header{
		headerCount:  {strconv.Itoa(count)},
		headerOwner:  {a.owner},
		headerReport: {strconv.FormatUint(reportSeq, 10)},
	}}
	attempt := func() error {
		a.sent = time.Now()
		err := a.try(ctx, msg)
		if errors.Is(err, ErrFenced) {
			return backoff.Permanent(err)
		}
		return err
	}
	again := func(err error, _ time.Duration) { a.failed(err) }
	if err := backoff.RetryNotify(attempt, backoff.WithContext(newBackOff(), ctx), again); err != nil {
		return 0, fmt.Errorf("append block %d: %w", a.last+1, err)
	}
	a.last++
	return a.last, nil
}

func newBackOff() backoff.BackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(5*time.Millisecond),
		backoff.WithMaxInterval(time.Second),
		backoff.WithMaxElapsedTime(0), // the context bounds it
	)
}

func (a *Appender) try(ctx context.Context, msg *nats.Msg) error {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	_, err := a.journal.js.PublishMsg(ctx, msg, jetstream.WithExpectLastSequence(a.last), jetstream.WithRetryAttempts(0))
	if wrongLastSequence(err) {
		return a.settle(ctx)
	}
	return err
}

func wrongLastSequence(err error) bool {
	api, ok := errors.AsType[*jetstream.APIError](err)
	return ok && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence ||
		api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}

// settle finds out who stored the block after the last one we know: we, in an
// attempt whose acknowledgement was lost, or another owner.
func (a *Appender) settle(ctx context.Context) error {
	next, err := a.journal.stream.GetMsg(ctx, a.last+1)
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return fmt.Errorf("find out who appended: %w", err)
	}
	if err != nil || next.Header.Get(headerOwner) != a.owner {
		return ErrFenced
	}
	return nil
}
