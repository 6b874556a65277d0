package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
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

// ErrGone says that the journal's stream is there no more.
var ErrGone = errors.New("the journal's stream is gone")

const (
	// minGap keeps a shard below 10,000 blocks a second, so that the block
	// digits of ids cannot wrap within one.
	minGap = 105 * time.Microsecond
	// appendTimeout is how long one attempt waits for its acknowledgement.
	appendTimeout = 5 * time.Second
	// maxAcks bounds acknowledgements of attempts that were given up.
	maxAcks = 64
)

// Appender appends blocks as one owner. It is for one goroutine.
//
// It waits for acknowledgements on a channel of its own: the client's request
// and its JetStream publish pass them through a goroutine in between, which is
// a tenth of what an append takes.
type Appender struct {
	journal *Journal
	owner   string
	last    uint64    // sequence of the last block
	sent    time.Time // when the last block was sent
	failed  func(error)

	acks     chan *nats.Msg
	inbox    string // each attempt's reply subject is below it
	attempts int
	sub      *nats.Subscription
}

// Appender returns an appender that goes on after the block with sequence
// last; the caller must Close it. failed is told of each attempt that failed
// and is tried again.
func (j *Journal) Appender(last uint64, failed func(error)) (*Appender, error) {
	a := &Appender{journal: j, owner: nuid.Next(), last: last, failed: failed, acks: make(chan *nats.Msg, maxAcks)}
	nc := j.js.Conn()
	a.inbox = nc.NewRespInbox()
	var err error
	if a.sub, err = nc.ChanSubscribe(a.inbox+".*", a.acks); err != nil {
		return nil, fmt.Errorf("append to the journal of shard %d: %w", j.config.Shard, err)
	}
	return a, nil
}

// Close ends the wait for acknowledgements.
func (a *Appender) Close() {
	_ = a.sub.Unsubscribe() // fails only if the connection is closed
}

// Append stores a block of count records, one a line, and returns its
// sequence. reportSeq is the sequence of the last report applied up to its end.
// It tries until the block is stored, ctx ends, or the error is ErrFenced or
// ErrGone. The body may be reused afterwards.
func (a *Appender) Append(ctx context.Context, body []byte, count int, reportSeq uint64) (uint64, error) {
	for time.Since(a.sent) < minGap {
		runtime.Gosched() // a sleep this short takes a millisecond
	}
	a.sent = time.Now()
	msg := &nats.Msg{Subject: a.journal.subject, Data: body, Header: nats.Header{
		headerCount:  {strconv.Itoa(count)},
		headerOwner:  {a.owner},
		headerReport: {strconv.FormatUint(reportSeq, 10)},

		jetstream.ExpectedLastSeqHeader: {strconv.FormatUint(a.last, 10)},
	}}
	attempt := func() error {
		err := a.try(ctx, msg)
		if errors.Is(err, ErrFenced) {
			return backoff.Permanent(err)
		}
		return err
	}
	again := func(err error, _ time.Duration) { a.failed(err) }
	err := backoff.RetryNotify(attempt, backoff.WithContext(newBackOff(), ctx), again)
	if err != nil {
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

// try sends a block and waits for its acknowledgement.
func (a *Appender) try(ctx context.Context, msg *nats.Msg) error {
	a.attempts++
	msg.Reply = a.inbox + "." + strconv.Itoa(a.attempts)
	if err := a.journal.js.Conn().PublishMsg(msg); err != nil {
		return err
	}
	timeout := time.NewTimer(appendTimeout)
	defer timeout.Stop()
	for {
		select {
		case ack := <-a.acks:
			if ack.Subject == msg.Reply { // else a late one, of an attempt given up
				return a.acknowledged(ctx, ack)
			}
		case <-timeout.C:
			return fmt.Errorf("no acknowledgement within %v", appendTimeout)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// acknowledged reads what the server says of an attempt.
func (a *Appender) acknowledged(ctx context.Context, m *nats.Msg) error {
	if m.Header.Get("Status") == "503" {
		if _, err := a.journal.stream.Info(ctx); errors.Is(err, jetstream.ErrStreamNotFound) {
			return backoff.Permanent(ErrGone)
		}
		return nats.ErrNoResponders
	}
	var ack struct {
		Error *jetstream.APIError `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &ack); err != nil {
		return fmt.Errorf("acknowledgement %q: %w", m.Data, err)
	}
	switch {
	case ack.Error == nil:
		return nil
	case ack.Error.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence,
		ack.Error.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant:
		return a.settle(ctx)
	}
	return ack.Error
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
