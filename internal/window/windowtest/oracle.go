package windowtest

import (
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
		if a.at > at-span && a.at <= at {
			units += a.units
		}
	}
	return units
}

func (o *oracle) decide(req *window.Request) {
	spans := map[string][]time.Duration{}
	for _, c := range req.Charges {
		spans[string(c.Key)] = append(spans[string(c.Key)], c.Window)
	}
	for key := range spans {
		o.touch([]byte(key), spans[key]...)
	}
	req.Admitted = true
	for i := range req.Charges {
		o.judge(&req.Charges[i], asked(req.Charges, i))
		req.Admitted = req.Admitted && req.Charges[i].Fits
	}
	if !req.Admitted {
		return
	}
	for i := range req.Charges {
		o.add(req.Charges[i].Key, req.Charges[i].Cost)
	}
	for i := range req.Charges {
		o.settle(&req.Charges[i])
	}
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

func (o *oracle) add(key []byte, units int64) {
	if units > 0 {
		h := o.keys[string(key)]
		h.admissions = append(h.admissions, admission{o.now, units})
	}
}

func (o *oracle) fill(c *window.Charge) int64 {
	o.touch(c.Key, c.Window)
	o.judge(c, c.Cost)
	units := min(c.Cost, c.Remaining)
	o.add(c.Key, units)
	o.settle(c)
	return units
}
