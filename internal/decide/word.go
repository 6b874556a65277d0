package decide

import (
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/window"
)

// word puts into the decision the rule that bound: of a denial the one that
// takes longest to have room, else the one with the least left; and the shadow
// rules that would have denied. A record lists all charges unless the decision
// says it all.
func (d *Decider) word(now time.Time, r *events.Record) {
	for i := range d.asked {
		d.outlive(now, i)
	}
	if d.enforced > 0 {
		d.wordBound(&r.Decision)
	}
	for i := d.enforced; i < len(d.asked); i++ {
		if !d.asked[i].Fits {
			r.Decision.Shadow = append(r.Decision.Shadow, d.charges[i].Rule.Name)
		}
	}
	if len(d.asked) == 1 && d.enforced == 1 && d.plain(0) {
		return
	}
	r.Charges = make([]events.Charge, len(d.asked))
	for i := range d.asked {
		c, m := &d.asked[i], d.charges[i]
		r.Charges[i] = events.Charge{
			Rule: m.Rule.Name, Key: m.Key, Limit: c.Limit, WindowMS: c.Window.Milliseconds(), Buckets: c.Buckets,
			Cost: c.Cost, Remaining: c.Remaining, Denied: !c.Fits, Charged: d.counted(i),
		}
		if !c.Fits {
			r.Charges[i].RetryAfterMS = ceilMS(c.RetryAfter)
		}
		if i >= d.enforced {
			r.Charges[i].Mode = events.ModeShadow
		}
	}
}

// plain tells whether a decision says all that there is of a charge.
func (d *Decider) plain(i int) bool { return d.asked[i].Buckets == 0 && !d.counted(i) }

// counted tells whether a charge was made although not all of its mode were.
func (d *Decider) counted(i int) bool {
	mode := 0
	if i >= d.enforced {
		mode = 1
	}
	return d.asked[i].Charged > 0 && !d.batch[mode].Fill && !d.batch[mode].Admitted
}

// outlive makes the end of an override the time to come back, of a charge that
// never fits under it.
func (d *Decider) outlive(now time.Time, i int) {
	c, until := &d.asked[i], d.charges[i].Until
	if !c.Fits && c.RetryAfter == window.Never && !until.IsZero() {
		c.RetryAfter = until.Sub(now)
	}
}

func (d *Decider) wordBound(dec *events.Decision) {
	bound := 0
	for i := range d.enforced {
		if tighter(&d.asked[i], &d.asked[bound]) {
			bound = i
		}
	}
	c, m := &d.asked[bound], d.charges[bound]
	dec.Rule, dec.Key = m.Rule.Name, m.Key
	dec.Limit, dec.WindowMS = c.Limit, c.Window.Milliseconds()
	dec.Remaining, dec.ResetMS = c.Remaining, ceilMS(c.Reset)
	dec.Cost = c.Cost
	wait := c.RetryAfter
	for i := range d.enforced { // one that had room may be full by now, of denied requests
		if wait != window.Never {
			wait = max(wait, d.asked[i].RetryAfter)
		}
	}
	dec.RetryAfterMS = ceilMS(wait)
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
