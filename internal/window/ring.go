package window

import (
	"encoding/binary"
	"slices"
	"time"
)

const (
	unitBits = 21
	unitMask = 1<<unitBits - 1 // also the most units of one entry
)

// ring holds one key's admissions, oldest first, an entry an instant: in buf all
// but the newest, each as the time until the next one and its units. That is 2
// to 4 bytes an entry of one unit where a key is busy, and 6 where hours are
// between two. Larger costs are split over entries of the same time.
//
// It is 64 bytes, because idle keys are most of what a busy store holds; a key
// with one admission has no buf.
type ring struct {
	buf    []byte // entries, from head on
	head   int
	sum    int64  // units held; 0 when there are no entries
	first  int64  // time of the oldest entry, microseconds
	newest int64  // time of the newest; it may be ahead by a bucket
	last   uint64 // units of the newest below, how far back entries are kept (microseconds) above
}

// place is where in a ring an entry is.
type place struct {
	at     int64 // its time
	off    int   // where in buf; its end for the newest
	before int64 // units of the entries before it
}

func (r *ring) keep() int64  { return int64(r.last >> unitBits) }
func (r *ring) units() int64 { return int64(r.last & unitMask) }

func (r *ring) oldest() place { return place{at: r.first, off: r.head} }

// entry returns the units of the entry in a place, and the place after it.
func (r *ring) entry(p place) (units int64, next place) {
	if p.off == len(r.buf) {
		return r.units(), place{at: p.at, off: p.off + 1, before: p.before + r.units()}
	}
	gap, n := binary.Uvarint(r.buf[p.off:])
	p.off += n
	units = 1
	if gap&1 != 0 {
		more, n := binary.Uvarint(r.buf[p.off:])
		p.off += n
		units = int64(more)
	}
	return units, place{at: p.at + int64(gap>>1), off: p.off, before: p.before + units}
}

// touch drops what is no longer kept at now, and keeps what is left for at
// least window microseconds from now on.
func (r *ring) touch(now, window int64) {
	if !r.expire(now) || window > r.keep() {
		r.last = uint64(window)<<unitBits | r.last&unitMask
	}
}

// expire drops what is no longer kept at now and tells whether anything is left.
func (r *ring) expire(now int64) bool {
	if r.sum == 0 {
		return false
	}
	since := now - r.keep()
	if r.newest <= since {
		r.clear()
		return false
	}
	for r.first <= since { // ends at the newest at the latest
		units, next := r.entry(r.oldest())
		r.sum -= units
		r.first, r.head = next.at, next.off
	}
	return true
}

// clear drops everything.
func (r *ring) clear() {
	r.buf, r.head, r.sum = r.buf[:0], 0, 0
	r.last &^= unitMask
}

// used returns the units admitted in the window that ends now, and the place
// of the oldest entry that counts. It follows touch, and takes steps only for a
// window shorter than the one entries are kept for.
func (r *ring) used(now, window int64) (units int64, first place) {
	first = r.oldest()
	if r.sum == 0 || window >= r.keep() {
		return r.sum, first
	}
	since := now - window
	if r.newest <= since {
		return 0, first
	}
	for first.at <= since {
		_, first = r.entry(first)
	}
	return r.sum - first.before, first
}

// wait returns how long it takes until at least the given units, which the
// window holds, have left it; first is what used returned.
func (r *ring) wait(now, window, units int64, first place) time.Duration {
	left := first.before + units
	for {
		at := first.at
		if _, first = r.entry(first); first.before >= left {
			return time.Duration(at+window-now) * time.Microsecond
		}
	}
}

// add records units admitted that count at an instant, or at that of the newest
// entry if that is later.
func (r *ring) add(at, units int64) {
	if r.sum == 0 {
		r.first, r.newest = at, at
	}
	r.sum += units
	if at <= r.newest {
		at = r.newest
		more := min(units, unitMask-r.units())
		r.last += uint64(more)
		units -= more
	}
	for units > 0 {
		if r.units() > 0 {
			r.push(at-r.newest, r.units())
		}
		part := min(units, unitMask)
		r.newest, r.last = at, r.last&^unitMask|uint64(part)
		units -= part
	}
}

// push puts what was the newest entry at the end of buf.
func (r *ring) push(gap, units int64) {
	var space [2 * binary.MaxVarintLen64]byte
	entry := appendEntry(space[:0], gap, units)
	if len(r.buf)+len(entry) > cap(r.buf) {
		live := len(r.buf) - r.head
		if r.head > 0 && r.head >= len(r.buf)/8 {
			r.buf = r.buf[:copy(r.buf, r.buf[r.head:])]
			r.head = 0
		}
		if live+len(entry) > cap(r.buf) || r.head > 0 {
			r.resize(live + live/8 + len(entry))
		}
	}
	r.buf = append(r.buf, entry...)
}

// appendEntry appends an entry as buf has it.
func appendEntry(dst []byte, gap, units int64) []byte {
	if units == 1 {
		return binary.AppendUvarint(dst, uint64(gap)<<1)
	}
	return binary.AppendUvarint(binary.AppendUvarint(dst, uint64(gap)<<1|1), uint64(units))
}

// resize moves the entries to memory for size bytes of them, or a few more
// where the allocator would waste the rest.
func (r *ring) resize(size int) {
	r.buf = append(slices.Grow([]byte(nil), size), r.buf[r.head:]...)
	r.head = 0
}

// trim drops the oldest units beyond most.
func (r *ring) trim(most int64) {
	for r.sum > most {
		oldest := r.oldest()
		units, next := r.entry(oldest)
		excess := r.sum - most
		switch {
		case units <= excess && oldest.off == len(r.buf):
			r.clear()
		case units <= excess:
			r.sum -= units
			r.first, r.head = next.at, next.off
		case oldest.off == len(r.buf):
			r.sum, r.last = most, r.last-uint64(excess)
		default: // it needs no more room for fewer units
			var space [2 * binary.MaxVarintLen64]byte
			entry := appendEntry(space[:0], next.at-oldest.at, units-excess)
			r.sum, r.head = most, next.off-len(entry)
			copy(r.buf[r.head:], entry)
		}
	}
}

// shrink gives back memory after a burst.
func (r *ring) shrink() {
	if live := len(r.buf) - r.head; live == 0 {
		r.buf, r.head = nil, 0
	} else if live*4 < cap(r.buf) {
		r.resize(live)
	}
}

// refund takes back up to the given units of those that count at an instant,
// and returns how many.
func (r *ring) refund(at, units int64) int64 {
	if r.sum == 0 || at < r.first || at > r.newest {
		return 0
	}
	was := *r
	r.buf, r.head, r.sum = nil, 0, 0
	r.last &^= unitMask
	left := units
	for p := was.oldest(); p.off <= len(was.buf); {
		when := p.at
		var held int64
		held, p = was.entry(p)
		if when == at {
			given := min(held, left)
			left -= given
			held -= given
		}
		if held > 0 {
			r.add(when, held)
		}
	}
	return units - left
}
