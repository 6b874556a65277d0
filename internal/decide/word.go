package decide

import (
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/window"
)

// word puts into an item's decision the rule that bound: of a denial the one
// that takes longest to have room, else the one with the least left; and the
// shadow rules that would have denied. A record lists all charges unless the
// decision says it all.
func (d *Decider) word(it *item) {
	r := it.record
	for i := range it.asked {
		it.outlive(i)
	}
	if it.enforced > 0 {
		it.wordBound()
	}
	for i := it.enforced; i < len(it.asked); i++ {
		if !it.asked[i].Fits {
			r.Decision.Shadow = append(r.Decision.Shadow, it.charges[i].Rule.Name)
		}
	}
	if len(it.asked) == 1 && it.enforced == 1 && it.asked[0].Buckets == 0 && !d.counted(it, 0) {
		return
	}
	r.Charges = make([]events.Charge, len(it.asked))
	for i := range it.asked {
		c, m := &it.asked[i], it.charges[i]
		r.Charges[i] = events.Charge{
			Rule: m.Rule.Name, Key: m.Key, Limit: c.Limit, WindowMS: c.Window.Milliseconds(), Buckets: c.Buckets,
			Cost: c.Cost, Remaining: c.Remaining, Denied: !c.Fits, Charged: d.counted(it, i),
		}
		if !c.Fits {
			r.Charges[i].RetryAfterMS = ceilMS(c.RetryAfter)
		}
		if i >= it.enforced {
			r.Charges[i].Mode = events.ModeShadow
		}
	}
}

// counted tells whether a charge was made although not all of its mode were.
func (d *Decider) counted(it *item, i int) bool {
	asked := &d.batch[it.at]
	if it.enforced > 0 && i >= it.enforced {
		asked = &d.batch[it.at+1]
	}
	return it.asked[i].Charged > 0 && !asked.Fill && !asked.Admitted
}

// outlive makes the end of an override the time to come back, of a charge that
// has no room until then: from that instant on another limit is asked.
func (it *item) outlive(i int) {
	c, until := &it.asked[i], it.charges[i].Until
	if c.Fits || until.IsZero() {
		return
	}
	if left := until.Sub(it.record.Decision.DecidedAt); c.RetryAfter == window.Never || left < c.RetryAfter {
		c.RetryAfter = left
	}
}

func (it *item) wordBound() {
	bound := 0
	for i := range it.enforced {
		if tighter(&it.asked[i], &it.asked[bound]) {
			bound = i
		}
	}
	c, m := &it.asked[bound], it.charges[bound]
	dec := &it.record.Decision
	dec.Rule, dec.Key = m.Rule.Name, m.Key
	dec.Limit, dec.WindowMS = c.Limit, c.Window.Milliseconds()
	dec.Remaining, dec.ResetMS = c.Remaining, ceilMS(c.Reset)
	dec.Cost = c.Cost
	wait, violated := c.RetryAfter, 0
	for i := range it.enforced { // one that had room may be full by now, of denied requests
		if wait != window.Never {
			wait = max(wait, it.asked[i].RetryAfter)
		}
		if !it.asked[i].Fits {
			violated++
		}
	}
	for i := range it.enforced {
		if violated > 1 && !it.asked[i].Fits {
			dec.Violated = append(dec.Violated, it.charges[i].Rule.Name)
		}
	}
	dec.RetryAfterMS = ceilMS(wait)
}

// nameLocal puts into the decision of a local denial the rule that its gateway
// names, with the key that it counts the request by.
func (d *Decider) nameLocal(it *item, now time.Time) {
	r := it.record
	if r.Request.Rule == "" {
		return
	}
	it.own.Live = d.live
	if c, ok := d.policy.Charge(r.Request.Rule, &r.Request, now, &it.own); ok {
		dec := &r.Decision
		dec.Rule, dec.Key, dec.Limit, dec.WindowMS = c.Rule.Name, c.Key, c.Limit, c.Window.Milliseconds()
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
