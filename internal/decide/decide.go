// Package decide turns requests into decisions: it matches them against the
// policy, charges the windows of the rules that apply, and words what came of
// it. The limiter and the offline backtest both decide here. It is pure: time
// is an argument.
package decide

import (
	"context"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/window"
)

// Windows is where a decider makes its charges: a store of package window.
type Windows interface {
	// Decide decides the requests of a batch in order and charges those that
	// are admitted. After an error those are decided whose At is set.
	Decide(ctx context.Context, now time.Time, batch []window.Request) error
	// Reset forgets what a key was charged.
	Reset(ctx context.Context, key []byte) error
}

// Decider decides requests, a batch at a time: Check, Report and Matched add to
// the batch, and Decide decides it. It is for one goroutine.
type Decider struct {
	policy  *policy.Policy
	windows Windows
	spans   policy.Spans // for how long the windows have been kept

	overrides map[policy.LiveKey]events.Control // by hand
	live      policy.Live                       // the same, as the policy wants them

	items []*item          // of the batch under way; those beyond it are kept for their memory
	batch []window.Request // of all items
	keys  []byte           // the windows' names
}

// item is a request that is being decided.
type item struct {
	record  *events.Record
	act     act
	matches *policy.Matches // own, or a caller's
	own     policy.Matches

	charges  []*policy.Charge // the enforced ones first
	enforced int              // how many of them
	asked    []window.Charge  // parallel to charges
	at       int              // of the batch's requests its first: of what is enforced, then of what is not
}

// act says what an item is, and then what is to be done with it.
type act int

const (
	check   act = iota
	matched     // a check whose matches are known
	report      // as its gateway's verdict says, if it has one
	charged     // a report that charges nothing: of what is charged already, or denied
	fill        // a report that charges as far as there is room
)

// New returns a decider over a policy that charges the given windows.
func New(p *policy.Policy, w Windows) *Decider {
	d := &Decider{policy: p, windows: w}
	d.spans.Follow(p)
	return d
}

// Check adds a request that nobody has acted on yet. The record is the
// caller's; Decide fills in what is missing of it.
func (d *Decider) Check(r *events.Record) { d.add(r, check) }

// Matched is Check of a request that is known to match what m says.
func (d *Decider) Matched(m *policy.Matches, r *events.Record) { d.add(r, matched).matches = m }

// Report adds a request that reached its gateway at Request.Time:
//
//   - one without a verdict is decided like a check, but if it is older than the
//     windows that it would charge it charges nothing;
//   - one that the gateway denied itself charges nothing;
//   - one that the gateway let through without a decision is charged as far as
//     there is room, unless it was decided after all and is charged already.
//
// In what a gateway did shadow rules have no say, nor those that count denied
// requests.
func (d *Decider) Report(r *events.Record, isCharged bool) {
	as := report
	if isCharged && r.Request.Verdict != "" {
		as = charged
	}
	d.add(r, as)
}

func (d *Decider) add(r *events.Record, as act) *item {
	if len(d.items) < cap(d.items) {
		d.items = d.items[:len(d.items)+1]
	} else {
		d.items = append(d.items, nil)
	}
	last := len(d.items) - 1
	if d.items[last] == nil {
		d.items[last] = new(item)
	}
	it := d.items[last]
	it.record, it.act, it.matches = r, as, &it.own
	return it
}

// Decide decides what was added, in order, at an instant or by the windows' own
// clock. When the windows fail, the requests that would have been charged are
// decided by what their rules say on errors, with ReasonUnavailable, and charge
// nothing; the error is the windows'.
func (d *Decider) Decide(ctx context.Context, now time.Time) error {
	d.batch, d.keys = d.batch[:0], d.keys[:0]
	for i := range d.items {
		d.prepare(now, d.items[i])
	}
	var err error
	if len(d.batch) > 0 {
		err = d.windows.Decide(ctx, now, d.batch)
	}
	for i := range d.items {
		d.conclude(d.items[i])
	}
	d.items = d.items[:0]
	return err
}

// prepare finds out what an item charges.
func (d *Decider) prepare(now time.Time, it *item) {
	r := it.record
	it.charges, it.asked, it.enforced = it.charges[:0], it.asked[:0], 0
	r.Decision = events.Decision{
		ID: r.Request.ID, Verdict: events.Allow, Cost: r.Request.Units(), Policy: d.policy.Revision, DecidedAt: now,
	}
	acts := r.Request.Verdict
	if it.act == report && acts == events.Deny {
		it.act = charged
	}
	switch {
	case it.act == charged:
		r.Decision.Verdict, r.Decision.Reason = acted(&r.Request)
		r.Decision.Cost = 0
		d.nameLocal(it, now)
		return
	case it.act != matched:
		it.matches.Live = d.live
		d.policy.Match(&r.Request, now, it.matches)
	}
	r.Decision.Reason = it.matches.Reason
	switch {
	case it.act == report && acts == "" && late(now, &r.Request, it.matches):
		r.Decision.Reason = events.ReasonLate
	case it.act == report && acts != "":
		it.act = fill
		r.Decision.Cost = 0
		r.Decision.Verdict, r.Decision.Reason = acted(&r.Request)
		d.ask(it, it.matches.Charges, nil)
	default:
		d.ask(it, it.matches.Charges, it.matches.Shadow)
	}
}

// acted returns the verdict that a gateway gave itself, and why.
func acted(r *events.Request) (events.Verdict, events.Reason) {
	switch {
	case r.Reason != "":
		return r.Verdict, r.Reason
	case r.Verdict == events.Deny:
		return r.Verdict, events.ReasonLocal
	}
	return r.Verdict, events.ReasonTimeout
}

// late tells whether a report is older than every window it would charge.
func late(now time.Time, r *events.Request, m *policy.Matches) bool {
	if r.Time.IsZero() {
		return false
	}
	age := now.Sub(r.Time)
	for _, list := range [][]policy.Charge{m.Charges, m.Shadow} {
		for i := range list {
			if age <= list[i].Window {
				return false
			}
		}
	}
	return len(m.Charges)+len(m.Shadow) > 0
}

// ask adds an item's charges to the batch.
func (d *Decider) ask(it *item, enforced, shadow []policy.Charge) {
	it.enforced, it.at = len(enforced), len(d.batch)
	for _, list := range [][]policy.Charge{enforced, shadow} {
		for i := range list {
			c := &list[i]
			from := len(d.keys)
			d.keys = appendKey(d.keys, it.record.Request.Tenant, c.Rule.Name, c.Key)
			it.charges = append(it.charges, c)
			it.asked = append(it.asked, window.Charge{
				Key: d.keys[from:], Cost: c.Cost, Limit: c.Limit, Window: c.Window, Keep: c.Keep,
				Buckets: c.Rule.Buckets, CountDenied: c.Rule.CountDenied,
			})
		}
	}
	if it.enforced > 0 {
		d.batch = append(d.batch, window.Request{Charges: it.asked[:it.enforced], Fill: it.act == fill})
	}
	if it.enforced < len(it.asked) {
		d.batch = append(d.batch, window.Request{Charges: it.asked[it.enforced:]})
	}
}

// conclude turns what became of an item's charges into a decision.
func (d *Decider) conclude(it *item) {
	if len(it.asked) == 0 {
		return
	}
	r := it.record
	asked := d.batch[it.at]
	if asked.At.IsZero() {
		if it.enforced > 0 && it.act != fill { // else nothing is enforced, or its gateway has decided
			r.Decision.Verdict, r.Decision.Reason = it.matches.OnError(d.policy.OnError), events.ReasonUnavailable
		}
		return
	}
	r.Decision.DecidedAt = asked.At
	if it.enforced > 0 && it.enforced < len(it.asked) && d.batch[it.at+1].At.IsZero() {
		it.asked = it.asked[:it.enforced] // the others were not asked
	}
	if it.act == fill {
		for i := range it.asked {
			c := &it.asked[i]
			c.Cost, c.Fits, c.RetryAfter = c.Charged, true, 0 // it was let through
		}
	} else if it.enforced > 0 && !asked.Admitted {
		r.Decision.Verdict = events.Deny
	}
	d.word(it)
}

// appendKey appends a window's name. None of its parts holds a NUL.
func appendKey(dst []byte, tenant, rule, key string) []byte {
	dst = append(dst, tenant...)
	dst = append(dst, 0)
	dst = append(dst, rule...)
	dst = append(dst, 0)
	return append(dst, key...)
}
