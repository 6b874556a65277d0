// Package decide turns requests into decisions: it matches a request against
// the policy, charges the windows of the rules that apply, and words what came
// of it. The limiter and the offline backtest both decide here. It is pure:
// time is an argument.
package decide

import (
	"context"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/window"
)

// Decider decides requests one after another. It is for one goroutine.
type Decider struct {
	policy  *policy.Policy
	windows *window.Memory

	matches  policy.Matches    // of the request under way, like what follows
	charges  []*policy.Charge  // the enforced ones first
	enforced int               // how many of them
	asked    []window.Charge   // parallel to charges
	batch    [2]window.Request // of what is enforced, and of what is not
	keys     []byte            // the windows' names
}

// New returns a decider over a policy, with empty windows.
func New(p *policy.Policy) *Decider {
	return &Decider{policy: p, windows: window.NewMemory()}
}

// Bound sets how many bytes the windows may take; see window.Memory.Bound.
func (d *Decider) Bound(bytes int64) { d.windows.Bound(bytes) }

// Usage tells what the windows take, and what had to make room.
func (d *Decider) Usage() window.Usage { return d.windows.Usage() }

// Sweep frees windows that have run empty, looking at budget of them.
func (d *Decider) Sweep(now time.Time, budget int) { d.windows.Sweep(now, budget) }

// Check decides r.Request, which nobody has acted on yet, and fills in the
// rest of the record.
func (d *Decider) Check(now time.Time, r *events.Record) {
	d.policy.Match(&r.Request, now, &d.matches)
	d.CheckMatched(now, &d.matches, r)
}

// CheckMatched is Check of a request that is known to match what m says.
func (d *Decider) CheckMatched(now time.Time, m *policy.Matches, r *events.Record) {
	r.Decision = d.decision(now, r)
	r.Decision.Reason = m.Reason
	d.ask(r.Request.Tenant, m.Charges, m.Shadow)
	if len(d.asked) == 0 {
		return
	}
	d.charge(now, false)
	if !d.batch[0].Admitted {
		r.Decision.Verdict = events.Deny
	}
	d.word(now, r)
}

// Report decides r.Request, which reached its gateway at Request.Time, and
// fills in the rest of the record:
//
//   - one without a verdict is decided like a check, but if it is older than the
//     windows that it would charge it charges nothing;
//   - one that the gateway denied itself charges nothing;
//   - one that the gateway let through without a decision is charged as far as
//     there is room, unless it was decided after all and is charged already.
//
// In what a gateway did shadow rules have no say, nor those that count denied
// requests.
func (d *Decider) Report(now time.Time, r *events.Record, charged bool) {
	switch {
	case r.Request.Verdict == "":
		d.policy.Match(&r.Request, now, &d.matches)
		if d.late(now, &r.Request) {
			r.Decision = d.decision(now, r)
			r.Decision.Reason = events.ReasonLate
			return
		}
		d.CheckMatched(now, &d.matches, r)
	case r.Request.Verdict == events.Deny || charged:
		r.Decision = d.decision(now, r)
		r.Decision.Verdict, r.Decision.Reason = acted(&r.Request)
		r.Decision.Cost = 0
	default:
		d.policy.Match(&r.Request, now, &d.matches)
		r.Decision = d.decision(now, r)
		d.ask(r.Request.Tenant, d.matches.Charges, nil)
		d.charge(now, true)
		for i := range d.asked {
			c := &d.asked[i]
			c.Cost, c.Fits, c.RetryAfter = c.Charged, true, 0 // it was let through
		}
		r.Decision.Cost = 0
		if len(d.asked) > 0 {
			d.word(now, r)
		}
		r.Decision.Verdict, r.Decision.Reason = acted(&r.Request)
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
func (d *Decider) late(now time.Time, r *events.Request) bool {
	if r.Time.IsZero() {
		return false
	}
	age := now.Sub(r.Time)
	for _, list := range [][]policy.Charge{d.matches.Charges, d.matches.Shadow} {
		for i := range list {
			if age <= list[i].Window {
				return false
			}
		}
	}
	return len(d.matches.Charges)+len(d.matches.Shadow) > 0
}

// ask prepares charges for the windows.
func (d *Decider) ask(tenant string, enforced, shadow []policy.Charge) {
	d.keys, d.charges, d.asked, d.enforced = d.keys[:0], d.charges[:0], d.asked[:0], len(enforced)
	for _, list := range [][]policy.Charge{enforced, shadow} {
		for i := range list {
			c := &list[i]
			from := len(d.keys)
			d.keys = appendKey(d.keys, tenant, c.Rule.Name, c.Key)
			d.charges = append(d.charges, c)
			d.asked = append(d.asked, window.Charge{
				Key: d.keys[from:], Cost: c.Cost, Limit: c.Limit, Window: c.Window, Keep: c.Keep,
				Buckets: c.Rule.Buckets, CountDenied: c.Rule.CountDenied,
			})
		}
	}
}

// charge decides the charges that are asked for, or fills the windows with them.
func (d *Decider) charge(now time.Time, fill bool) {
	d.batch[0] = window.Request{Charges: d.asked[:d.enforced], Fill: fill}
	d.batch[1] = window.Request{Charges: d.asked[d.enforced:]}
	_ = d.windows.Decide(context.Background(), now, d.batch[:]) // memory does not fail
}

func (d *Decider) decision(now time.Time, r *events.Record) events.Decision {
	return events.Decision{
		ID: r.Request.ID, Verdict: events.Allow, Cost: r.Request.Units(),
		Policy: d.policy.Revision, DecidedAt: now,
	}
}

// appendKey appends a window's name. None of its parts holds a NUL.
func appendKey(dst []byte, tenant, rule, key string) []byte {
	dst = append(dst, tenant...)
	dst = append(dst, 0)
	dst = append(dst, rule...)
	dst = append(dst, 0)
	return append(dst, key...)
}
