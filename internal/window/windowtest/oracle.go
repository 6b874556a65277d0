package windowtest

import (
	"slices"
	"time"

	"github.com/weirhq/weir/internal/window"
)

// oracle decides by the contract's words: it keeps every admission there ever
// was and counts them one by one.
type oracle struct {
	now  int64
	keys map[string]*history
}

type history struct {
	keep       int64 // the longest window named since the key was last empty, microseconds
	admissions []admission
}

// admission counts at an instant; with buckets that is later than it was made.
type admission struct{ at, units int64 }

func newOracle() *oracle { return &oracle{now: -1 << 63, keys: map[string]*history{}} }

func (o *oracle) advance(now time.Time) { o.now = max(o.now, now.UnixMicro()) }

// touch forgets what is past the longest window, and notes those of charges
// with the same key.
func (o *oracle) touch(key []byte, spans ...time.Duration) {
	h := o.keys[string(key)]
	if h == nil {
		h = &history{}
		o.keys[string(key)] = h
	}
	var left []admission
	for _, a := range h.admissions {
		if a.at > o.now-h.keep {
			left = append(left, a)
		}
	}
	if h.admissions = left; len(left) == 0 {
		h.keep = 0
	}
	for _, span := range spans {
		h.keep = max(h.keep, span.Microseconds())
	}
}

// used returns the units in the window that ends at an instant.
func (h *history) used(at, span int64) (units int64) {
	for _, a := range h.admissions {
		if a.at > at-span {
			units += a.units
		}
	}
	return units
}

// stamp returns the last instant of the part of time that an instant is in.
func stamp(at int64, c *window.Charge) int64 {
	if c.Buckets == 0 {
		return at
	}
	part := ceil(c.Window.Microseconds(), int64(c.Buckets))
	return ceil(at+1, part)*part - 1
}

func ceil(a, b int64) int64 { return (a + b - 1) / b }

func (o *oracle) decide(req *window.Request) {
	if req.Fill {
		o.fill(req)
		return
	}
	spans := map[string][]time.Duration{}
	for _, c := range req.Charges {
		spans[string(c.Key)] = append(spans[string(c.Key)], max(c.Window, c.Keep))
	}
	for key := range spans {
		o.touch([]byte(key), spans[key]...)
	}
	req.At, req.Admitted = time.UnixMicro(o.now).UTC(), true
	for i := range req.Charges {
		o.judge(&req.Charges[i], asked(req.Charges, i))
		req.Admitted = req.Admitted && req.Charges[i].Fits
	}
	if !req.Admitted {
		o.countDenied(req)
		return
	}
	for i := range req.Charges {
		o.add(o.latest(req.Charges, i), &req.Charges[i], req.Charges[i].Cost)
	}
	for i := range req.Charges {
		o.settle(&req.Charges[i])
	}
}

// countDenied makes the charges that are made though the request was denied,
// after those units that have no say any more are dropped.
func (o *oracle) countDenied(req *window.Request) {
	for i := range req.Charges {
		c := &req.Charges[i]
		units := min(c.Cost, c.Limit)
		if !c.CountDenied || units == 0 {
			continue
		}
		h := o.keys[string(c.Key)]
		for excess := h.used(0, 1<<62) + units - c.Limit; excess > 0; {
			gone := min(excess, h.admissions[0].units)
			excess -= gone
			if h.admissions[0].units -= gone; h.admissions[0].units == 0 {
				h.admissions = h.admissions[1:]
			}
		}
		o.add(o.latest(req.Charges, i), c, units)
	}
	for i := range req.Charges {
		if c := &req.Charges[i]; c.CountDenied {
			fits, units := c.Fits, c.Charged
			o.judge(c, asked(req.Charges, i))
			c.Fits, c.Charged = fits, units
		}
	}
}

// latest returns when the charges with the key of one count.
func (o *oracle) latest(charges []window.Charge, one int) int64 {
	at := o.now
	for i := range charges {
		if string(charges[i].Key) == string(charges[one].Key) {
			at = max(at, stamp(o.now, &charges[i]))
		}
	}
	return at
}

// asked returns what a request asks of the key of one of its charges.
func asked(charges []window.Charge, one int) (units int64) {
	for _, c := range charges {
		if string(c.Key) == string(charges[one].Key) {
			units += c.Cost
		}
	}
	return units
}

// judge finds RetryAfter by trying every instant at which something leaves.
func (o *oracle) judge(c *window.Charge, units int64) {
	h, span := o.keys[string(c.Key)], c.Window.Microseconds()
	c.Fits, c.RetryAfter = h.used(o.now, span)+units <= c.Limit, 0
	c.Charged = 0
	o.settle(c)
	if c.Fits {
		return
	}
	c.RetryAfter = window.Never
	for _, a := range h.admissions { // in order of time
		at := a.at + span
		if at > o.now && h.used(at, span)+units <= c.Limit {
			c.RetryAfter = time.Duration(at-o.now) * time.Microsecond
			return
		}
	}
}

// settle says what is left and when the oldest admission leaves.
func (o *oracle) settle(c *window.Charge) {
	h, span := o.keys[string(c.Key)], c.Window.Microseconds()
	c.Remaining, c.Reset = max(0, c.Limit-h.used(o.now, span)), 0
	for _, a := range h.admissions {
		if at := a.at + span; at > o.now {
			c.Reset = time.Duration(at-o.now) * time.Microsecond
			return
		}
	}
}

// add charges units that count at an instant, and no earlier than what is there
// already.
func (o *oracle) add(at int64, c *window.Charge, units int64) {
	c.Charged = units
	if units == 0 {
		return
	}
	h := o.keys[string(c.Key)]
	if n := len(h.admissions); n > 0 {
		at = max(at, h.admissions[n-1].at)
	}
	h.admissions = append(h.admissions, admission{at, units})
}

func (o *oracle) fill(req *window.Request) {
	req.At, req.Admitted = time.UnixMicro(o.now).UTC(), true
	for i := range req.Charges {
		c := &req.Charges[i]
		o.touch(c.Key, max(c.Window, c.Keep))
		o.judge(c, c.Cost)
		req.Admitted = req.Admitted && c.Fits
		o.add(stamp(o.now, c), c, min(c.Cost, c.Remaining))
		o.settle(c)
	}
}

func (o *oracle) refund(at int64, c window.Charge) (given int64) {
	o.touch(c.Key)
	h, counts := o.keys[string(c.Key)], stamp(at, &c)
	for i := range h.admissions {
		if a := &h.admissions[i]; a.at == counts {
			units := min(a.units, c.Cost-given)
			a.units -= units
			given += units
		}
	}
	h.admissions = slices.DeleteFunc(h.admissions, func(a admission) bool { return a.units == 0 })
	return given
}
