package windowtest

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/internal/window"
)

var spans = []time.Duration{time.Microsecond, 3 * time.Microsecond, time.Millisecond, 1500 * time.Microsecond,
	time.Minute, window.MaxWindow}

// pair is a store and the oracle, which get the same.
type pair struct {
	store  Store
	oracle *oracle
	now    time.Time

	refused *window.Request // the last request, if it was refused
	made    []made          // what may be refunded
}

type made struct {
	at     time.Time
	charge window.Charge
}

// asTheOracle sends the same requests to the store and to the oracle.
func asTheOracle(t *rapid.T, s Store) {
	p := &pair{store: s, oracle: newOracle(), now: start}
	fixed := rapid.Bool().Draw(t, "windows fixed")
	drawCharge := func(t *rapid.T) window.Charge {
		key := rapid.IntRange(0, 3).Draw(t, "key")
		span, parts := spans[key], []int{0, 16, 0, 7}[key]
		if !fixed {
			span = rapid.SampledFrom(spans).Draw(t, "window")
			parts = rapid.SampledFrom([]int{0, 0, 1, 2, 16, 1000}).Draw(t, "buckets")
		}
		c := charge(fmt.Sprint("key", key),
			rapid.OneOf(rapid.Int64Range(0, 3), rapid.Int64Range(0, 3), rapid.Int64Range(1<<20, 1<<24)).Draw(t, "cost"),
			rapid.OneOf(rapid.Int64Range(0, 12), rapid.Int64Range(0, 12), rapid.Int64Range(1<<22, 1<<25)).Draw(t, "limit"),
			span)
		c.Buckets = parts
		c.CountDenied = rapid.SampledFrom([]bool{false, false, true}).Draw(t, "count denied")
		if rapid.SampledFrom([]bool{false, false, true}).Draw(t, "keep") {
			c.Keep = rapid.SampledFrom(spans).Draw(t, "for")
		}
		return c
	}
	step := rapid.OneOf(rapid.Just(time.Duration(0)), rapid.SampledFrom(spans),
		rapid.Map(rapid.Int64Range(0, 1200), func(us int64) time.Duration { return time.Duration(us) * time.Microsecond }),
		rapid.SampledFrom([]time.Duration{24 * 24 * time.Hour, 1 << 42 * time.Microsecond, 100 * 24 * time.Hour}))
	t.Repeat(map[string]func(*rapid.T){
		"decide": func(t *rapid.T) {
			p.now = p.now.Add(step.Draw(t, "step"))
			batch := make([]window.Request, rapid.IntRange(1, 4).Draw(t, "requests"))
			for i := range batch {
				batch[i].Fill = rapid.SampledFrom([]bool{false, false, false, true}).Draw(t, "fill")
				for range rapid.SampledFrom([]int{1, 1, 1, 2, 3, 0}).Draw(t, "charges") {
					batch[i].Charges = append(batch[i].Charges, drawCharge(t))
				}
			}
			p.decide(t, batch)
			last := &batch[len(batch)-1]
			if !last.Admitted && !last.Fill && !slices.ContainsFunc(last.Charges, func(c window.Charge) bool { return c.CountDenied }) {
				p.refused = last
			}
		},
		"refund": func(t *rapid.T) {
			if len(p.made) == 0 {
				return
			}
			m := rapid.SampledFrom(p.made).Draw(t, "admission")
			m.charge.Cost = rapid.Int64Range(0, m.charge.Charged+1).Draw(t, "units")
			want := p.oracle.refund(m.at.UnixMicro(), m.charge)
			if got, err := s.Refund(context.Background(), m.at, m.charge); err != nil || got != want {
				t.Fatalf("refund of %+v: %d, %v; want %d", m, got, err, want)
			}
			p.refused = nil
		},
		"reset": func(t *rapid.T) {
			c := drawCharge(t)
			if err := s.Reset(context.Background(), c.Key); err != nil {
				t.Fatal(err)
			}
			delete(p.oracle.keys, string(c.Key))
			p.refused = nil
		},
		"retry": p.retry,
	})
}

func (p *pair) decide(t *rapid.T, batch []window.Request) {
	expected := make([]window.Request, len(batch))
	p.oracle.advance(p.now)
	for i, r := range batch {
		expected[i] = r
		expected[i].Charges = append([]window.Charge(nil), r.Charges...)
		p.oracle.decide(&expected[i])
	}
	decide(p.store, p.now, batch)
	if !reflect.DeepEqual(batch, expected) {
		t.Fatalf("at %v:\n got %+v\nwant %+v", p.now, batch, expected)
	}
	p.refused = nil
	for _, r := range batch {
		for _, c := range r.Charges {
			if c.Charged > 0 {
				p.made = append(p.made, made{r.At, c})
			}
		}
	}
}

// retry sends a request again when it may pass, and a microsecond earlier.
func (p *pair) retry(t *rapid.T) {
	if p.refused == nil {
		return
	}
	var wait time.Duration
	for _, c := range p.refused.Charges {
		if c.RetryAfter == window.Never {
			return
		}
		wait = max(wait, c.RetryAfter)
	}
	p.now = p.refused.At.Add(wait - time.Microsecond)
	again := []window.Request{*p.refused}
	if p.decide(t, again); again[0].Admitted {
		t.Fatalf("passed 1µs before its time: %+v", again)
	}
	p.now = p.now.Add(time.Microsecond)
	if p.decide(t, again); !again[0].Admitted {
		t.Fatalf("did not pass after its wait of %v: %+v", wait, again)
	}
}

// neverOverTheLimit asks with exact windows and buckets of any number in turn,
// and looks at no more than the instants and the units of what was admitted.
func neverOverTheLimit(t *rapid.T, s Store) {
	c := charge("k", 0, rapid.Int64Range(1, 20).Draw(t, "limit"),
		rapid.SampledFrom([]time.Duration{10 * time.Microsecond, 997 * time.Microsecond, time.Second}).Draw(t, "window"))
	counts := rapid.SliceOfN(rapid.IntRange(0, 20), 1, 3).Draw(t, "buckets in use")
	var longest time.Duration // of their parts
	for _, n := range counts {
		if n > 0 {
			longest = max(longest, (c.Window+time.Duration(n-1)*time.Microsecond)/time.Duration(n))
		}
	}
	var admitted []window.Request
	// units in (at-span, at]; the slice is in the order of time.
	units := func(at time.Time, span time.Duration) (sum int64) {
		for i := len(admitted) - 1; i >= 0 && at.Sub(admitted[i].At) < span; i-- {
			sum += admitted[i].Charges[0].Charged
		}
		return sum
	}
	now := start
	for range rapid.IntRange(1, 60).Draw(t, "requests") {
		now = now.Add(time.Duration(rapid.Int64Range(0, c.Window.Microseconds()/3).Draw(t, "step")) * time.Microsecond)
		c.Cost, c.Buckets = rapid.Int64Range(0, 4).Draw(t, "cost"), rapid.SampledFrom(counts).Draw(t, "buckets")
		batch := []window.Request{{Charges: []window.Charge{c}}}
		decide(s, now, batch)
		if !batch[0].Admitted {
			if used := units(now, c.Window+max(longest, time.Microsecond)-time.Microsecond); used+c.Cost <= c.Limit {
				t.Fatalf("denied %+v with %d units in the window and one part", batch[0], used)
			}
			continue
		}
		admitted = append(admitted, batch[0])
		if used := units(now, c.Window); used > c.Limit {
			t.Fatalf("%d units in %v, limit %d", used, c.Window, c.Limit)
		}
	}
}

// steadyLoad offers as much as the bound of the algorithm says must pass, at
// even intervals.
func steadyLoad(t *rapid.T, s Store) {
	c := charge("k", 1, rapid.Int64Range(1, 50).Draw(t, "limit"),
		time.Duration(rapid.Int64Range(1, 5000).Draw(t, "window"))*time.Microsecond)
	c.Buckets = rapid.IntRange(0, 24).Draw(t, "buckets")
	every := c.Window // a window's worth
	if n := time.Duration(c.Buckets); n > 0 {
		every += (c.Window + n*time.Microsecond - time.Microsecond) / n / time.Microsecond * time.Microsecond
		every -= time.Microsecond
	}
	interval := (every + time.Duration(c.Limit-1)*time.Microsecond) / time.Duration(c.Limit) / time.Microsecond * time.Microsecond
	now := start.Add(time.Duration(rapid.Int64Range(0, 5000).Draw(t, "phase")) * time.Microsecond)
	for i := range 3 * c.Limit {
		if c := one(s, now, c); !c.Fits {
			t.Fatalf("request %d, one every %v, was denied: %+v", i, interval, c)
		}
		now = now.Add(interval)
	}
}
