package window

import (
	"bytes"
	"context"
	"hash/maphash"
	"math"
	"math/rand/v2"
	"time"
)

// Memory is a store in the process. It is not safe for concurrent use: one
// goroutine owns it. An admitted unit takes 3 to 5 bytes at any rate that a
// limit of some hundred units is reached at, and 8 at most; an idle key takes
// about 100 besides its name. A decision on a known key allocates nothing unless
// its window grows.
//
// Its time never goes back: an instant before the last one is taken for that.
type Memory struct {
	now    int64 // the last instant seen, microseconds
	seed   maphash.Seed
	parts  [parts]table
	part   int // the part, and the slot in it, that the next sweep begins with
	slot   int
	claims []claim // of the request being decided, reused; its keys are not evicted

	spots  []spot // of the requests to be decided next, reused
	warmth uint64

	budget int64
	random *rand.Rand // whom to evict
	usage  Usage
}

// parts is into how many parts the keys are cut, so that with ten million keys
// one part that grows moves ten thousand.
const parts = 1 << 10

// recordBytes is what a key takes besides its name and its entries: a record,
// and the slots of a table that has just grown.
const recordBytes = 104

// Usage is what a store in memory holds, and what it had to drop.
type Usage struct {
	Keys        int
	Bytes       int64  // about what the keys take
	Evicted     uint64 // keys dropped for want of room, since the start
	EvictedLive uint64 // those of them that still had admissions to count: their limits began anew
}

// claim is what the charges of one request with one key ask together.
type claim struct {
	record *record // nil for a key without admissions
	units  int64   // sum of their costs
	span   int64   // longest of their windows, and of what they keep for, microseconds
	stamp  int64   // when they count, the latest of them
}

// NewMemory returns a store without admissions and without a budget.
func NewMemory() *Memory {
	return &Memory{
		now: -latestTime, seed: maphash.MakeSeed(),
		spots: make([]spot, 0, 4*ahead), budget: math.MaxInt64, random: rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())),
	}
}

// Bound sets how many bytes the keys may take. A key that needs more evicts
// others: each time, of eight neighbours taken at random, one that has nothing
// left to count, else the one charged longest ago.
func (m *Memory) Bound(bytes int64) {
	m.budget, m.claims = bytes, m.claims[:0]
	m.evict()
}

// Usage tells what it holds.
func (m *Memory) Usage() Usage { return m.usage }

// Len returns how many keys are held, those not yet swept included.
func (m *Memory) Len() int { return m.usage.Keys }

// Decide decides the requests of a batch in order, at one instant, and makes
// the charges of those that are admitted. The keys' memory is not kept. The
// error is always nil.
func (m *Memory) Decide(_ context.Context, now time.Time, batch []Request) error {
	at := m.advance(now)
	when := time.UnixMicro(at).UTC()
	for i := range batch {
		if i%ahead == 0 && len(batch) > 1 {
			m.warm(batch[i:min(i+ahead, len(batch))])
		}
		batch[i].At = when
		if batch[i].Fill {
			m.fill(at, &batch[i])
		} else {
			m.decide(at, &batch[i])
		}
		m.evict()
	}
	return nil
}

func (m *Memory) decide(now int64, req *Request) {
	m.claims = m.claims[:0]
	for i := range req.Charges {
		req.Charges[i].check()
		m.claims = append(m.claims, m.claim(now, req.Charges, i))
	}
	req.Admitted = true
	for i := range req.Charges {
		req.Charges[i].judge(now, m.claims[i].record, m.claims[i].units)
		req.Admitted = req.Admitted && req.Charges[i].Fits
	}
	if !req.Admitted {
		m.countDenied(now, req)
		return
	}
	for i := range req.Charges {
		c := &req.Charges[i]
		c.settle(now, m.claims[i].stamp, m.claims[i].units)
		c.Charged = c.Cost
		m.add(now, c, &m.claims[i])
	}
}

// countDenied makes those charges of a denied request that are made even so.
func (m *Memory) countDenied(now int64, req *Request) {
	for i := range req.Charges {
		if c := &req.Charges[i]; c.CountDenied {
			m.force(now, c, &m.claims[i])
		}
	}
	for i := range req.Charges {
		if c := &req.Charges[i]; c.CountDenied {
			fits, units := c.Fits, c.Charged
			c.judge(now, m.find(c.Key), m.claims[i].units)
			c.Fits, c.Charged = fits, units
		}
	}
}

// force makes a charge without room: of the key's units the newest are kept, as
// many as the limit. Those before have no say in what fits, nor when, and a key
// under attack holds no more than its limit.
func (m *Memory) force(now int64, c *Charge, k *claim) {
	k.record = m.find(c.Key) // another charge of the request may have made it
	c.Charged = min(c.Cost, c.Limit)
	if k.record != nil && c.Charged > 0 {
		k.record.trim(c.Limit - c.Charged)
	}
	m.add(now, c, k)
}

func (m *Memory) fill(now int64, req *Request) {
	m.claims = m.claims[:0]
	req.Admitted = true
	for i := range req.Charges {
		c := &req.Charges[i]
		c.check()
		m.claims = append(m.claims, m.claim(now, req.Charges[i:i+1], 0))
		k := &m.claims[i]
		c.judge(now, k.record, k.units)
		req.Admitted = req.Admitted && c.Fits
		c.Charged = min(c.Cost, c.Remaining)
		c.settle(now, k.stamp, c.Charged)
		m.add(now, c, k)
	}
}

// claim gathers the charges that have the key of one.
func (m *Memory) claim(now int64, charges []Charge, one int) claim {
	key := charges[one].Key
	k := claim{stamp: now}
	for i := range charges {
		if i == one || bytes.Equal(charges[i].Key, key) {
			k.units += charges[i].Cost
			k.span = max(k.span, max(charges[i].Window, charges[i].Keep).Microseconds())
			k.stamp = max(k.stamp, charges[i].stamp(now))
		}
	}
	if k.record = m.find(key); k.record != nil {
		k.record.touch(now, k.span)
	}
	return k
}

// judge says what becomes of a charge when the given units are asked for; r is
// nil for a key without admissions.
func (c *Charge) judge(now int64, r *record, units int64) {
	c.Charged, c.Reset, c.RetryAfter = 0, 0, 0
	window := c.Window.Microseconds()
	var used int64
	var first place
	if r != nil {
		if used, first = r.used(now, window); used > 0 {
			c.Reset = time.Duration(first.at+window-now) * time.Microsecond
		}
	}
	c.Remaining = max(0, c.Limit-used)
	c.Fits = units <= c.Limit && used <= c.Limit-units
	switch {
	case c.Fits:
	case units > c.Limit:
		c.RetryAfter = Never
	default:
		c.RetryAfter = r.wait(now, window, used-(c.Limit-units), first)
	}
}

// settle turns what judge found before units were charged, to count at an
// instant, into what is so after.
func (c *Charge) settle(now, stamp, units int64) {
	c.Remaining = max(0, c.Remaining-units)
	if c.Reset == 0 && units > 0 {
		c.Reset = c.Window + time.Duration(stamp-now)*time.Microsecond
	}
}

// Admit records an admission that was decided before, whatever the limit then
// was, as when windows are rebuilt from the journal. It charges c.Cost; or what
// counts of a denied request's, if c says that it does. Admissions come in the
// order of their times.
func (m *Memory) Admit(at time.Time, c Charge) {
	c.check()
	now := m.advance(at)
	charges := [1]Charge{c}
	m.claims = append(m.claims[:0], m.claim(now, charges[:], 0))
	if c.CountDenied {
		m.force(now, &c, &m.claims[0])
	} else {
		c.Charged = c.Cost
		m.add(now, &c, &m.claims[0])
	}
	m.evict()
}

// Refund takes back units of an admission that c was charged with at an
// instant, the request's At: c.Cost at most, and none that no longer count. It
// returns how many. The error is always nil.
func (m *Memory) Refund(_ context.Context, at time.Time, c Charge) (int64, error) {
	c.check()
	r := m.find(c.Key)
	if r == nil || !r.expire(m.now) {
		return 0, nil
	}
	size := cap(r.buf)
	units := r.refund(c.stamp(at.UnixMicro()), c.Cost)
	m.usage.Bytes += int64(cap(r.buf) - size)
	return units, nil
}

// Reset forgets what a key has been charged. The error is always nil.
func (m *Memory) Reset(_ context.Context, key []byte) error {
	if r := m.find(key); r != nil {
		r.clear()
	}
	return nil
}

// Sweep frees keys whose admissions are no longer kept, and memory that bursts
// have left behind. It looks at budget keys at most, and goes on from there the
// next time.
func (m *Memory) Sweep(now time.Time, budget int) {
	at := m.advance(now)
	for range parts + 1 { // the first of them may have been begun before
		t := &m.parts[m.part]
		for m.slot < len(t.hashes) {
			if t.hashes[m.slot] == 0 {
				m.slot++
				continue
			}
			if budget == 0 {
				return
			}
			budget--
			if r := t.records[m.slot]; r.expire(at) {
				size := cap(r.buf)
				r.shrink()
				m.usage.Bytes += int64(cap(r.buf) - size)
				m.slot++
			} else {
				m.drop(t, m.slot) // another record may now be there
			}
		}
		t.shrink()
		m.part, m.slot = (m.part+1)%parts, 0
	}
}

// advance returns the instant to decide at.
func (m *Memory) advance(now time.Time) int64 {
	m.now = max(m.now, now.UnixMicro())
	return m.now
}

func (m *Memory) table(key []byte) (t *table, hash uint32) {
	h := maphash.Bytes(m.seed, key)
	return &m.parts[h%parts], max(1, uint32(h>>32))
}

// find returns the record of a key, or nil.
func (m *Memory) find(key []byte) *record {
	t, hash := m.table(key)
	return t.find(hash, key)
}

// add makes what was charged an admission of the charge's key.
func (m *Memory) add(now int64, c *Charge, k *claim) {
	if c.Charged == 0 {
		return
	}
	if k.record == nil {
		k.record = m.open(c.Key)
		k.record.touch(now, k.span)
	}
	size := cap(k.record.buf)
	k.record.add(k.stamp, c.Charged)
	m.usage.Bytes += int64(cap(k.record.buf) - size)
}

// open returns the record of a key that had none. Another charge of the same
// request may have made it.
func (m *Memory) open(key []byte) *record {
	t, hash := m.table(key)
	r := t.find(hash, key)
	if r == nil {
		r = &record{name: string(key)}
		t.insert(hash, r)
		m.usage.Keys++
		m.usage.Bytes += recordBytes + int64(len(key))
	}
	return r
}

// drop frees the key in a slot.
func (m *Memory) drop(t *table, slot int) {
	r := t.records[slot]
	m.usage.Keys--
	m.usage.Bytes -= recordBytes + int64(len(r.name)+cap(r.buf))
	t.remove(slot)
}
