package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go/micro"
	"github.com/nats-io/nuid"

	"github.com/weirhq/weir/internal/events"
)

const (
	// askTimeout bounds the wait for an answer, attemptTimeout that for one that
	// may have been lost.
	askTimeout     = 5 * time.Second
	attemptTimeout = 2 * time.Second
)

// RefusedError says why a limiter does not do what it is asked.
type RefusedError struct {
	Status int    // as in HTTP: 400 if what is asked is wrong, 503 if it may be asked again
	Detail string // names the field, what was found and what was expected
}

func (e *RefusedError) Error() string { return e.Detail }

// Explain asks what would be decided of a request now, and what each rule has to
// do with it. Nothing is charged or recorded. The error joins *FieldErrors if
// the request is wrong, is a *RefusedError, or says that no limiter answers.
func (c *Client) Explain(ctx context.Context, r Request) (Explanation, error) {
	var x Explanation
	id := r.ID
	if err := c.prepare(&r, time.Now()); err != nil {
		return x, err
	}
	r.ID = id
	tenant := r.Tenant
	r.Tenant, r.Gateway = "", ""
	shard, err := c.shard(tenant)
	if err != nil {
		return x, err
	}
	return x, c.ask(ctx, c.names.Explain(shard, tenant, c.config.Name), events.AppendRequest(nil, &r), &x)
}

// Command resets or overrides the limits of a tenant's key. It returns what was
// done, one Control for each rule, once that is in the journal. A command
// without an id gets one; with the same id it is done once, however often it is
// sent. The error is a *RefusedError, or says that no limiter answers: then it
// may or may not be done.
func (c *Client) Command(ctx context.Context, tenant string, command Command) ([]Control, error) {
	if err := events.CheckToken("tenant", tenant); err != nil {
		return nil, err
	}
	if command.ID == "" {
		command.ID = nuid.Next()
	}
	shard, err := c.shard(tenant)
	if err != nil {
		return nil, err
	}
	payload, err := json.Marshal(command)
	if err != nil {
		return nil, fmt.Errorf("command: %w", err)
	}
	var answer events.CommandAnswer
	err = c.ask(ctx, c.names.Command(shard, tenant), payload, &answer)
	for _, done := range answer.Controls { // the notices may still be on their way
		c.denials.forget(events.Notice{Tenant: done.Tenant, Rule: done.Rule, Key: done.Key}, time.Now())
	}
	return answer.Controls, err
}

// ask sends what can be sent again to a limiter until it answers, and reads the
// answer.
func (c *Client) ask(ctx context.Context, subject string, payload []byte, into any) error {
	if c.closing.Err() != nil {
		return ErrClosed
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	again := backoff.NewExponentialBackOff(backoff.WithInitialInterval(50*time.Millisecond), backoff.WithMaxInterval(time.Second), backoff.WithMaxElapsedTime(0))
	var last error
	attempt := func() error {
		inTime, cancel := context.WithTimeout(ctx, attemptTimeout)
		defer cancel()
		m, err := c.nc.RequestWithContext(inTime, subject, payload)
		if err != nil {
			last = err
			return err
		}
		if code := m.Header.Get(micro.ErrorCodeHeader); code != "" {
			return backoff.Permanent(refusal(code, m.Data))
		}
		if err := json.Unmarshal(m.Data, into); err != nil {
			return backoff.Permanent(fmt.Errorf("answer of a limiter: %w", err))
		}
		return nil
	}
	err := backoff.Retry(attempt, backoff.WithContext(again, ctx))
	if err != nil && ctx.Err() != nil {
		return fmt.Errorf("no limiter has answered (is one running?): %w", last)
	}
	return err
}

// refusal reads an error of the NATS services protocol with problem details.
func refusal(code string, text []byte) *RefusedError {
	status, err := strconv.Atoi(code)
	if err != nil {
		status = http.StatusInternalServerError
	}
	var details struct {
		Detail string `json:"detail"`
	}
	if json.Unmarshal(text, &details) != nil || details.Detail == "" {
		details.Detail = "refused with status " + code
	}
	return &RefusedError{status, details.Detail}
}
