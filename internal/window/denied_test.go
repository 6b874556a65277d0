package window_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/internal/window"
)

// What is denied counts like what is admitted: the store answers as one would
// that keeps all of it, and takes no more memory than the limit.
func TestCountDenied(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type admission struct {
			at    time.Duration
			units int64
		}
		var all []admission
		m := window.NewMemory()
		limit := rapid.Int64Range(1, 6).Draw(t, "limit")
		var at time.Duration
		used := func(at time.Duration) (units int64) {
			for _, a := range all {
				if a.at > at-time.Second && a.at <= at {
					units += a.units
				}
			}
			return units
		}
		for range rapid.IntRange(1, 60).Draw(t, "requests") {
			at += time.Duration(rapid.SampledFrom([]int{0, 1, 100_000, 300_000, 999_999, 2_000_000}).Draw(t, "wait")) * time.Microsecond
			cost := rapid.Int64Range(0, 7).Draw(t, "cost")
			batch := []window.Request{{Charges: []window.Charge{{Key: []byte("k"), Cost: cost, Limit: limit, Window: time.Second, CountDenied: true}}}}
			decide(m, start.Add(at), batch)
			c := &batch[0].Charges[0]
			fits := used(at)+cost <= limit
			// A window that denials have filled is full: a peek still fits.
			if cost == 0 {
				fits = true
			}
			if c.Fits != fits {
				t.Fatalf("at %v: %d used, cost %d of %d: fits %v", at, used(at), cost, limit, c.Fits)
			}
			all = append(all, admission{at, cost})
			if c.Fits != fits || c.Remaining != max(0, limit-used(at)) {
				t.Fatalf("at %v: %d used, cost %d of %d: %+v", at, used(at), cost, limit, c)
			}
			if fits || cost > limit {
				if !fits && c.RetryAfter != window.Never {
					t.Fatalf("cost %d of %d: retry after %v", cost, limit, c.RetryAfter)
				}
				continue
			}
			for _, early := range []time.Duration{0, time.Microsecond} {
				when := at + c.RetryAfter - early
				if room := used(when)+cost <= limit; room != (early == 0) {
					t.Fatalf("at %v: cost %d of %d, retry after %v: %v earlier there is room: %v", at, cost, limit, c.RetryAfter, early, room)
				}
			}
		}
	})
}

func TestDenialsHoldNoMoreThanTheLimit(t *testing.T) {
	m := window.NewMemory()
	batch := []window.Request{{Charges: []window.Charge{
		{Key: []byte("k"), Cost: 1, Limit: 100, Window: time.Hour, CountDenied: true}}}}
	at := start
	for range 1000 {
		at = at.Add(time.Microsecond)
		decide(m, at, batch)
	}
	if n := testing.AllocsPerRun(10_000, func() {
		at = at.Add(time.Microsecond)
		decide(m, at, batch)
	}); n != 0 {
		t.Errorf("%v allocations a denial, want none", n)
	}
	if c := batch[0].Charges[0]; c.Remaining != 0 || c.RetryAfter != time.Hour-99*time.Microsecond {
		t.Errorf("%+v", c)
	}
}
