// Package window keeps sliding windows: for every key and instant t the units
// admitted in (t-Window, t] are at most Limit. With the exact algorithm a request
// is denied only if it would exceed that, and an admission exactly one window old
// no longer counts. With buckets it may be denied earlier, see Charge.Buckets.
//
// There are two stores, Memory and Redis, of one contract, which windowtest has
// and holds both to. An error is a failure of the store, never a denial.
//
// Time is in whole microseconds. A store says when it decided a request: Memory
// at the instant that it is given, Redis by its own clock. Time that goes back
// takes nothing back: what is admitted counts at any earlier instant too.
//
// What has been admitted is a fact about the key, not about the limit, the window
// or the algorithm asked with: these may change from one request to the next, and
// usage is kept. How far back it is kept is for the longest window that a charge
// named, or asked to keep for, since the key was last without admissions; a
// longer window later sees what is left and everything from then on.
package window

import (
	"fmt"
	"time"
)

// Bounds of a charge.
const (
	MaxWindow  = 25 * 24 * time.Hour
	MaxCost    = 1 << 32           // units of one charge
	MaxLimit   = 1_000_000_000_000 // units in a window
	MaxBuckets = 1000
)

// Never is the RetryAfter of a charge that cannot fit however long one waits.
const Never time.Duration = -1

// Charge is one rule's claim on one window for one request, and what became of
// it. Charges of one request that name the same key are made together: each of
// them has room only if it has room for the sum of their costs, and all count
// when the latest of them does.
type Charge struct {
	Key    []byte        // names the window, and its tenant up to the first NUL; the caller's memory, cloned when kept
	Cost   int64         // units, 0..MaxCost; 0 is a peek
	Limit  int64         // units admitted in any (t-Window, t], 0..MaxLimit
	Window time.Duration // whole microseconds, 1µs..MaxWindow
	Keep   time.Duration // of a key whose window will be longer: that window, to MaxWindow; else 0

	// CountDenied makes the charge also if the request is denied, and then
	// whether or not there is room. Of the key's units the newest are kept, as
	// many as the limit. Fits is what it was before.
	CountDenied bool

	// Buckets is 0 for the exact algorithm, else into how many parts the window
	// is cut, to MaxBuckets. An admission then counts as if it was made at the
	// last instant of its part, so that a key holds one entry a part whatever
	// comes. It leaves less than one part late: no more units are admitted in
	// any window than the limit, and at steady load no fewer than
	// Buckets/(Buckets+1) of it, because the limit is then spread over a window
	// and one part at most.
	Buckets int

	// Set by the store.

	Fits       bool          // this charge had room
	Charged    int64         // units charged
	Remaining  int64         // units left after the request, never below 0
	Reset      time.Duration // until the oldest admission leaves the window; 0 when there is none
	RetryAfter time.Duration // shortest wait after which it fits if nothing else comes; 0 when it fits, or Never
}

// Request is what one request charges. All its charges are made, or none but
// those that count when denied.
type Request struct {
	Charges []Charge // on keys of one tenant

	// Fill makes as much of each charge, in order, as there is room for,
	// whatever becomes of the others: what was let through without a decision
	// counts as far as the limit allows. Fits and RetryAfter then speak of the
	// whole cost, the rest of what is so afterwards.
	Fill bool

	// Set by the store.

	At       time.Time // when it was decided
	Admitted bool      // every charge fits
}

// check panics on a charge out of its bounds: whoever made it has let through
// what the policy and the request's validation refuse.
func (c *Charge) check() {
	if c.Cost < 0 || c.Cost > MaxCost {
		panic(fmt.Sprintf("window: cost %d, want 0 to %d", c.Cost, int64(MaxCost)))
	}
	if c.Limit < 0 || c.Limit > MaxLimit {
		panic(fmt.Sprintf("window: limit %d, want 0 to %d", c.Limit, int64(MaxLimit)))
	}
	if c.Window < time.Microsecond || c.Window > MaxWindow || c.Window%time.Microsecond != 0 {
		panic(fmt.Sprintf("window: window %v, want whole microseconds from 1µs to %v", c.Window, MaxWindow))
	}
	if c.Keep < 0 || c.Keep > MaxWindow {
		panic(fmt.Sprintf("window: keep %v, want 0 to %v", c.Keep, MaxWindow))
	}
	if c.Buckets < 0 || c.Buckets > MaxBuckets {
		panic(fmt.Sprintf("window: %d buckets, want 0 to %d", c.Buckets, MaxBuckets))
	}
}

// part returns the length in microseconds of the parts of time whose last
// instant admissions count at: a bucket's, or the microsecond itself.
func (c *Charge) part() int64 {
	if c.Buckets == 0 {
		return 1
	}
	n := int64(c.Buckets)
	return (c.Window.Microseconds() + n - 1) / n
}

// stamp returns the instant at which an admission at another counts.
func (c *Charge) stamp(at int64) int64 {
	part := c.part()
	if part == 1 {
		return at
	}
	return at - at%part + part - 1
}

// Settle turns what a store says of a charge before it is made into what it
// would say after.
func (c *Charge) Settle(now time.Time) {
	at := now.UnixMicro()
	c.settle(at, c.stamp(at), c.Cost)
	c.Charged = c.Cost
}
