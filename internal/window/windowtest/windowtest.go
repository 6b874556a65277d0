// Package windowtest holds every store of sliding windows to the contract of
// package window.
package windowtest

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/internal/window"
)

// Store is what a store of sliding windows does. The contract of its methods
// is that of window.Memory.
type Store interface {
	Decide(now time.Time, batch []window.Request)
	Admit(at time.Time, key []byte, cost int64, window time.Duration)
	Fill(now time.Time, c *window.Charge) int64
}

// Run holds a store to the contract. open returns a store without admissions,
// whose time is the one its methods are given; it is called for every case.
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
	t.Run("replay and fill", func(t *testing.T) { replayAndFill(t, open(t)) })
	t.Run("as the oracle", func(t *testing.T) {
		rapid.Check(t, func(rt *rapid.T) { asTheOracle(rt, open(t)) })
	})
}

var start = time.Date(2026, 5, 17, 10, 5, 3, 0, time.UTC)

// one decides a request with one charge.
func one(s Store, at time.Time, c window.Charge) window.Charge {
	batch := []window.Request{{Charges: []window.Charge{c}}}
	s.Decide(at, batch)
	if batch[0].Admitted != batch[0].Charges[0].Fits {
		panic("windowtest: a request with one charge was admitted without room, or the reverse")
	}
	return batch[0].Charges[0]
}

func charge(key string, cost, limit int64, span time.Duration) window.Charge {
	return window.Charge{Key: []byte(key), Cost: cost, Limit: limit, Window: span}
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
	s.Decide(start, batch)
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
		s.Decide(start, batch)
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
	want(t, "an hour before", one(s, start.Add(-time.Hour), c), false, 0, time.Second, time.Second)
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

func replayAndFill(t *testing.T, s Store) {
	for i := range 5 {
		s.Admit(start.Add(time.Duration(i)*time.Second), []byte("k"), 2, time.Minute)
	}
	at := start.Add(10 * time.Second)
	want(t, "replayed past the limit", one(s, at, charge("k", 1, 8, time.Minute)), false, 0, 50*time.Second, 51*time.Second)

	c := charge("k", 7, 12, time.Minute)
	if got := s.Fill(at, &c); got != 2 {
		t.Errorf("filled %d units, want 2", got)
	}
	want(t, "filled", c, false, 0, 50*time.Second, 52*time.Second)
	if got := s.Fill(at, &c); got != 0 {
		t.Errorf("filled %d units of a full window, want 0", got)
	}
	c = charge("new", 7, 12, time.Minute)
	if got := s.Fill(at, &c); got != 7 {
		t.Errorf("filled %d units of a new window, want 7", got)
	}
	want(t, "new", c, true, 5, time.Minute, 0)
}

// asTheOracle sends the same requests to the store and to the oracle.
func asTheOracle(t *rapid.T, s Store) {
	o := newOracle()
	now := start
	spans := []time.Duration{time.Microsecond, 3 * time.Microsecond, time.Millisecond, 1500 * time.Microsecond,
		time.Minute, 25 * 24 * time.Hour}
	fixed := rapid.Bool().Draw(t, "windows fixed")
	drawCharge := func(t *rapid.T) window.Charge {
		key := rapid.IntRange(0, 3).Draw(t, "key")
		span := spans[key]
		if !fixed {
			span = rapid.SampledFrom(spans).Draw(t, "window")
		}
		return charge(fmt.Sprint("key", key),
			rapid.OneOf(rapid.Int64Range(0, 3), rapid.Int64Range(0, 3), rapid.Int64Range(1<<21, 1<<24)).Draw(t, "cost"),
			rapid.OneOf(rapid.Int64Range(0, 12), rapid.Int64Range(0, 12), rapid.Int64Range(1<<22, 1<<25)).Draw(t, "limit"),
			span)
	}
	step := rapid.OneOf(rapid.Just(time.Duration(0)), rapid.SampledFrom(spans),
		rapid.Map(rapid.Int64Range(-5, 1200), func(us int64) time.Duration { return time.Duration(us) * time.Microsecond }),
		rapid.SampledFrom([]time.Duration{24 * 24 * time.Hour, 1 << 42 * time.Microsecond, 7 * 365 * 24 * time.Hour}))
	decide := func(t *rapid.T, batch []window.Request) {
		expected := make([]window.Request, len(batch))
		o.advance(now)
		for i, r := range batch {
			expected[i].Charges = append([]window.Charge(nil), r.Charges...)
			o.decide(&expected[i])
		}
		s.Decide(now, batch)
		if !reflect.DeepEqual(batch, expected) {
			t.Fatalf("at %v:\n got %+v\nwant %+v", now, batch, expected)
		}
	}
	var refused *window.Request // last one that was refused, if nothing came since
	t.Repeat(map[string]func(*rapid.T){
		"decide": func(t *rapid.T) {
			now = now.Add(step.Draw(t, "step"))
			batch := make([]window.Request, rapid.IntRange(1, 4).Draw(t, "requests"))
			for i := range batch {
				for range rapid.SampledFrom([]int{1, 1, 1, 2, 3, 0}).Draw(t, "charges") {
					batch[i].Charges = append(batch[i].Charges, drawCharge(t))
				}
			}
			decide(t, batch)
			refused = nil
			if last := &batch[len(batch)-1]; !last.Admitted {
				refused = last
			}
		},
		"admit": func(t *rapid.T) {
			c := drawCharge(t)
			now = now.Add(step.Draw(t, "step"))
			o.advance(now)
			o.touch(c.Key, c.Window)
			o.add(c.Key, c.Cost)
			s.Admit(now, c.Key, c.Cost, c.Window)
			refused = nil
		},
		"fill": func(t *rapid.T) {
			c := drawCharge(t)
			now = now.Add(step.Draw(t, "step"))
			o.advance(now)
			expected := c
			units := o.fill(&expected)
			if got := s.Fill(now, &c); got != units || !reflect.DeepEqual(c, expected) {
				t.Fatalf("filled %d of %+v\nwant %d of %+v", got, c, units, expected)
			}
			refused = nil
		},
		"retry": func(t *rapid.T) {
			if refused == nil {
				return
			}
			var wait time.Duration
			for _, c := range refused.Charges {
				if c.RetryAfter == window.Never {
					return
				}
				wait = max(wait, c.RetryAfter)
			}
			now = time.UnixMicro(o.now).Add(wait - time.Microsecond)
			again := []window.Request{*refused}
			if decide(t, again); again[0].Admitted {
				t.Fatalf("passed 1µs before its time: %+v", again)
			}
			now = now.Add(time.Microsecond)
			if decide(t, again); !again[0].Admitted {
				t.Fatalf("did not pass after its wait of %v: %+v", wait, again)
			}
			refused = nil
		},
	})
}
