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

	matches policy.Matches  // of the request under way, like the next three
	charges []window.Charge // parallel to matches.Charges
	batch   [1]window.Request
	keys    []byte // the windows' names
}

// New returns a decider over a policy, with empty windows.
func New(p *policy.Policy) *Decider {
	return &Decider{policy: p, windows: window.NewMemory()}
}

// Windows counts the windows that are in memory.
func (d *Decider) Windows() int { return d.windows.Len() }

// Sweep frees windows that have run empty, looking at budget of them.
func (d *Decider) Sweep(now time.Time, budget int) { d.windows.Sweep(now, budget) }

// Check decides r.Request, which nobody has acted on yet, and fills in the
// rest of the record.
func (d *Decider) Check(now time.Time, r *events.Record) {
	d.match(now, r)
	if len(d.charges) == 0 {
		return
	}
	d.charge(now, false)
	if !d.batch[0].Admitted {
		r.Decision.Verdict = events.Deny
	}
	d.word(r)
}

// Report decides r.Request, which reached its gateway at Request.Time, and
// fills in the rest of the record:
//
//   - one without a verdict is decided like a check, but if it is older than the
//     windows that it would charge it charges nothing;
//   - one that the gateway denied itself charges nothing;
//   - one that the gateway let through without a decision is charged as far as
//     there is room, unless it was decided after all and is charged already.
func (d *Decider) Report(now time.Time, r *events.Record, charged bool) {
	switch {
	case r.Request.Verdict == "":
		if d.late(now, &r.Request) {
			r.Decision = d.decision(now, r)
			r.Decision.Reason = events.ReasonLate
			return
		}
		d.Check(now, r)
	case r.Request.Verdict == events.Deny || charged:
		r.Decision = d.decision(now, r)
		r.Decision.Verdict, r.Decision.Reason = acted(&r.Request)
		r.Decision.Cost = 0
	default:
		d.match(now, r)
		d.charge(now, true)
		for i := range d.charges {
			c := &d.charges[i]
			c.Cost, c.Fits, c.RetryAfter = c.Charged, true, 0 // it was let through
		}
		r.Decision.Cost = 0
		if len(d.charges) > 0 {
			d.word(r)
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

// Replay makes the charges that a record of the journal says were made, so
// that windows are again what they were.
func (d *Decider) Replay(r *events.Record) {
	if r.Refused != nil || r.Decision.Verdict != events.Allow || r.Decision.Rule == "" {
		return
	}
	if len(r.Charges) == 0 {
		d.admit(r, r.Decision.Rule, r.Decision.Key, r.Decision.Cost, r.Decision.WindowMS)
	}
	for i := range r.Charges {
		c := &r.Charges[i]
		d.admit(r, c.Rule, c.Key, c.Cost, c.WindowMS)
	}
}

// admit replays one charge. What the rule's window is today decides how long
// it is kept; a rule that is gone keeps its own.
func (d *Decider) admit(r *events.Record, rule, key string, cost, windowMS int64) {
	length := time.Duration(windowMS) * time.Millisecond
	if today := d.policy.Rule(r.Request.Tenant, rule); today != nil {
		length = max(length, today.Window)
	}
	d.keys = appendKey(d.keys[:0], r.Request.Tenant, rule, key)
	d.windows.Admit(r.Decision.DecidedAt, window.Charge{Key: d.keys, Cost: cost, Window: length})
}

// late tells whether a report is older than every window it would charge.
func (d *Decider) late(now time.Time, r *events.Request) bool {
	if r.Time.IsZero() {
		return false
	}
	d.policy.Match(r, &d.matches)
	age := now.Sub(r.Time)
	for i := range d.matches.Charges {
		if age <= d.matches.Charges[i].Rule.Window {
			return false
		}
	}
	return len(d.matches.Charges) > 0
}

// match finds the charges of a request and begins its decision: an allow that
// no rule bound.
func (d *Decider) match(now time.Time, r *events.Record) {
	d.policy.Match(&r.Request, &d.matches)
	r.Decision = d.decision(now, r)
	r.Decision.Reason = d.matches.Reason
	d.keys, d.charges = d.keys[:0], d.charges[:0]
	for i := range d.matches.Charges {
		m := &d.matches.Charges[i]
		from := len(d.keys)
		d.keys = appendKey(d.keys, r.Request.Tenant, m.Rule.Name, m.Key)
		d.charges = append(d.charges, window.Charge{
			Key: d.keys[from:], Cost: m.Cost, Limit: m.Rule.Limit, Window: m.Rule.Window,
		})
	}
}

// charge decides the charges that match found, or fills the windows with them.
func (d *Decider) charge(now time.Time, fill bool) {
	d.batch[0] = window.Request{Charges: d.charges, Fill: fill}
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

// word puts into the decision the rule that bound: of a denial the one that
// takes longest to have room, else the one with the least left. A record of
// several charges lists them all.
func (d *Decider) word(r *events.Record) {
	bound := 0
	for i := range d.charges {
		if tighter(&d.charges[i], &d.charges[bound]) {
			bound = i
		}
	}
	c, m := &d.charges[bound], &d.matches.Charges[bound]
	dec := &r.Decision
	dec.Rule, dec.Key = m.Rule.Name, m.Key
	dec.Limit, dec.WindowMS = c.Limit, c.Window.Milliseconds()
	dec.Remaining, dec.ResetMS = c.Remaining, ceilMS(c.Reset)
	dec.RetryAfterMS, dec.Cost = ceilMS(c.RetryAfter), c.Cost
	if len(d.charges) == 1 {
		return
	}
	r.Charges = make([]events.Charge, len(d.charges))
	for i := range d.charges {
		c, m := &d.charges[i], &d.matches.Charges[i]
		r.Charges[i] = events.Charge{
			Rule: m.Rule.Name, Key: m.Key, Limit: c.Limit, WindowMS: c.Window.Milliseconds(),
			Cost: c.Cost, Remaining: c.Remaining, RetryAfterMS: ceilMS(c.RetryAfter), Denied: !c.Fits,
		}
	}
}

// tighter tells whether a binds a request more than b.
func tighter(a, b *window.Charge) bool {
	if a.Fits != b.Fits {
		return !a.Fits
	}
	if !a.Fits {
		return b.RetryAfter != window.Never && (a.RetryAfter == window.Never || a.RetryAfter > b.RetryAfter)
	}
	return a.Remaining < b.Remaining
}

// ceilMS rounds up, so that whoever waits that long has waited long enough;
// Never is 0, as on the wire.
func ceilMS(d time.Duration) int64 {
	return int64((max(d, 0) + time.Millisecond - 1) / time.Millisecond)
}
