// Package windowtest holds every store of sliding windows to the contract of
// package window.
package windowtest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/internal/window"
)

// Store is what a store of sliding windows does. An error is a failure of the
// store, never a denial; what was asked may then have been done or not.
type Store interface {
	// Decide decides the requests of a batch in order and charges those that
	// are admitted. A store that has a clock of its own decides by that.
	Decide(ctx context.Context, now time.Time, batch []window.Request) error

	// Refund takes back units of an admission that c was charged with at an
	// instant, the request's At: c.Cost at most, and none that no longer count.
	// It returns how many.
	Refund(ctx context.Context, at time.Time, c window.Charge) (int64, error)

	// Reset forgets what a key has been charged.
	Reset(ctx context.Context, key []byte) error
}

var _ Store = (*window.Memory)(nil)

// Run holds a store to the contract. open returns a store without admissions,
// that decides at the instant it is given; it is called for every case.
func Run(t *testing.T, open func(t *testing.T) Store) {
	t.Run("half-open", func(t *testing.T) { halfOpen(t, open(t)) })
	t.Run("peek", func(t *testing.T) { peek(t, open(t)) })
	t.Run("never", func(t *testing.T) { never(t, open(t)) })
	t.Run("all or nothing", func(t *testing.T) { allOrNothing(t, open(t)) })
	t.Run("same key twice", func(t *testing.T) { sameKeyTwice(t, open(t)) })
	t.Run("limit changes", func(t *testing.T) { limitChanges(t, open(t)) })
	t.Run("window changes", func(t *testing.T) { windowChanges(t, open(t)) })
	t.Run("time never goes back", func(t *testing.T) { clockStepsBack(t, open(t)) })
	t.Run("idle for years", func(t *testing.T) { idleForYears(t, open(t)) })
	t.Run("large costs", func(t *testing.T) { largeCosts(t, open(t)) })
	t.Run("fill", func(t *testing.T) { fill(t, open(t)) })
	t.Run("refund", func(t *testing.T) { refund(t, open(t)) })
	t.Run("reset", func(t *testing.T) { reset(t, open(t)) })
	t.Run("buckets", func(t *testing.T) { buckets(t, open(t)) })
	t.Run("algorithm changes", func(t *testing.T) { algorithmChanges(t, open(t)) })
	t.Run("as the oracle", func(t *testing.T) {
		rapid.Check(t, func(rt *rapid.T) { asTheOracle(rt, open(t)) })
	})
	t.Run("never over the limit", func(t *testing.T) {
		rapid.Check(t, func(rt *rapid.T) { neverOverTheLimit(rt, open(t)) })
	})
	t.Run("steady load", func(t *testing.T) {
		rapid.Check(t, func(rt *rapid.T) { steadyLoad(rt, open(t)) })
	})
}

var start = time.Date(2026, 5, 17, 10, 5, 3, 0, time.UTC)

// one decides a request with one charge.
func one(s Store, at time.Time, c window.Charge) window.Charge {
	batch := []window.Request{{Charges: []window.Charge{c}}}
	decide(s, at, batch)
	if batch[0].Admitted != batch[0].Charges[0].Fits {
		panic("windowtest: a request with one charge was admitted without room, or the reverse")
	}
	return batch[0].Charges[0]
}

// decide panics if the store fails; its server, if it has one, is the test's.
func decide(s Store, at time.Time, batch []window.Request) {
	if err := s.Decide(context.Background(), at, batch); err != nil {
		panic(err)
	}
}

// key names a window of the suite's tenant.
func key(name string) []byte { return []byte("acme\x00" + name) }

func charge(name string, cost, limit int64, span time.Duration) window.Charge {
	return window.Charge{Key: key(name), Cost: cost, Limit: limit, Window: span}
}

// want compares what became of a charge: room, units left, reset, wait.
func want(t *testing.T, what string, c window.Charge, fits bool, remaining int64, reset, retry time.Duration) {
	t.Helper()
	if c.Fits != fits || c.Remaining != remaining || c.Reset != reset || c.RetryAfter != retry {
		t.Errorf("%s: fits %v, remaining %d, reset %v, retry after %v; want %v, %d, %v, %v",
			what, c.Fits, c.Remaining, c.Reset, c.RetryAfter, fits, remaining, reset, retry)
	}
}

func halfOpen(t *testing.T, s Store) {
	c := charge("k", 1, 2, time.Second)
	want(t, "first", one(s, start, c), true, 1, time.Second, 0)
	want(t, "second", one(s, start.Add(time.Millisecond), c), true, 0, 999*time.Millisecond, 0)
	want(t, "third", one(s, start.Add(2*time.Millisecond), c), false, 0, 998*time.Millisecond, 998*time.Millisecond)
	want(t, "1µs early", one(s, start.Add(time.Second-time.Microsecond), c), false, 0, time.Microsecond, time.Microsecond)
	want(t, "one window after the first", one(s, start.Add(time.Second), c), true, 0, time.Millisecond, 0)
}

func peek(t *testing.T, s Store) {
	c := charge("k", 0, 1, time.Second)
	want(t, "empty", one(s, start, c), true, 1, 0, 0)
	want(t, "again", one(s, start, c), true, 1, 0, 0)
	c.Cost = 1
	one(s, start, c)
	c.Cost = 0
	want(t, "full", one(s, start, c), true, 0, time.Second, 0)
	c.Limit = 0
	want(t, "over a lowered limit", one(s, start, c), false, 0, time.Second, time.Second)
	want(t, "left", one(s, start.Add(time.Second), c), true, 0, 0, 0)
}

func never(t *testing.T, s Store) {
	want(t, "cost above limit", one(s, start, charge("k", 3, 2, time.Second)), false, 2, 0, window.Never)
	want(t, "limit 0", one(s, start, charge("k", 1, 0, time.Second)), false, 0, 0, window.Never)
	want(t, "untouched", one(s, start, charge("k", 2, 2, time.Second)), true, 0, time.Second, 0)
}

func allOrNothing(t *testing.T, s Store) {
	one(s, start, charge("full", 1, 1, time.Second))
	batch := []window.Request{{Charges: []window.Charge{
		charge("free", 1, 2, time.Minute), charge("full", 1, 1, time.Second)}}}
	decide(s, start, batch)
	if batch[0].Admitted {
		t.Error("admitted though one of two windows is full")
	}
	want(t, "with room", batch[0].Charges[0], true, 2, 0, 0)
	want(t, "without room", batch[0].Charges[1], false, 0, time.Second, time.Second)
	want(t, "untouched", one(s, start, charge("free", 0, 2, time.Minute)), true, 2, 0, 0)
}

func sameKeyTwice(t *testing.T, s Store) {
	twice := func(cost int64) window.Request {
		batch := []window.Request{{Charges: []window.Charge{
			charge("k", cost, 10, time.Second), charge("k", cost, 5, time.Second)}}}
		decide(s, start, batch)
		return batch[0]
	}
	if r := twice(3); r.Admitted || !r.Charges[0].Fits || r.Charges[1].Fits {
		t.Errorf("6 units of 5: %+v", r)
	} else {
		want(t, "too small", r.Charges[1], false, 5, 0, window.Never)
	}
	if r := twice(2); !r.Admitted {
		t.Errorf("4 units of 5: %+v", r)
	} else {
		want(t, "larger", r.Charges[0], true, 6, time.Second, 0)
		want(t, "smaller", r.Charges[1], true, 1, time.Second, 0)
	}
}

func limitChanges(t *testing.T, s Store) {
	c := charge("k", 1, 3, time.Minute)
	for i := range 3 {
		one(s, start.Add(time.Duration(i)*time.Second), c)
	}
	at := start.Add(10 * time.Second)
	c.Limit = 1
	want(t, "lowered", one(s, at, c), false, 0, 50*time.Second, 52*time.Second)
	c.Limit = 4
	want(t, "raised", one(s, at, c), true, 0, 50*time.Second, 0)
	want(t, "full again", one(s, at, c), false, 0, 50*time.Second, 50*time.Second)
}

func windowChanges(t *testing.T, s Store) {
	for i := range 4 {
		one(s, start.Add(time.Duration(i)*10*time.Second), charge("k", 1, 9, time.Minute))
	}
	at := start.Add(30 * time.Second) // ages 30, 20, 10 and 0 seconds
	want(t, "shorter", one(s, at, charge("k", 0, 2, 15*time.Second)), true, 0, 5*time.Second, 0)
	want(t, "as long again", one(s, at, charge("k", 1, 4, time.Minute)), false, 0, 30*time.Second, 30*time.Second)
	want(t, "longer", one(s, at, charge("k", 1, 4, time.Hour)), false, 0, 3570*time.Second, 3570*time.Second)
	want(t, "kept for longer", one(s, start.Add(time.Hour-time.Second), charge("k", 1, 4, time.Hour)),
		false, 0, time.Second, time.Second)
}

func clockStepsBack(t *testing.T, s Store) {
	c := charge("k", 1, 1, time.Second)
	one(s, start, c)
	if c := one(s, start.Add(-time.Hour), c); c.Fits || c.Remaining != 0 {
		t.Errorf("an hour before: %+v, want no room", c)
	}
	want(t, "caught up", one(s, start.Add(time.Second), c), true, 0, time.Second, 0)
}

// idleForYears jumps by all that the bits of an entry could mistake for no
// time at all.
func idleForYears(t *testing.T, s Store) {
	at := start
	jumps := []time.Duration{window.MaxWindow, 50 * 24 * time.Hour, 1 << 42 * time.Microsecond,
		(1<<42 - 1) * time.Microsecond, 3 << 42 * time.Microsecond, 40 * 365 * 24 * time.Hour}
	for _, jump := range jumps {
		for _, span := range []time.Duration{time.Second, window.MaxWindow} {
			c := charge("k"+span.String(), 1, 1, span)
			want(t, fmt.Sprintf("before %v", jump), one(s, at, c), true, 0, span, 0)
			want(t, fmt.Sprintf("full, before %v", jump), one(s, at, c), false, 0, span, span)
		}
		at = at.Add(jump)
	}
	c := charge("k", 1, 1, window.MaxWindow)
	one(s, at, c)
	at = at.Add(window.MaxWindow - time.Microsecond)
	want(t, "longest window", one(s, at, c), false, 0, time.Microsecond, time.Microsecond)
}

func largeCosts(t *testing.T, s Store) {
	const limit = 3 * window.MaxCost
	c := charge("k", window.MaxCost, limit, time.Minute)
	for i := range int64(3) {
		want(t, "large", one(s, start.Add(time.Duration(i)), c), true, limit-(i+1)*window.MaxCost, time.Minute, 0)
	}
	c.Cost = 1
	want(t, "full", one(s, start.Add(time.Second), c), false, 0, 59*time.Second, 59*time.Second)
	want(t, "empty", one(s, start.Add(time.Minute), c), true, limit-1, time.Minute, 0)
}

func fill(t *testing.T, s Store) {
	one(s, start, charge("k", 10, 10, time.Minute))
	at := start.Add(10 * time.Second)
	fill := func(charges ...window.Charge) window.Request {
		batch := []window.Request{{Charges: charges, Fill: true}}
		decide(s, at, batch)
		return batch[0]
	}
	r := fill(charge("k", 7, 12, time.Minute), charge("new", 3, 12, time.Minute), charge("new", 20, 12, time.Minute))
	want(t, "2 of 7", r.Charges[0], false, 0, 50*time.Second, 50*time.Second)
	want(t, "all of 3", r.Charges[1], true, 9, time.Minute, 0)
	want(t, "9 of 20", r.Charges[2], false, 0, time.Minute, window.Never)
	for i, units := range []int64{2, 3, 9} {
		if r.Charges[i].Charged != units {
			t.Errorf("charge %d: %d units, want %d", i, r.Charges[i].Charged, units)
		}
	}
	if r.Admitted {
		t.Error("admitted though two charges did not fit")
	}
	if r = fill(charge("k", 1, 12, time.Minute)); r.Charges[0].Charged != 0 {
		t.Errorf("filled %d units into a full window, want 0", r.Charges[0].Charged)
	}
}

func refund(t *testing.T, s Store) {
	give := func(at time.Time, c window.Charge, want int64) {
		t.Helper()
		if got, err := s.Refund(context.Background(), at, c); err != nil || got != want {
			t.Errorf("refund at %v: %d, %v; want %d", at.Sub(start), got, err, want)
		}
	}
	c := charge("k", 2, 6, time.Minute)
	at := func(i int) time.Time { return start.Add(time.Duration(i) * time.Second) }
	give(start, c, 0)
	for i := range 3 {
		one(s, at(i), c)
	}
	give(at(1).Add(time.Microsecond), c, 0)
	c.Cost = 1
	give(at(1), c, 1)
	want(t, "one unit", one(s, at(3), c), true, 0, 57*time.Second, 0)
	c.Cost = 5
	give(at(0), c, 2)
	give(at(0), c, 0)
	want(t, "the oldest", one(s, at(3), charge("k", 3, 6, time.Minute)), false, 2, 58*time.Second, 58*time.Second)
	give(at(2), c, 2)
	give(at(3), c, 1)
	give(at(1), c, 1)
	want(t, "nothing left", one(s, at(4), c), true, 1, time.Minute, 0)
	one(s, at(64), charge("k", 0, 6, time.Minute))
	give(at(4), c, 0)
}

func reset(t *testing.T, s Store) {
	c := charge("k", 1, 1, time.Minute)
	one(s, start, c)
	for range 2 {
		if err := s.Reset(context.Background(), c.Key); err != nil {
			t.Fatal(err)
		}
	}
	want(t, "after a reset", one(s, start.Add(time.Second), c), true, 0, time.Minute, 0)
	want(t, "full", one(s, start.Add(2*time.Second), c), false, 0, 59*time.Second, 59*time.Second)
}

// midnight is where buckets of any whole part of a day begin.
var midnight = time.Date(2026, 5, 17, 0, 0, 0, 0, time.UTC)

func buckets(t *testing.T, s Store) {
	c := charge("k", 1, 2, time.Minute)
	c.Buckets = 6 // of 10 seconds
	left := func(d time.Duration) time.Duration { return d - time.Microsecond }
	at := midnight
	want(t, "first of a bucket", one(s, at, c), true, 1, left(70*time.Second), 0)
	at = at.Add(left(10 * time.Second))
	want(t, "last of it", one(s, at, c), true, 0, time.Minute, 0)
	at = at.Add(time.Second)
	want(t, "full", one(s, at, c), false, 0, 59*time.Second, 59*time.Second)
	at = at.Add(59*time.Second - time.Microsecond)
	want(t, "1µs early", one(s, at, c), false, 0, time.Microsecond, time.Microsecond)
	at = at.Add(time.Microsecond)
	want(t, "gone at once", one(s, at, c), true, 1, time.Minute, 0)
	if units, err := s.Refund(context.Background(), at.Add(-9*time.Second), c); units != 1 || err != nil {
		t.Errorf("refund within the bucket: %d, %v; want 1", units, err)
	}
	c.Cost = 0
	want(t, "refunded", one(s, at, c), true, 2, 0, 0)
}

func algorithmChanges(t *testing.T, s Store) {
	c := charge("k", 1, 3, time.Minute)
	one(s, midnight, c)
	c.Buckets = 2 // of 30 seconds
	want(t, "an exact one before", one(s, midnight.Add(time.Second), c), true, 1, 59*time.Second, 0)
	c.Buckets = 0 // counts no earlier than the bucket before it does
	want(t, "a bucket before", one(s, midnight.Add(2*time.Second), c), true, 0, 58*time.Second, 0)
	want(t, "full", one(s, midnight.Add(3*time.Second), c), false, 0, 57*time.Second, 57*time.Second)
	want(t, "one left", one(s, midnight.Add(time.Minute), c), true, 0, 30*time.Second-time.Microsecond, 0)
	c.Cost = 3
	want(t, "full again", one(s, midnight.Add(70*time.Second), c), false, 0, 20*time.Second-time.Microsecond, 50*time.Second)
}
