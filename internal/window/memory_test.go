package window_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/window"
	"github.com/weirhq/weir/internal/window/windowtest"
)

var start = time.Date(2026, 5, 17, 10, 5, 3, 0, time.UTC)

func TestMemory(t *testing.T) {
	windowtest.Run(t, func(*testing.T) windowtest.Store { return window.NewMemory() })
}

// decide is m.Decide, which does not fail.
func decide(m *window.Memory, at time.Time, batch []window.Request) {
	_ = m.Decide(context.Background(), at, batch)
}

func admit(m *window.Memory, at time.Time, key []byte, cost int64, span time.Duration) {
	m.Admit(at, window.Charge{Key: key, Cost: cost, Window: span})
}

// swept sweeps before every decision, which must change nothing.
type swept struct{ *window.Memory }

func (s swept) Decide(ctx context.Context, now time.Time, batch []window.Request) error {
	s.Sweep(now, 1<<30)
	return s.Memory.Decide(ctx, now, batch)
}

func TestSweptMemory(t *testing.T) {
	windowtest.Run(t, func(*testing.T) windowtest.Store { return swept{window.NewMemory()} })
}

func TestChargeOutOfBoundsPanics(t *testing.T) {
	good := window.Charge{Key: []byte("k"), Cost: 1, Limit: 1, Window: time.Second}
	for name, breakIt := range map[string]func(c *window.Charge){
		"negative cost":    func(c *window.Charge) { c.Cost = -1 },
		"cost too large":   func(c *window.Charge) { c.Cost = window.MaxCost + 1 },
		"no window":        func(c *window.Charge) { c.Window = 0 },
		"negative window":  func(c *window.Charge) { c.Window = -time.Second },
		"window too long":  func(c *window.Charge) { c.Window = window.MaxWindow + time.Microsecond },
		"negative limit":   func(c *window.Charge) { c.Limit = -1 },
		"limit too large":  func(c *window.Charge) { c.Limit = window.MaxLimit + 1 },
		"negative buckets": func(c *window.Charge) { c.Buckets = -1 },
		"too many buckets": func(c *window.Charge) { c.Buckets = window.MaxBuckets + 1 },
		"keeps too long":   func(c *window.Charge) { c.Keep = window.MaxWindow + 1 },
		"keeps negative":   func(c *window.Charge) { c.Keep = -1 },
		"window too exact": func(c *window.Charge) { c.Window = time.Microsecond + 1 },
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			breakIt(&c)
			defer func() {
				if recover() == nil {
					t.Errorf("took %+v", c)
				}
			}()
			decide(window.NewMemory(), start, []window.Request{{Charges: []window.Charge{c}}})
		})
	}
}

func TestSweepFreesWhatHasLeft(t *testing.T) {
	const keys = 20_000
	m := window.NewMemory()
	for i := range keys {
		span := time.Second
		if i%10 == 0 {
			span = time.Hour
		}
		admit(m, start, fmt.Appendf(nil, "key-%d", i), 1, span)
	}
	if m.Len() != keys {
		t.Fatalf("%d keys, want %d", m.Len(), keys)
	}
	m.Sweep(start.Add(time.Second-time.Microsecond), 2*keys)
	if m.Len() != keys {
		t.Fatalf("%d keys before any has left, want %d", m.Len(), keys)
	}
	at := start.Add(time.Second)
	m.Sweep(at, 1000)
	if freed := keys - m.Len(); freed < 500 || freed > 1500 {
		t.Errorf("a sweep of 1000 keys freed %d", freed)
	}
	for range 40 {
		m.Sweep(at, 1000)
	}
	if m.Len() != keys/10 {
		t.Errorf("%d keys left, want %d", m.Len(), keys/10)
	}
	c := window.Charge{Key: []byte("key-10"), Cost: 1, Limit: 1, Window: time.Hour}
	decide(m, at, []window.Request{{Charges: []window.Charge{c}}})
	m.Sweep(start.Add(2*time.Hour), 2*keys)
	if m.Len() != 0 {
		t.Errorf("%d keys left, want none", m.Len())
	}
}

func TestPeekAndDenialHoldNoMemory(t *testing.T) {
	m := window.NewMemory()
	decide(m, start, []window.Request{
		{Charges: []window.Charge{{Key: []byte("peek"), Limit: 1, Window: time.Second}}},
		{Charges: []window.Charge{{Key: []byte("denied"), Cost: 2, Limit: 1, Window: time.Second}}},
	})
	if m.Len() != 0 {
		t.Errorf("%d keys, want none", m.Len())
	}
}

func TestKnownKeyAllocatesNothing(t *testing.T) {
	m := window.NewMemory()
	batch := []window.Request{{Charges: []window.Charge{
		{Key: []byte("a"), Cost: 1, Limit: 100, Window: time.Second},
		{Key: []byte("b"), Cost: 1, Limit: 50, Window: time.Second}}}}
	at := start
	once := func() {
		at = at.Add(7 * time.Millisecond)
		decide(m, at, batch)
	}
	for range 1000 {
		once()
	}
	if n := testing.AllocsPerRun(1000, once); n != 0 {
		t.Errorf("%v allocations a decision, want none", n)
	}
}

// A key whose window will be longer is kept for that one.
func TestKeep(t *testing.T) {
	for _, keep := range []time.Duration{0, time.Hour} {
		m := window.NewMemory()
		c := window.Charge{Key: []byte("k"), Cost: 1, Limit: 9, Window: time.Second, Keep: keep}
		at := start
		for range 3 {
			decide(m, at, []window.Request{{Charges: []window.Charge{c}}})
			at = at.Add(time.Minute)
		}
		batch := []window.Request{{Charges: []window.Charge{{Key: []byte("k"), Limit: 9, Window: time.Hour}}}}
		decide(m, at, batch)
		if got, want := batch[0].Charges[0].Remaining, 9-int64(3*keep/time.Hour); got != want {
			t.Errorf("kept for %v: %d left, want %d", keep, got, want)
		}
	}
}

func BenchmarkDecideOneKey(b *testing.B) {
	m := window.NewMemory()
	batch := []window.Request{{Charges: []window.Charge{
		{Key: []byte("acme/per-minute/42"), Cost: 1, Limit: 1000, Window: time.Minute}}}}
	at := start
	admitted := 0
	b.ReportAllocs()
	for b.Loop() {
		at = at.Add(40 * time.Millisecond)
		decide(m, at, batch)
		if batch[0].Admitted {
			admitted++
		}
	}
	b.ReportMetric(float64(admitted)/float64(b.N), "admitted/op")
}

func BenchmarkDecideMillionKeys(b *testing.B) {
	const keys, size = 1_000_000, 64
	m := window.NewMemory()
	random := rand.New(rand.NewPCG(1, 2))
	zipf := rand.NewZipf(random, 1.1, 1, keys-1)
	names := make([][]byte, 1<<20)
	for i := range names {
		names[i] = fmt.Appendf(nil, "acme/per-minute/%d", zipf.Uint64())
	}
	for i := range keys {
		admit(m, start, fmt.Appendf(nil, "acme/per-minute/%d", i), 1, time.Minute)
	}
	batch := make([]window.Request, size)
	for i := range batch {
		batch[i].Charges = []window.Charge{{Cost: 1, Limit: 1000, Window: time.Minute}}
	}
	at := start
	var next, admitted, decided int
	b.ReportAllocs()
	for b.Loop() { // an operation is one decision
		i := decided % size
		batch[i].Charges[0].Key = names[next]
		next = (next + 1) % len(names)
		if decided++; i == size-1 {
			at = at.Add(size * 20 * time.Microsecond) // 50,000 a second
			decide(m, at, batch)
			for j := range batch {
				if batch[j].Admitted {
					admitted++
				}
			}
		}
	}
	b.ReportMetric(float64(admitted)/float64(b.N), "admitted/op")
	b.ReportMetric(float64(m.Len()), "keys")
}

func BenchmarkSweep(b *testing.B) {
	const keys, sweep = 1_000_000, 2000
	m := window.NewMemory()
	for i := range keys {
		admit(m, start, fmt.Appendf(nil, "acme/per-minute/%d", i), 1, time.Minute)
	}
	b.ReportAllocs()
	for b.Loop() {
		m.Sweep(start, sweep)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/sweep, "ns/key")
}
