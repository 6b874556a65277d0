package window

import "time"

// Force makes a charge whether or not there is room for it, so that what is
// denied counts too. Of the key's units the newest are kept, as many as the
// limit, which is at least 1: those before have no say in what fits, nor when.
// Fits is left as it is, the rest is set to what is so afterwards.
func (m *Memory) Force(now time.Time, c *Charge) {
	c.check()
	at := m.advance(now)
	charges := [1]Charge{*c}
	k := m.claim(at, charges[:], 0)
	units := min(c.Cost, c.Limit)
	if k.ring != nil {
		k.ring.trim(c.Limit - units)
	}
	m.add(at, c, k, units)
	fits := c.Fits
	c.judge(at, m.part(c.Key).keys[string(c.Key)], c.Cost)
	c.Fits = fits
}

// trim drops the oldest units beyond most.
func (r *ring) trim(most int64) {
	for r.sum > most {
		oldest := r.at(0)
		units := int64(*oldest & costMask)
		if excess := r.sum - most; units > excess {
			*oldest -= uint64(excess)
			r.sum = most
			return
		}
		r.sum -= units
		r.head++
		if r.head == uint32(len(r.buf)) {
			r.head = 0
		}
		r.n--
	}
}
