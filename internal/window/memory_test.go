package window_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/window"
	"github.com/weirhq/weir/internal/window/windowtest"
)

var _ windowtest.Store = (*window.Memory)(nil)

var start = time.Date(2026, 5, 17, 10, 5, 3, 0, time.UTC)

func TestMemory(t *testing.T) {
	windowtest.Run(t, func(*testing.T) windowtest.Store { return window.NewMemory() })
}

// swept sweeps before every decision, which must change nothing.
type swept struct{ *window.Memory }

func (s swept) Decide(now time.Time, batch []window.Request) {
	s.Sweep(now, 1<<30)
	s.Memory.Decide(now, batch)
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
			window.NewMemory().Decide(start, []window.Request{{Charges: []window.Charge{c}}})
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
		m.Admit(start, fmt.Appendf(nil, "key-%d", i), 1, span)
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
	m.Decide(at, []window.Request{{Charges: []window.Charge{c}}})
	m.Sweep(start.Add(2*time.Hour), 2*keys)
	if m.Len() != 0 {
		t.Errorf("%d keys left, want none", m.Len())
	}
}

func TestPeekAndDenialHoldNoMemory(t *testing.T) {
	m := window.NewMemory()
	m.Decide(start, []window.Request{
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
	decide := func() {
		at = at.Add(7 * time.Millisecond)
		m.Decide(at, batch)
	}
	for range 1000 {
		decide()
	}
	if n := testing.AllocsPerRun(1000, decide); n != 0 {
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
			m.Decide(at, []window.Request{{Charges: []window.Charge{c}}})
			at = at.Add(time.Minute)
		}
		batch := []window.Request{{Charges: []window.Charge{{Key: []byte("k"), Limit: 9, Window: time.Hour}}}}
		m.Decide(at, batch)
		if got, want := batch[0].Charges[0].Remaining, 9-int64(3*keep/time.Hour); got != want {
			t.Errorf("kept for %v: %d left, want %d", keep, got, want)
		}
	}
}

// heap returns the bytes in use after a collection.
func heap() int64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

func TestMemoryOfIdleKeys(t *testing.T) {
	// Names of 16 bytes. Maps are at their emptiest just after they have grown,
	// as they have at 120,000 keys and at a million.
	for _, keys := range []int{90_000, 120_000} {
		before := heap()
		m := window.NewMemory()
		var name [16]byte
		for i := range keys {
			binary.LittleEndian.PutUint64(name[:], uint64(i))
			m.Admit(start, name[:], 1, time.Hour)
		}
		perKey := (heap()-before)/int64(keys) - int64(len(name))
		t.Logf("%d keys: %d bytes a key besides its name", keys, perKey)
		if perKey > 120 {
			t.Errorf("%d keys: %d bytes a key besides its name, want at most 120", keys, perKey)
		}
		for range parts {
			m.Sweep(start.Add(2*time.Hour), keys/parts)
		}
		if left := heap() - before; left > 1<<20 {
			t.Errorf("%d bytes left after all keys are swept", left)
		}
		runtime.KeepAlive(m)
	}
}

const parts = 1024 // sweeps of a 1024th each that go once around, at least

func TestMemoryOfUnits(t *testing.T) {
	const keys, limit = 40, 5000
	before := heap()
	m := window.NewMemory()
	at := start
	for range limit + 10 { // the last are denied
		at = at.Add(time.Microsecond)
		for k := range keys {
			m.Decide(at, []window.Request{{Charges: []window.Charge{
				{Key: fmt.Append(nil, k), Cost: 1, Limit: limit, Window: time.Hour}}}})
		}
	}
	perUnit := float64(heap()-before) / (keys * limit)
	t.Logf("%.2f bytes a unit", perUnit)
	if perUnit > 9 {
		t.Errorf("%.2f bytes an admitted unit, want at most 9", perUnit)
	}
	// All but the last admission leave: a sweep gives their memory back.
	m.Sweep(at.Add(time.Hour-20*time.Microsecond), keys)
	for range 2 {
		m.Sweep(at.Add(time.Hour-11*time.Microsecond), 1<<20)
	}
	if left := float64(heap() - before); left > keys*1000 {
		t.Errorf("%.0f bytes left for %d keys with one admission each", left, keys)
	}
	if m.Len() != keys {
		t.Errorf("%d keys left, want %d", m.Len(), keys)
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
		m.Decide(at, batch)
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
		m.Admit(start, fmt.Appendf(nil, "acme/per-minute/%d", i), 1, time.Minute)
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
			m.Decide(at, batch)
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
	const keys = 1_000_000
	m := window.NewMemory()
	for i := range keys {
		m.Admit(start, fmt.Appendf(nil, "acme/per-minute/%d", i), 1, time.Minute)
	}
	b.ReportAllocs()
	for b.Loop() { // an operation is one of 1024 parts
		m.Sweep(start, 0)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(keys/parts), "ns/key")
}
