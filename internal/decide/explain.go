package decide

import (
	"context"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/window"
)

// Explain says what Check would decide of a request now, and what each rule has
// to do with it. It charges nothing. What a denied request would add to the
// windows of rules that count denied ones is left out of account: they are told
// of as they are. The error is the store's of the windows.
func (d *Decider) Explain(ctx context.Context, now time.Time, r *events.Request) (events.Explanation, error) {
	x := events.Explanation{Rules: []events.ExplainedRule{}}
	record := events.Record{Request: *r}
	apart := Decider{policy: d.policy, windows: d.windows, live: d.live} // the batch under way is left alone
	it := apart.add(&record, check)
	apart.prepare(now, it)
	used, err := apart.peek(ctx, now, it)
	if err != nil {
		return x, err
	}
	next := [2]int{0, it.enforced} // the next charge of the enforced rules, and of the others
	for _, f := range d.policy.Explain(r, now, d.live) {
		rule := events.ExplainedRule{Rule: f.Rule.Name, Why: f.Why}
		mode := 0
		if f.Rule.Shadow {
			mode, rule.Mode = 1, events.ModeShadow
		}
		if f.Why == "" {
			i := next[mode]
			next[mode]++
			rule.Charge = it.explained(&f, i, used[i])
		}
		x.Rules = append(x.Rules, rule)
	}
	apart.pretend()
	apart.conclude(it)
	x.Decision = record.Decision
	return x, nil
}

// peek fills in what the windows say of each charge of an item before any is
// made, and returns the units that each key has used. Nothing is charged, so two
// questions are asked of each key: how much is used, and whether there is room
// for the cost.
func (d *Decider) peek(ctx context.Context, now time.Time, it *item) (used []int64, err error) {
	if len(it.asked) == 0 {
		return nil, nil
	}
	used = make([]int64, len(it.asked))
	batch := make([]window.Request, 2*len(it.asked))
	for i := range it.asked {
		use, room := it.asked[i], it.asked[i]
		use.Cost, use.CountDenied, use.Limit = 0, false, window.MaxLimit
		room.Cost, room.CountDenied, room.Limit = 0, false, max(0, room.Limit-room.Cost)
		batch[2*i].Charges, batch[2*i+1].Charges = []window.Charge{use}, []window.Charge{room}
	}
	if err := d.windows.Decide(ctx, now, batch); err != nil {
		return nil, err
	}
	for i := range it.asked {
		c, use, room := &it.asked[i], &batch[2*i].Charges[0], &batch[2*i+1].Charges[0]
		used[i] = window.MaxLimit - use.Remaining
		c.Reset, c.Remaining = use.Reset, max(0, c.Limit-used[i])
		if c.Fits, c.RetryAfter = room.Fits, room.RetryAfter; c.Cost > c.Limit {
			c.Fits, c.RetryAfter = false, window.Never
		}
	}
	for i := range d.batch {
		d.batch[i].At = batch[0].At
	}
	it.record.Decision.DecidedAt = batch[0].At
	return used, nil
}

// explained says what there is of the i-th charge's window.
func (it *item) explained(f *policy.Finding, i int, used int64) *events.ExplainedCharge {
	it.outlive(i)
	c := &it.asked[i]
	return &events.ExplainedCharge{
		Key: f.Key, Limit: c.Limit, WindowMS: c.Window.Milliseconds(), Buckets: c.Buckets, Cost: c.Cost, Used: used,
		Remaining: c.Remaining, ResetMS: ceilMS(c.Reset), Passes: c.Fits, RetryAfterMS: ceilMS(c.RetryAfter),
		Override: f.Override, Until: f.Until,
	}
}

// pretend turns what was peeked at into what the windows would have said, had
// they made the charges.
func (d *Decider) pretend() {
	for i := range d.batch {
		b := &d.batch[i]
		b.Admitted = true
		for j := range b.Charges {
			b.Admitted = b.Admitted && b.Charges[j].Fits
		}
		for j := range b.Charges {
			if b.Admitted {
				b.Charges[j].Settle(b.At)
			}
		}
	}
}
