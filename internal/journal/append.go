package journal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
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

	// headerReportStream tells the stream that this sequence is of from another
	// that bore its name: when it was made, in nanoseconds since 1970; absent if
	// that was not told.
	headerReportStream = "Weir-Report-Stream"

	// headerOverrides is the sequence of the oldest block that holds an override
	// by hand still in force when the block was sent; absent if there is none.
	headerOverrides = "Weir-Override-Seq"
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
	// appendTimeout is how long blocks under way may take until they are sent
	// again.
	appendTimeout = 5 * time.Second
	// lookEvery is how often it is seen whether they are under way on a
	// connection that is there no more: its acknowledgements do not come.
	lookEvery = 250 * time.Millisecond
	// settleTimeout bounds the questions to the server after a refusal.
	settleTimeout = time.Second
	// underWay is how many blocks are sent ahead of the acknowledgement of the
	// first: enough to hide the way there and back while a backlog is stored.
	underWay = 4
	// maxAcks bounds acknowledgements that nobody has taken yet, also those of
	// attempts that were given up.
	maxAcks = 64
)

// Appender appends blocks as one owner, in order. Some are under way at a time:
// each expects to follow the one before, by its sequence and, as another owner's
// block may have got that one, by its name: so none can be stored without it.
//
// It is for one goroutine, which Sends blocks, hands it what comes from Acks,
// and calls Retry when Due. Acknowledgements come on a channel of its own: the
// client's request and its JetStream publish pass them through a goroutine in
// between, which is a tenth of what an append takes.
type Appender struct {
	journal *Journal
	owner   string
	last    uint64    // sequence of the last block stored
	sent    time.Time // when the last one was sent
	failed  func(error)

	overrides uint64 // as Overrides was told

	reportStream int64 // as ReportStream was told

	queue   []pending // blocks that are not stored, the next one first
	ahead   int       // how many of them are under way
	again   backoff.BackOff
	due     *time.Timer // of Retry
	acks    chan *nats.Msg
	inbox   string    // the reply subject of each block of each attempt is below it
	attempt int       // counts the times that sending began anew
	moved   time.Time // when an attempt began, or a block was stored
	breaks  uint64    // of the connection, when the attempt began
	sub     *nats.Subscription
}

// pending is a block to be stored.
type pending struct {
	body         []byte
	count        int
	reportSeq    uint64
	reportStream int64
	overrides    uint64
}

// Appender returns an appender that goes on after the block with sequence
// last; the caller must Close it. failed is told of each attempt that failed
// and is tried again.
func (j *Journal) Appender(last uint64, failed func(error)) (*Appender, error) {
	a := &Appender{journal: j, owner: nuid.Next(), last: last, failed: failed, acks: make(chan *nats.Msg, maxAcks),
		due: time.NewTimer(lookEvery), again: newBackOff()}
	a.due.Stop()
	nc := j.js.Conn()
	a.inbox = nc.NewRespInbox()
	var err error
	if a.sub, err = nc.ChanSubscribe(a.inbox+".*.*", a.acks); err != nil {
		return nil, fmt.Errorf("append to the journal of shard %d: %w", j.config.Shard, err)
	}
	return a, nil
}

// Close ends the wait for acknowledgements.
func (a *Appender) Close() {
	a.due.Stop()
	_ = a.sub.Unsubscribe() // fails only if the connection is closed
}

// Last returns the sequence of the last block that is stored.
func (a *Appender) Last() uint64 { return a.last }

// Next returns the sequence that the next block sent will have.
func (a *Appender) Next() uint64 { return a.last + uint64(len(a.queue)) + 1 }

// ReportStream sets what the blocks sent from now on say of the stream that their
// report sequences are of: when it was made, in nanoseconds since 1970.
func (a *Appender) ReportStream(made int64) { a.reportStream = made }

// Overrides sets what the blocks sent from now on say is the oldest block that
// holds an override by hand still in force; 0 if there is none.
func (a *Appender) Overrides(oldest uint64) { a.overrides = oldest }

// Send takes a block of count records, one a line, to be stored after those
// before it, and sends it unless too many are under way. reportSeq is the
// sequence of the last report applied up to its end. The body must stay as it
// is until the block is stored.
func (a *Appender) Send(body []byte, count int, reportSeq uint64) {
	a.queue = append(a.queue, pending{body, count, reportSeq, a.reportStream, a.overrides})
	if len(a.queue) == 1 {
		a.begin()
	} else if a.ahead > 0 { // else it waits for an attempt to begin anew
		a.publish()
	}
}

// Acks is where acknowledgements come, each to be handed to Take.
func (a *Appender) Acks() <-chan *nats.Msg { return a.acks }

// Due is when to call Retry.
func (a *Appender) Due() <-chan time.Time { return a.due.C }

// Take reads an acknowledgement and returns how many blocks are stored by it.
// The error is ErrFenced or ErrGone; of any other the blocks are sent again.
func (a *Appender) Take(ctx context.Context, m *nats.Msg) (stored int, err error) {
	attempt, seq, ok := a.parse(m.Subject)
	if !ok || seq <= a.last || seq > a.last+uint64(len(a.queue)) {
		return 0, nil // of what is known to be stored
	}
	err = a.acknowledged(ctx, m)
	if err != nil && attempt != a.attempt {
		return 0, nil // of an attempt that was given up: the blocks are sent again
	}
	switch {
	case errors.Is(err, errRefused):
		if err := a.settle(ctx); errors.Is(err, ErrFenced) {
			return 0, a.named(err)
		} else if err != nil {
			a.pause(err)
			return 0, nil
		}
		stored, a.ahead = 1, 0 // what was under way behind it was refused as well, perhaps
	case errors.Is(err, ErrGone):
		return 0, a.named(err)
	case err != nil:
		a.pause(err)
		return 0, nil
	default:
		stored = int(seq - a.last) // none is stored without those before it
		a.ahead = max(a.ahead-stored, 0)
	}
	a.advance(stored)
	if a.ahead > 0 {
		a.publish()
	} else {
		a.begin()
	}
	return stored, nil
}

func (a *Appender) named(err error) error { return fmt.Errorf("append block %d: %w", a.last+1, err) }

// advance takes note that the next n blocks are stored.
func (a *Appender) advance(n int) {
	a.last += uint64(n)
	clear(a.queue[:n])
	a.again.Reset()
	if n == len(a.queue) {
		a.queue = a.queue[:0]
		a.due.Stop()
	} else {
		a.queue = a.queue[n:]
		a.moved = time.Now()
		a.due.Reset(lookEvery)
	}
}

// Retry sends again what is not stored, if a pause is over or if it is time to
// believe that no acknowledgement will come.
func (a *Appender) Retry() {
	switch late := time.Since(a.moved) >= appendTimeout; {
	case a.ahead > 0 && a.journal.js.Conn().Stats().Reconnects != a.breaks:
		a.failed(errors.New("the connection broke before the acknowledgement"))
	case a.ahead > 0 && late:
		a.failed(fmt.Errorf("no acknowledgement within %v", appendTimeout))
	case a.ahead > 0:
		a.due.Reset(lookEvery)
		return
	}
	a.begin()
}

// begin sends what is not stored, in a new attempt.
func (a *Appender) begin() {
	a.attempt++
	a.ahead = 0
	if len(a.queue) > 0 {
		a.moved, a.breaks = time.Now(), a.journal.js.Conn().Stats().Reconnects
		a.due.Reset(lookEvery)
		a.publish()
	}
}

// pause gives up an attempt; after a while another one begins.
func (a *Appender) pause(err error) {
	a.failed(err)
	a.attempt++
	a.ahead = 0
	a.due.Reset(a.again.NextBackOff())
}

// publish sends blocks that are not under way yet, as many as may be.
func (a *Appender) publish() {
	for a.ahead < min(len(a.queue), underWay) {
		for time.Since(a.sent) < minGap {
			runtime.Gosched() // a sleep this short takes a millisecond
		}
		a.sent = time.Now()
		b, before := &a.queue[a.ahead], strconv.FormatUint(a.last+uint64(a.ahead), 10)
		msg := &nats.Msg{Subject: a.journal.subject, Data: b.body, Header: nats.Header{
			headerCount:  {strconv.Itoa(b.count)},
			headerOwner:  {a.owner},
			headerReport: {strconv.FormatUint(b.reportSeq, 10)},

			jetstream.ExpectedLastSeqHeader: {before},
			jetstream.MsgIDHeader:           {a.name(a.last + uint64(a.ahead) + 1)},
		}}
		if a.ahead > 0 {
			msg.Header[jetstream.ExpectedLastMsgIDHeader] = []string{a.name(a.last + uint64(a.ahead))}
		}
		if b.reportStream > 0 {
			msg.Header[headerReportStream] = []string{strconv.FormatInt(b.reportStream, 10)}
		}
		if b.overrides > 0 {
			msg.Header[headerOverrides] = []string{strconv.FormatUint(b.overrides, 10)}
		}
		msg.Reply = a.inbox + "." + strconv.Itoa(a.attempt) + "." + before
		if err := a.journal.js.Conn().PublishMsg(msg); err != nil {
			a.pause(err)
			return
		}
		a.ahead++
	}
}

// name tells our block with a sequence from everybody else's.
func (a *Appender) name(seq uint64) string { return a.owner + "." + strconv.FormatUint(seq, 10) }

// parse reads the reply subject of a block: its attempt, and its sequence.
func (a *Appender) parse(subject string) (attempt int, seq uint64, ok bool) {
	rest, ours := strings.CutPrefix(subject, a.inbox+".")
	one, two, _ := strings.Cut(rest, ".")
	attempt, err := strconv.Atoi(one)
	before, failed := strconv.ParseUint(two, 10, 64)
	return attempt, before + 1, ours && err == nil && failed == nil
}

// Append sends one block and waits until it is stored, ctx ends, or the error
// is ErrFenced or ErrGone. It returns the block's sequence. The body may be
// reused afterwards. When ctx has ended the block may be stored or not: only the
// same one can be appended next.
func (a *Appender) Append(ctx context.Context, body []byte, count int, reportSeq uint64) (uint64, error) {
	a.Send(body, count, reportSeq)
	for {
		select {
		case m := <-a.acks:
			if stored, err := a.Take(ctx, m); err != nil || stored > 0 {
				return a.last, err
			}
		case <-a.due.C:
			a.Retry()
		case <-ctx.Done():
			a.queue = nil
			a.begin() // whatever is acknowledged is no more ours
			a.due.Stop()
			return 0, a.named(ctx.Err())
		}
	}
}

func newBackOff() backoff.BackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(5*time.Millisecond),
		backoff.WithMaxInterval(time.Second),
		backoff.WithMaxElapsedTime(0), // whoever sends bounds it
	)
}

// wrongLastName is the server's error code for a block that is not to follow the
// one that is the last; the client has no name for it.
const wrongLastName = 10070

// errRefused says that the journal does not end with the block that the one
// under way is to follow.
var errRefused = errors.New("the journal does not end where it should")

// acknowledged reads what the server says of a block.
func (a *Appender) acknowledged(ctx context.Context, m *nats.Msg) error {
	if m.Header.Get("Status") == "503" {
		ctx, cancel := context.WithTimeout(ctx, settleTimeout)
		defer cancel()
		if _, err := a.journal.stream.Info(ctx); errors.Is(err, jetstream.ErrStreamNotFound) {
			return ErrGone
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
		ack.Error.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant,
		ack.Error.ErrorCode == wrongLastName:
		return errRefused
	}
	return ack.Error
}

// errLostOnTheWay says that nobody has appended: what the refused block was to
// follow has not arrived.
var errLostOnTheWay = errors.New("a block was lost on its way, or overtaken")

// settle finds out who stored the block after the last one we know: we, in an
// attempt whose acknowledgement was lost, or another owner. The error is
// errLostOnTheWay if there is none.
func (a *Appender) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	info, err := a.journal.stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("find out who appended: %w", err)
	}
	if info.State.LastSeq == a.last {
		return errLostOnTheWay
	}
	next, err := a.journal.stream.GetMsg(ctx, a.last+1)
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return fmt.Errorf("find out who appended: %w", err)
	}
	if err != nil || next.Header.Get(headerOwner) != a.owner {
		return ErrFenced
	}
	return nil
}
