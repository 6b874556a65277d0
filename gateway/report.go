package gateway

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/events"
)

// maxBatch bounds how many spilled requests are stored in one go.
const maxBatch = 256

// RequestError says which of several requests is wrong.
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
	prepared := make([]Request, len(requests))
	var faults []error
	for i, r := range requests {
		if err := c.prepare(&r); err != nil {
			faults = append(faults, &RequestError{Index: i, Err: err})
		}
		prepared[i] = r
	}
	if err := errors.Join(faults...); err != nil {
		return err
	}
	return c.store(ctx, prepared)
}

// store publishes reports and waits until all are acknowledged.
func (c *Client) store(ctx context.Context, requests []Request) error {
	acks := make([]jetstream.PubAckFuture, 0, len(requests))
	for _, r := range requests {
		ack, err := c.publishReport(ctx, r)
		if err != nil {
			return fmt.Errorf("report %s of %s: %w", r.ID, r.Tenant, err)
		}
		acks = append(acks, ack)
	}
	for i, ack := range acks {
		var err error
		select {
		case <-ack.Ok():
			continue
		case err = <-ack.Err():
		case <-ctx.Done():
			err = ctx.Err()
		}
		return fmt.Errorf("report %s of %s: %w", requests[i].ID, requests[i].Tenant, err)
	}
	return nil
}

// publishReport sends one report; tenant and gateway are in the subject. When
// too many are under way it waits for some of them.
func (c *Client) publishReport(ctx context.Context, r Request) (jetstream.PubAckFuture, error) {
	shard, err := c.shard(r.Tenant)
	if err != nil {
		return nil, err
	}
	msg := &nats.Msg{Subject: c.names.Report(shard, r.Tenant, r.Gateway)}
	id := r.Tenant + "/" + r.ID + "/" + string(r.Reason)
	r.Tenant, r.Gateway = "", ""
	msg.Data = events.AppendRequest(make([]byte, 0, 256), &r)
	for {
		ack, err := c.js.PublishMsgAsync(msg, jetstream.WithMsgID(id))
		if !errors.Is(err, jetstream.ErrTooManyStalledMsgs) {
			return ack, err
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// reportSpilled reports, in order, what Check had no decision for or denied
// locally, until Close; then for drainTimeout at most.
func (c *Client) reportSpilled() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	context.AfterFunc(c.closing, func() { time.AfterFunc(drainTimeout, cancel) })
	batch := make([]Request, 0, maxBatch)
	for r := range c.spill {
		batch = append(batch[:0], r)
		for len(batch) < maxBatch && len(c.spill) > 0 {
			batch = append(batch, <-c.spill)
		}
		store := func() error {
			attempt, done := context.WithTimeout(ctx, drainTimeout)
			defer done()
			return c.store(attempt, batch)
		}
		again := backoff.NewExponentialBackOff(backoff.WithMaxInterval(time.Second), backoff.WithMaxElapsedTime(0))
		if err := backoff.Retry(store, backoff.WithContext(again, ctx)); err != nil {
			for i := range batch { // only when Close ran out of time
				c.overflow.Add(max(batch[i].Count, 1))
			}
		}
	}
}
