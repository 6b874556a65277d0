// Package window keeps exact sliding windows: for every key and instant t the
// units admitted in (t-Window, t] are at most Limit, and a request is denied
// only if it would exceed that. An admission exactly one window old no longer
// counts.
//
// Time is an argument, in whole microseconds, and never goes back: a store
// takes an instant before the last one it saw for that last one. Nothing here
// reads a clock.
//
// What has been admitted is a fact about the key, not about the limit or the
// window asked with: either may change from one request to the next, and usage
// is kept. How far back it is kept is for the longest window that a charge
// named, or asked to keep for, since the key was last without admissions; a
// longer window later sees what is left and everything from then on.
package window

import (
	"fmt"
	"time"
)

// Bounds of a charge.
const (
	MaxWindow = 25 * 24 * time.Hour // what half of an entry's 42 bits of microseconds can tell, in whole days
	MaxCost   = 1 << 32             // units of one charge
)

// Never is the RetryAfter of a charge that cannot fit however long one waits.
const Never time.Duration = -1

// Charge is one rule's claim on one window for one request, and what became of
// it. Charges of one request that name the same key are made together: each of
// them has room only if it has room for the sum of their costs.
type Charge struct {
	Key    []byte        // names the window; the caller's memory, cloned when kept
	Cost   int64         // units, 0..MaxCost; 0 is a peek
	Limit  int64         // units admitted in any (t-Window, t]
	Window time.Duration // whole microseconds, 1µs..MaxWindow
	Keep   time.Duration // of a key whose window will be longer: that window, to MaxWindow; else 0

	// Set by the store.

	Fits       bool          // this charge had room
	Remaining  int64         // units left after the request, never below 0
	Reset      time.Duration // until the oldest admission leaves the window; 0 when there is none
	RetryAfter time.Duration // shortest wait after which it fits if nothing else comes; 0 when it fits, or Never
}

// Request is what one request charges. All its charges are made, or none.
type Request struct {
	Charges  []Charge
	Admitted bool // every charge fits; set by the store
}

// check panics on a charge out of its bounds: whoever made it has let through
// what the policy and the request's validation refuse.
func (c *Charge) check() {
	if c.Cost < 0 || c.Cost > MaxCost {
		panic(fmt.Sprintf("window: cost %d, want 0 to %d", c.Cost, int64(MaxCost)))
	}
	if c.Window < time.Microsecond || c.Window > MaxWindow || c.Window%time.Microsecond != 0 {
		panic(fmt.Sprintf("window: window %v, want whole microseconds from 1µs to %v", c.Window, MaxWindow))
	}
	if c.Keep < 0 || c.Keep > MaxWindow {
		panic(fmt.Sprintf("window: keep %v, want 0 to %v", c.Keep, MaxWindow))
	}
}
