// Package gateway asks Weir whether a request may pass, and tells it of
// requests that nobody waits for and of what became of those that passed.
//
//	nc, err := nats.Connect(nats.DefaultURL, nats.MaxReconnects(-1))
//	…
//	client, err := gateway.Connect(nc, gateway.Config{Name: "shop-1"})
//	…
//	defer client.Close()
//	decision, err := client.Check(ctx, gateway.Request{Tenant: "acme", User: "42", Method: "GET"})
//	if decision.Verdict == gateway.Deny { … }
//
// [Client.Middleware] does that for every request to an [http.Handler].
//
// Weir is never the outage: when no decision comes in time, Check returns what
// the policy says of the request (on_error), with [ReasonTimeout], and the
// request is still recorded. The client follows the policy; until it has read
// one the built-in policy is in force.
//
// A denial is remembered until a request of its cost could pass. What comes before
// is denied at once, with [ReasonLocal] and without a message; it is recorded
// folded, once a second for each key.
package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
)

// Config says who the gateway is and how it waits. The zero value of every
// field but Name stands for its default: of the last two that is what the
// policy's defaults say.
type Config struct {
	Name    string        // unique among the processes that are gateways; 1 to 64 of A-Z a-z 0-9 _ -
	Tenant  string        // the only one that NATS lets it act for: it reads that one's decisions alone, must be told Shards, and without a decision goes by the built-in policy; default: any
	Prefix  string        // first token of every subject; default weir
	Shards  int           // as the limiters have it; default: found out, and no check has a decision until a limiter has been there
	Timeout time.Duration // how long Check waits for a decision
	OnError Verdict       // what becomes of a request without a decision, if none of the rules that charge it says
}

const (
	// spillSize bounds the requests without a decision that wait to be reported,
	// and the outcomes to be told: at a few hundred bytes each, some megabytes.
	spillSize = 10_000
	// maxUnacked bounds the reports and outcomes that are published and not yet
	// stored.
	maxUnacked = 4096
	// ackTimeout bounds the wait for one's acknowledgement: a lost one
	// must not keep its place among maxUnacked.
	ackTimeout = 10 * time.Second
	// drainTimeout bounds how long Close waits for reports.
	drainTimeout = 5 * time.Second
)

// ErrClosed is returned by the methods of a client that is closed.
var ErrClosed = errors.New("the gateway's client is closed")

// Client is a gateway's connection to Weir. It is safe for concurrent use.
type Client struct {
	config Config
	names  events.Names
	nc     *nats.Conn
	js     jetstream.JetStream
	subs   []*nats.Subscription // to decisions and notices
	shards atomic.Int32         // how many there are; 0 while that is not known
	outbox outbox

	mu      sync.Mutex // guards waiting and closed
	waiting map[ticket]*waiter
	closed  bool

	policy  atomic.Pointer[policy.Policy] // the last good one
	back    atomic.Pointer[chan struct{}] // closed when the connection comes back
	denials *denials

	spill    chan Request // requests without a decision, to be reported; closed by Close, under mu
	overflow atomic.Int64 // those that found spill full, or could not be stored
	answered chan Outcome // those that the middleware has seen; like spill
	untold   atomic.Int64 // like overflow
	closing  context.Context
	close    context.CancelFunc // ends closing
	working  sync.WaitGroup     // the goroutines that Connect starts
}

// ticket is what tells a check from all others under way.
type ticket struct{ tenant, id string }

// waiter is a check under way. Checks of one request id share it.
type waiter struct {
	decision Decision
	ready    chan struct{} // closed once decision is set, or will not be
	askers   int           // under the client's mu
}

// Connect makes a client on a connection, which stays the caller's and should
// reconnect for ever: nats.MaxReconnects(-1). It starts goroutines, which end with
// Close. The error tells of a wrong Config, also of
// another number of shards than the limiters have, or of the connection.
func Connect(nc *nats.Conn, config Config) (*Client, error) {
	if config.Prefix == "" {
		config.Prefix = events.DefaultPrefix
	}
	if err := config.Validate(); err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(maxUnacked), jetstream.WithPublishAsyncTimeout(ackTimeout))
	if err != nil {
		return nil, fmt.Errorf("gateway %s: %w", config.Name, err)
	}
	c := &Client{
		config: config, names: events.Names{Prefix: config.Prefix}, nc: nc, js: js,
		waiting: make(map[ticket]*waiter), denials: newDenials(),
		spill: make(chan Request, spillSize), answered: make(chan Outcome, spillSize),
	}
	c.outbox = outbox{nc: nc, lost: c.lost}
	shards, err := c.findShards()
	if err != nil {
		return nil, fmt.Errorf("gateway %s: %w", config.Name, err)
	}
	c.policy.Store(policy.Default())
	c.back.Store(new(make(chan struct{})))
	c.closing, c.close = context.WithCancel(context.Background())
	if err := c.subscribe(); err != nil {
		return nil, errors.Join(fmt.Errorf("gateway %s: follow decisions: %w", config.Name, err), c.unsubscribe())
	}
	c.shards.Store(int32(shards))
	c.working.Go(c.awaitShards)
	c.working.Go(c.reportSpilled)
	c.working.Go(c.tellAnswered)
	if config.Tenant == "" { // a policy is of all tenants, and nothing for the eyes of one
		c.working.Go(c.followPolicy)
	}
	c.working.Go(c.reportDenials)
	connected := nc.StatusChanged(nats.CONNECTED)
	c.working.Go(func() { c.followConnection(connected) })
	return c, nil
}

// subscribe returns once the server knows of the subscriptions: it must before
// it sees a check.
func (c *Client) subscribe() error {
	takers := map[string]nats.MsgHandler{c.names.Decisions(cmp.Or(c.config.Tenant, "*"), c.config.Name): c.decided}
	if c.config.Tenant == "" {
		takers[c.names.Notices()] = c.noticed
	} else {
		takers[c.names.Notice(c.config.Tenant)], takers[c.names.NoticeToAll()] = c.noticed, c.noticed
	}
	for subject, take := range takers {
		sub, err := c.nc.Subscribe(subject, take)
		if err != nil {
			return err
		}
		c.subs = append(c.subs, sub)
	}
	return c.nc.Flush()
}

func (c *Client) unsubscribe() error {
	var faults []error
	for _, sub := range c.subs {
		if err := sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// Validate names every setting that is wrong.
func (c Config) Validate() error {
	var faults []error
	faults = append(faults, events.CheckToken("name", c.Name), events.CheckToken("prefix", c.Prefix))
	if c.Shards < 0 || c.Shards > events.MaxShards {
		faults = append(faults, &FieldError{Field: "shards", Value: fmt.Sprint(c.Shards), Want: fmt.Sprint("1 to ", events.MaxShards)})
	}
	if c.Tenant != "" {
		faults = append(faults, events.CheckToken("tenant", c.Tenant))
		if c.Shards == 0 {
			faults = append(faults, &FieldError{Field: "shards", Want: "how many the limiters have: a gateway of one tenant cannot find out"})
		}
	}
	if c.Timeout < 0 {
		faults = append(faults, &FieldError{Field: "timeout", Value: c.Timeout.String(), Want: "a positive duration"})
	}
	if c.OnError != "" && c.OnError != Allow && c.OnError != Deny {
		faults = append(faults, &FieldError{Field: "on_error", Value: string(c.OnError), Want: "allow or deny"})
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("gateway's config: %w", err)
	}
	return nil
}

// Name returns the gateway's name.
func (c *Client) Name() string { return c.config.Name }

// Overflow counts the requests without a decision that could not be recorded
// either.
func (c *Client) Overflow() int64 { return c.overflow.Load() }

// LostOutcomes counts the outcomes of requests behind the middleware that could
// not be told: 10,000 may wait while NATS is away.
func (c *Client) LostOutcomes() int64 { return c.untold.Load() }

// Check asks for a decision and waits for it. Without one in time it returns
// what the policy's rules say of the request, with ReasonTimeout, and the
// request is reported once that is possible. The error tells of a request that
// cannot be asked about (joined *FieldErrors), of ctx ended by its caller,
// whose request then is not reported as let through, or is ErrClosed.
//
// A request without an id gets one, and is denied without being asked about while
// a denial is remembered that it would get as well. Asking again with the same id
// gives the same decision and charges nothing; Check itself does so when the connection
// has come back, and after pauses of 100 ms to a second.
func (c *Client) Check(ctx context.Context, r Request) (Decision, error) {
	began, isNew := time.Now(), r.ID == ""
	if err := c.prepare(&r, began); err != nil {
		return Decision{}, err
	}
	if r.Verdict != "" {
		return Decision{}, &FieldError{Field: "verdict", Value: string(r.Verdict), Want: "nothing: a check has none yet"}
	}
	if isNew { // else it may be a repetition of one that was admitted
		if d, found := c.denials.find(c.policy.Load(), &r, began); found {
			return d, nil
		}
	}
	t := ticket{r.Tenant, r.ID}
	w, err := c.wait(t)
	if err != nil {
		return Decision{}, err
	}
	defer c.leave(t, w)
	check, err := c.outgoing(t, w, r)
	if err != nil {
		return c.undecided(r), nil
	}
	if err := c.await(ctx, check, cmp.Or(c.config.Timeout, c.policy.Load().Timeout)); err != nil {
		return Decision{}, err
	}
	select {
	case <-w.ready: // perhaps in the last moment
		if w.decision.Verdict != "" {
			if isNew {
				c.denials.remember(c.policy.Load(), &r, &w.decision, began, time.Now())
			}
			return w.decision, nil
		}
	default:
	}
	if ctx.Err() != nil { // the same moment: its caller is gone
		return Decision{}, ctx.Err()
	}
	return c.undecided(r), nil
}

// outgoing is a check as it travels; tenant and gateway are in the subject.
func (c *Client) outgoing(t ticket, w *waiter, r Request) (outgoing, error) {
	shard, err := c.shard(r.Tenant)
	if err != nil {
		return outgoing{}, err
	}
	subject := c.names.Check(shard, r.Tenant, c.config.Name)
	r.Tenant, r.Gateway = "", ""
	return outgoing{t, w, subject, events.AppendRequest(make([]byte, 0, 256), &r)}, nil
}

// lost ends the wait for the answer to a check that could not be sent.
func (c *Client) lost(m outgoing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting[m.ticket] == m.waiter {
		delete(c.waiting, m.ticket)
		close(m.waiter.ready)
	}
}

// own fills in the tenant, if the gateway has only one, and refuses another.
func (c *Client) own(tenant *string) error {
	if c.config.Tenant == "" {
		return nil
	}
	if *tenant != "" && *tenant != c.config.Tenant {
		return &FieldError{Field: "tenant", Value: *tenant, Want: c.config.Tenant + ", the gateway's only one"}
	}
	*tenant = c.config.Tenant
	return nil
}

// prepare fills in what the client knows now, and validates the request.
func (c *Client) prepare(r *Request, now time.Time) error {
	r.Gateway = c.config.Name
	if err := c.own(&r.Tenant); err != nil {
		return err
	}
	if r.ID == "" {
		r.ID = nuid.Next()
	}
	if r.Time.IsZero() {
		r.Time = now
	}
	r.APIKey = events.HashAPIKey(r.APIKey)
	return r.Validate()
}

func (c *Client) wait(t ticket) (*waiter, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	w, ok := c.waiting[t]
	if !ok {
		w = &waiter{ready: make(chan struct{})}
		c.waiting[t] = w
	}
	w.askers++
	return w, nil
}

// leave ends one wait; the last one to leave takes the ticket along.
func (c *Client) leave(t ticket, w *waiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.askers--; w.askers == 0 && c.waiting[t] == w {
		delete(c.waiting, t)
	}
}

// decided takes a decision from the gateway's subject to those who wait.
func (c *Client) decided(m *nats.Msg) {
	d, err := events.DecodeDecision(m.Data)
	if err != nil {
		return // not from a limiter; those who wait time out
	}
	// <prefix>.decision.<verdict>.<tenant>.<gateway>
	rest, _ := strings.CutSuffix(m.Subject, "."+c.config.Name)
	tenant := rest[strings.LastIndexByte(rest, '.')+1:]

	c.mu.Lock()
	defer c.mu.Unlock()
	t := ticket{tenant, d.ID}
	if w, ok := c.waiting[t]; ok {
		delete(c.waiting, t)
		w.decision = d
		close(w.ready)
	}
}

// undecided gives up on a decision: the rules that would charge the request say
// what becomes of it, and it is kept to be reported.
func (c *Client) undecided(r Request) Decision {
	now := time.Now()
	rules := c.policy.Load()
	var m policy.Matches
	rules.Match(&r, now, &m)
	r.Verdict, r.Reason = m.OnError(cmp.Or(c.config.OnError, rules.OnError)), ReasonTimeout
	c.keep(r)
	return Decision{
		ID: r.ID, Verdict: r.Verdict, Reason: r.Reason, Cost: r.Units(),
		Policy: rules.Revision, DecidedAt: now.UTC().Truncate(time.Microsecond),
	}
}

// Close waits, for a few seconds at most, until what has no decision or was
// denied locally is reported, and the outcomes are told. Checks under way that
// have no decision by then are only counted.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return ErrClosed
	}
	c.closed = true
	close(c.spill)
	close(c.answered)
	c.close()
	c.mu.Unlock()
	c.working.Wait()
	if err := c.unsubscribe(); err != nil {
		return fmt.Errorf("gateway %s: %w", c.config.Name, err)
	}
	return nil
}
