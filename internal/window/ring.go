package window

import (
	"slices"
	"time"
)

// An entry is units admitted at one microsecond: the time modulo 2^42 above,
// the units below. Larger costs are split over entries of the same time.
const (
	timeBits = 42
	costBits = 64 - timeBits

	timeMask = 1<<timeBits - 1
	costMask = 1<<costBits - 1 // also the most units of one entry
)

// ring holds one key's admissions, oldest first. It is 48 bytes, a size class
// of the allocator, because idle keys are most of what a busy store holds.
//
// An entry's age is (now-time) mod 2^42. That is its true age: touch drops
// everything when the newest is past keep, and the oldest was then at most keep
// older than the newest, so that with keep below 2^41 no age reaches 2^42.
type ring struct {
	buf  []uint64 // entries; its length is the ring's capacity
	head uint32   // place of the oldest
	n    uint32   // entries held
	sum  int64    // their units

	// epoch is the rest of the newest entry's time (22 bits) below and how far
	// back entries are kept, in microseconds, above: the longest window named
	// since the ring was last empty.
	epoch uint64
}

func (r *ring) at(i uint32) *uint64 {
	i += r.head
	if size := uint32(len(r.buf)); i >= size {
		i -= size
	}
	return &r.buf[i]
}

// age returns how old an entry is at now, in microseconds.
func age(entry uint64, now int64) int64 {
	return int64((uint64(now) - entry>>costBits) & timeMask)
}

func (r *ring) keep() int64 { return int64(r.epoch >> costBits) }

// newest returns the whole time of the newest entry of a ring that has one.
func (r *ring) newest() int64 {
	return int64(r.epoch<<timeBits | *r.at(r.n - 1)>>costBits)
}

// touch drops what is no longer kept at now, and keeps what is left for at
// least window microseconds from now on.
func (r *ring) touch(now, window int64) {
	if !r.expire(now) || window > r.keep() {
		r.epoch = uint64(window)<<costBits | r.epoch&costMask
	}
}

// expire drops what is no longer kept at now and tells whether anything is left.
func (r *ring) expire(now int64) bool {
	if r.n == 0 {
		return false
	}
	keep := r.keep()
	if now-r.newest() >= keep {
		r.head, r.n, r.sum = 0, 0, 0
		return false
	}
	for { // ends at the newest at the latest
		oldest := *r.at(0)
		if age(oldest, now) < keep {
			return true
		}
		r.sum -= int64(oldest & costMask)
		r.head++
		if r.head == uint32(len(r.buf)) {
			r.head = 0
		}
		r.n--
	}
}

// used returns the units admitted in the window that ends now, and the place
// of the oldest entry that counts; n if there is none. It follows touch, and
// takes steps only for a window shorter than the one entries are kept for.
func (r *ring) used(now, window int64) (units int64, first uint32) {
	if window == r.keep() {
		return r.sum, 0
	}
	first = r.n
	for first > 0 {
		entry := *r.at(first - 1)
		if age(entry, now) >= window {
			break
		}
		units += int64(entry & costMask)
		first--
	}
	return units, first
}

// wait returns how long it takes until at least the given units, which the
// window holds, have left it; first is what used returned.
func (r *ring) wait(now, window, units int64, first uint32) time.Duration {
	for {
		entry := *r.at(first)
		units -= int64(entry & costMask)
		if units <= 0 {
			return time.Duration(window-age(entry, now)) * time.Microsecond
		}
		first++
	}
}

// add records units admitted now. No more than most entries are made room for
// in advance.
func (r *ring) add(now, units, most int64) {
	stamp := uint64(now) << costBits
	r.sum += units
	if r.n > 0 && r.newest() == now {
		newest := r.at(r.n - 1)
		more := min(units, costMask-int64(*newest&costMask))
		*newest += uint64(more)
		units -= more
	}
	r.epoch = r.epoch&^uint64(costMask) | uint64(now)>>timeBits&costMask
	for units > 0 {
		if int(r.n) == len(r.buf) {
			r.resize(min(int64(r.n)+1+int64(r.n)/4, max(most, int64(r.n)+1)))
		}
		part := min(units, costMask)
		r.n++
		*r.at(r.n - 1) = stamp | uint64(part)
		units -= part
	}
}

// resize moves the entries to memory for size of them, or for a few more where
// the allocator would waste the rest.
func (r *ring) resize(size int64) {
	buf := slices.Grow([]uint64(nil), int(size))
	buf = buf[:cap(buf)]
	if r.n > 0 {
		k := copy(buf, r.buf[r.head:min(int(r.head)+int(r.n), len(r.buf))])
		copy(buf[k:], r.buf[:int(r.n)-k])
	}
	r.buf, r.head = buf, 0
}

// shrink gives back memory after a burst.
func (r *ring) shrink() {
	if int64(r.n)*4 < int64(len(r.buf)) {
		r.resize(int64(r.n))
	}
}
