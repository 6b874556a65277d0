package window

import (
	"bytes"
	"hash/maphash"
	"maps"
	"math"
	"time"
)

// parts is into how many parts the keys are cut. One is what a sweep takes at
// a time, so that with ten million keys it looks at ten thousand at once.
const parts = 1 << 10

// Memory is a store in the process. It is not safe for concurrent use: one
// goroutine owns it. An admitted unit takes 8 bytes and a little, an idle key
// about 110 besides its name, and a decision on a known key allocates nothing
// unless its window grows.
type Memory struct {
	now    int64 // the last instant seen, microseconds
	seed   maphash.Seed
	parts  [parts]part
	len    int
	next   int     // part the next sweep begins with
	claims []claim // of the request being decided, reused
}

// claim is what the charges of one request with one key ask together.
type claim struct {
	ring  *ring // nil for a key without admissions
	units int64 // sum of their costs
	span  int64 // longest of their windows, and of what they keep for, microseconds
}

// part holds some of the keys. A map never gives memory back, so a sweep
// replaces one that has lost most of its keys.
type part struct {
	keys map[string]*ring
	peak int // most keys since it was made
}

// NewMemory returns a store without admissions.
func NewMemory() *Memory {
	return &Memory{now: math.MinInt64, seed: maphash.MakeSeed()}
}

// Decide decides the requests of a batch in order, at one instant, and makes
// the charges of those that are admitted. The keys' memory is not kept.
func (m *Memory) Decide(now time.Time, batch []Request) {
	at := m.advance(now)
	for i := range batch {
		m.decide(at, &batch[i])
	}
}

func (m *Memory) decide(now int64, req *Request) {
	m.claims = m.claims[:0]
	for i := range req.Charges {
		req.Charges[i].check()
		m.claims = append(m.claims, m.claim(now, req.Charges, i))
	}
	req.Admitted = true
	for i := range req.Charges {
		req.Charges[i].judge(now, m.claims[i].ring, m.claims[i].units)
		req.Admitted = req.Admitted && req.Charges[i].Fits
	}
	if !req.Admitted {
		return
	}
	for i := range req.Charges {
		req.Charges[i].settle(m.claims[i].units)
		m.add(now, &req.Charges[i], m.claims[i], req.Charges[i].Cost)
	}
}

// claim gathers the charges that have the key of one.
func (m *Memory) claim(now int64, charges []Charge, one int) claim {
	key := charges[one].Key
	var k claim
	for i := range charges {
		if i == one || bytes.Equal(charges[i].Key, key) {
			k.units += charges[i].Cost
			k.span = max(k.span, max(charges[i].Window, charges[i].Keep).Microseconds())
		}
	}
	if k.ring = m.part(key).keys[string(key)]; k.ring != nil {
		k.ring.touch(now, k.span)
	}
	return k
}

// judge says what becomes of a charge when the given units are asked for; w is
// nil for a key without admissions.
func (c *Charge) judge(now int64, w *ring, units int64) {
	c.Reset, c.RetryAfter = 0, 0
	window := c.Window.Microseconds()
	var used int64
	var first uint32
	if w != nil {
		if used, first = w.used(now, window); used > 0 {
			c.Reset = time.Duration(window-age(*w.at(first), now)) * time.Microsecond
		}
	}
	c.Remaining = max(0, c.Limit-used)
	c.Fits = units <= c.Limit && used <= c.Limit-units
	switch {
	case c.Fits:
	case units > c.Limit:
		c.RetryAfter = Never
	default:
		c.RetryAfter = w.wait(now, window, used-(c.Limit-units), first)
	}
}

// settle turns what judge found before units were charged into what is so after.
func (c *Charge) settle(units int64) {
	c.Remaining = max(0, c.Remaining-units)
	if c.Reset == 0 && units > 0 {
		c.Reset = c.Window
	}
}

// Admit records an admission that was decided elsewhere or before, whatever
// the limit then was, as when windows are rebuilt from the journal. Admissions
// come in the order of their times.
func (m *Memory) Admit(at time.Time, key []byte, cost int64, window time.Duration) {
	charges := [1]Charge{{Key: key, Cost: cost, Window: window}}
	charges[0].check()
	now := m.advance(at)
	m.add(now, &charges[0], m.claim(now, charges[:], 0), cost)
}

// Fill makes as much of a charge as there is room for and returns the units
// charged: what was let through without a decision counts as far as the limit
// allows. Fits and RetryAfter speak of the whole cost, the rest of what is so
// afterwards.
func (m *Memory) Fill(now time.Time, c *Charge) int64 {
	c.check()
	at := m.advance(now)
	charges := [1]Charge{*c}
	k := m.claim(at, charges[:], 0)
	c.judge(at, k.ring, k.units)
	units := min(c.Cost, c.Remaining)
	c.settle(units)
	m.add(at, c, k, units)
	return units
}

// Sweep frees keys whose admissions are no longer kept, and memory that bursts
// have left behind. It looks at about budget keys, at those of one of 1024
// parts at least, and goes on from there the next time.
func (m *Memory) Sweep(now time.Time, budget int) {
	at := m.advance(now)
	for range parts {
		p := &m.parts[m.next]
		m.next = (m.next + 1) % parts
		budget -= 1 + len(p.keys)
		for key, w := range p.keys {
			if w.expire(at) {
				w.shrink()
				continue
			}
			delete(p.keys, key)
			m.len--
		}
		p.shrink()
		if budget <= 0 {
			return
		}
	}
}

func (p *part) shrink() {
	if len(p.keys)*4 >= p.peak {
		return
	}
	var keys map[string]*ring
	if len(p.keys) > 0 {
		keys = make(map[string]*ring, len(p.keys))
		maps.Copy(keys, p.keys)
	}
	p.keys, p.peak = keys, len(keys)
}

// Len returns how many keys are held, those not yet swept included.
func (m *Memory) Len() int { return m.len }

// advance returns the instant to decide at.
func (m *Memory) advance(now time.Time) int64 {
	m.now = max(m.now, now.UnixMicro())
	return m.now
}

func (m *Memory) part(key []byte) *part {
	return &m.parts[maphash.Bytes(m.seed, key)%parts]
}

// add charges units to a charge's key.
func (m *Memory) add(now int64, c *Charge, k claim, units int64) {
	if units == 0 {
		return
	}
	if k.ring == nil {
		k.ring = m.open(c.Key)
		k.ring.touch(now, k.span)
	}
	k.ring.add(now, units, c.Limit)
}

// open returns the ring of a key that had none. Another charge of the same
// request may have made it.
func (m *Memory) open(key []byte) *ring {
	p := m.part(key)
	w := p.keys[string(key)]
	if w == nil {
		if p.keys == nil {
			p.keys = make(map[string]*ring)
		}
		w = new(ring)
		p.keys[string(key)] = w
		p.peak = max(p.peak, len(p.keys))
		m.len++
	}
	return w
}
