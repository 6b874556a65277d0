package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/events"
)

// maxBatch bounds how many requests or outcomes are stored in one go.
const maxBatch = 256

// RequestError says which of several requests, or outcomes of some, is wrong.
type RequestError struct {
	Index int   // in the list that was given
	Err   error // joined *FieldErrors
}

func (e *RequestError) Error() string { return fmt.Sprintf("request %d: %v", e.Index, e.Err) }
func (e *RequestError) Unwrap() error { return e.Err }

// Report tells Weir of requests that nobody waits for. It returns nil once all
// are stored; the limiter then decides and records each exactly once.
//
// If a request is wrong nothing is sent, and the error joins a *RequestError
// for each. After any other error some may be stored: reporting all again is
// safe for requests that have an id.
func (c *Client) Report(ctx context.Context, requests ...Request) error {
	now := time.Now()
	prepared, err := prepareAll(requests, func(r *Request) error { return c.prepare(r, now) })
	if err != nil {
		return err
	}
	return c.report(ctx, prepared)
}

// Outcome tells Weir what became of requests that were checked. It returns nil
// once all are stored; each is then written exactly once, and of several for one
// request the first. One for a request that Weir does not know of is kept for the
// case that it comes to know.
//
// If an outcome is wrong nothing is sent, and the error joins a *RequestError
// for each. After any other error some may be stored: telling all again is safe.
func (c *Client) Outcome(ctx context.Context, outcomes ...Outcome) error {
	prepared, err := prepareAll(outcomes, c.prepareOutcome)
	if err != nil {
		return err
	}
	return store(ctx, c, prepared, c.outcomeMessage)
}

func (c *Client) prepareOutcome(o *Outcome) error {
	o.Gateway = c.config.Name
	if err := c.own(&o.Tenant); err != nil {
		return err
	}
	if o.Time.IsZero() {
		o.Time = time.Now()
	}
	return o.Validate()
}

// prepareAll prepares copies. The error joins a *RequestError for each that is
// wrong.
func prepareAll[T any](given []T, prepare func(*T) error) ([]T, error) {
	prepared := slices.Clone(given)
	var faults []error
	for i := range prepared {
		if err := prepare(&prepared[i]); err != nil {
			faults = append(faults, &RequestError{Index: i, Err: err})
		}
	}
	return prepared, errors.Join(faults...)
}

// message is an event as it goes to a stream, which knows it by its id for a
// while.
type message struct {
	subject string
	id      string
	payload []byte
}

// messageID tells any two requests apart, also those whose ids differ in what a
// header does not keep: line breaks, spaces at its ends.
func messageID(tenant, id string) string { return tenant + "/" + url.PathEscape(id) }

// report stores reports.
func (c *Client) report(ctx context.Context, requests []Request) error {
	return store(ctx, c, requests, c.reportMessage)
}

// reportMessage is a report as it travels; tenant and gateway are in the subject.
func (c *Client) reportMessage(r Request) (message, error) {
	shard, err := c.shard(r.Tenant)
	m := message{subject: c.names.Report(shard, r.Tenant, r.Gateway), id: messageID(r.Tenant, r.ID) + "/" + string(r.Reason)}
	r.Tenant, r.Gateway = "", ""
	m.payload = events.AppendRequest(make([]byte, 0, 256), &r)
	return m, err
}

// outcomeMessage is reportMessage for an outcome.
func (c *Client) outcomeMessage(o Outcome) (message, error) {
	shard, err := c.shard(o.Tenant)
	m := message{subject: c.names.Outcome(shard, o.Tenant, o.Gateway), id: messageID(o.Tenant, o.ID)}
	o.Tenant, o.Gateway = "", ""
	m.payload = events.AppendOutcome(make([]byte, 0, 128), &o)
	return m, err
}

// store publishes events and waits until all are acknowledged.
func store[T any](ctx context.Context, c *Client, list []T, as func(T) (message, error)) error {
	acks := make([]jetstream.PubAckFuture, 0, len(list))
	for i := range list {
		m, err := as(list[i])
		if err != nil {
			return err
		}
		ack, err := c.publish(ctx, m)
		if err != nil {
			return fmt.Errorf("store %s at %s: %w", m.id, m.subject, err)
		}
		acks = append(acks, ack)
	}
	for _, ack := range acks {
		var err error
		select {
		case <-ack.Ok():
			continue
		case err = <-ack.Err():
		case <-ctx.Done():
			err = ctx.Err()
		}
		return fmt.Errorf("store %s at %s: %w", ack.Msg().Header.Get(jetstream.MsgIDHeader), ack.Msg().Subject, err)
	}
	return nil
}

// publish sends one event. When too many are under way it waits for some of
// them.
func (c *Client) publish(ctx context.Context, m message) (jetstream.PubAckFuture, error) {
	msg := &nats.Msg{Subject: m.subject, Data: m.payload}
	for {
		ack, err := c.js.PublishMsgAsync(msg, jetstream.WithMsgID(m.id))
		if !errors.Is(err, jetstream.ErrTooManyStalledMsgs) {
			return ack, err
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// drain stores what comes through a queue, in order and many at once, until that
// is closed, and then the rest; from Close on for drainTimeout at most.
func drain[T any](c *Client, queue <-chan T, rest func() []T, store func(context.Context, []T) error, lost func([]T)) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	context.AfterFunc(c.closing, func() { time.AfterFunc(drainTimeout, cancel) })
	keep := func(batch []T) {
		attempt := func() error {
			inTime, done := context.WithTimeout(ctx, drainTimeout)
			defer done()
			return store(inTime, batch)
		}
		again := backoff.NewExponentialBackOff(backoff.WithMaxInterval(time.Second), backoff.WithMaxElapsedTime(0))
		if err := backoff.Retry(attempt, backoff.WithContext(again, ctx)); err != nil {
			lost(batch) // only when Close ran out of time
		}
	}
	batch := make([]T, 0, maxBatch)
	for one := range queue {
		batch = append(batch[:0], one)
		for len(batch) < maxBatch && len(queue) > 0 {
			batch = append(batch, <-queue)
		}
		keep(batch)
	}
	for batch := range slices.Chunk(rest(), maxBatch) {
		keep(batch)
	}
}

// reportSpilled reports what Check had no decision for or denied locally.
func (c *Client) reportSpilled() {
	denied := func() []Request { return c.denials.close(time.Now()) }
	drain(c, c.spill, denied, c.report, func(list []Request) {
		for i := range list {
			c.overflow.Add(max(list[i].Count, 1))
		}
	})
}

// tell tells of an outcome in the background, if there is room for it. Nothing
// is wrong with it: it would hold up others.
func (c *Client) tell(o Outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.answered) == cap(c.answered) {
		c.untold.Add(1)
		return
	}
	c.answered <- o // has room: all senders hold mu
}

// tellAnswered stores what tell is given.
func (c *Client) tellAnswered() {
	outcome := func(ctx context.Context, list []Outcome) error { return c.Outcome(ctx, list...) }
	drain(c, c.answered, func() []Outcome { return nil }, outcome, func(list []Outcome) { c.untold.Add(int64(len(list))) })
}
