package window_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/internal/window"
	"github.com/weirhq/weir/internal/window/windowtest"
)

// reloaded is saved and loaded into another store before every decision, which
// must change nothing.
type reloaded struct {
	*window.Memory
	last time.Time
}

func (s *reloaded) Decide(ctx context.Context, now time.Time, batch []window.Request) error {
	was := s.Memory
	s.Memory = window.NewMemory()
	s.Sweep(s.last, 0) // its time does not go back
	if err := reload(s.Memory, was); err != nil {
		return err
	}
	if now.After(s.last) {
		s.last = now
	}
	return s.Memory.Decide(ctx, now, batch)
}

// reload loads into a store what another holds.
func reload(into, from *window.Memory) error {
	for part := range window.Parts {
		if err := into.LoadPart(from.AppendPart(nil, part)); err != nil {
			return err
		}
	}
	return nil
}

func TestReloadedMemory(t *testing.T) {
	windowtest.Run(t, func(*testing.T) windowtest.Store { return &reloaded{Memory: window.NewMemory()} })
}

// A part that is loaded replaces what there is of its keys, and the budget counts
// what is there.
func TestLoadReplaces(t *testing.T) {
	from, into := window.NewMemory(), window.NewMemory()
	for i := range 1000 {
		key := fmt.Append(nil, "key", i)
		for n := range i % 5 {
			admit(from, start.Add(time.Duration(n)*time.Millisecond), key, 3, time.Hour)
		}
		admit(into, start, key, 1, time.Minute)
	}
	alone := window.NewMemory()
	for _, m := range []*window.Memory{into, into, alone} {
		if err := reload(m, from); err != nil {
			t.Fatal(err)
		}
	}
	if got, most := into.Usage(), int64(1000*140); got.Keys != 1000 || got.Bytes > most {
		t.Errorf("%+v, want 1000 keys, and at most %d bytes", got, most)
	}
	if got, want := alone.Usage().Keys, from.Usage().Keys; got != want {
		t.Errorf("%d keys, want %d", got, want)
	}
	for i := range 1000 {
		batch := []window.Request{{Charges: []window.Charge{{Key: fmt.Append(nil, "key", i), Limit: 100, Window: time.Hour}}}}
		decide(into, start.Add(10*time.Millisecond), batch)
		want := 100 - int64(3*(i%5))
		if i%5 == 0 {
			want = 99 // from does not know the key
		}
		if got := batch[0].Charges[0].Remaining; got != want {
			t.Fatalf("key %d: %d left, want %d", i, got, want)
		}
	}
	small := window.NewMemory()
	small.Bound(20_000)
	if err := reload(small, from); err != nil {
		t.Fatal(err)
	}
	if u := small.Usage(); u.Bytes > 20_000 || u.EvictedLive == 0 {
		t.Errorf("%+v, want at most 20000 bytes", u)
	}
}

// What a store holds after a fold over blocks is what another holds that loads
// the parts of a walk over the first, taken while it went on, and folds the
// blocks since the walk began, each part before the first block it does not have.
func TestFuzzyWalk(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type part struct {
			tag  int
			data []byte
		}
		var parts []part
		const keys = 12
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		spans := []time.Duration{time.Second, 3 * time.Second, time.Minute}
		type block struct {
			at      time.Time
			charges []window.Charge
			reset   []byte
		}
		blocks := make([]block, rapid.IntRange(1, 60).Draw(t, "blocks"))
		at := start
		for i := range blocks {
			at = at.Add(time.Duration(random.IntN(500_000)) * time.Microsecond)
			blocks[i].at = at
			for range random.IntN(5) {
				key := random.IntN(keys)
				c := window.Charge{Key: fmt.Append(nil, "key", key), Cost: random.Int64N(4), Limit: 9, Window: spans[key%3]}
				if key%4 == 0 {
					c.Buckets = 6
				}
				c.CountDenied = key%5 == 0
				blocks[i].charges = append(blocks[i].charges, c)
			}
			if random.IntN(6) == 0 {
				blocks[i].reset = fmt.Append(nil, "key", random.IntN(keys))
			}
		}
		apply := func(m *window.Memory, b *block) {
			if b.reset != nil {
				_ = m.Reset(t.Context(), b.reset)
			}
			for _, c := range b.charges {
				m.Admit(b.at, c)
			}
		}
		original := window.NewMemory()
		begun := random.IntN(len(blocks) + 1) // blocks that are in the windows when the walk begins
		next := 0
		for i := range len(blocks) + 1 {
			if i >= begun && next < window.Parts {
				for range random.IntN(window.Parts) {
					if next < window.Parts {
						parts = append(parts, part{i, original.AppendPart(nil, next)})
						next++
					}
				}
			}
			if i < len(blocks) {
				original.Sweep(blocks[i].at, random.IntN(8))
				apply(original, &blocks[i])
			}
		}
		for ; next < window.Parts; next++ {
			parts = append(parts, part{len(blocks), original.AppendPart(nil, next)})
		}
		recovered := window.NewMemory()
		for i := begun; i <= len(blocks); i++ {
			for len(parts) > 0 && parts[0].tag <= i {
				if err := recovered.LoadPart(parts[0].data); err != nil {
					t.Fatal(err)
				}
				parts = parts[1:]
			}
			if i < len(blocks) {
				apply(recovered, &blocks[i])
			}
		}
		for range 20 {
			at = at.Add(time.Duration(random.IntN(700_000)) * time.Microsecond)
			for key := range keys {
				c := window.Charge{Key: fmt.Append(nil, "key", key), Cost: random.Int64N(4), Limit: 9, Window: spans[key%3]}
				got := []window.Request{{Charges: []window.Charge{c}}}
				want := []window.Request{{Charges: []window.Charge{c}}}
				decide(recovered, at, got)
				decide(original, at, want)
				g, w := got[0].Charges[0], want[0].Charges[0]
				if g.Fits != w.Fits || g.Remaining != w.Remaining || g.Reset != w.Reset || g.RetryAfter != w.RetryAfter {
					t.Fatalf("key %d, %v after: %+v, want %+v", key, at.Sub(start), g, w)
				}
			}
		}
	})
}

// Whatever is loaded, it is refused or makes windows that work.
func FuzzLoadPart(f *testing.F) {
	m := window.NewMemory()
	for i := range 6 {
		for n := range i {
			admit(m, start.Add(time.Duration(n*i)*time.Second), fmt.Append(nil, "k", i), int64(1+n<<20), time.Hour)
		}
	}
	var all []byte
	for part := range window.Parts {
		if data := m.AppendPart(nil, part); len(data) > 0 {
			f.Add(data)
			all = append(all, data...)
		}
	}
	f.Add(all)
	f.Fuzz(func(t *testing.T, data []byte) {
		m := window.NewMemory()
		m.Sweep(start, 0)
		if err := m.LoadPart(data); err != nil {
			if !errors.Is(err, window.ErrSaved) {
				t.Fatal(err)
			}
			return
		}
		keys := m.Usage().Keys
		for i := range 7 {
			c := window.Charge{Key: fmt.Append(nil, "k", i), Cost: 5, Limit: 9, Window: time.Minute, CountDenied: i%2 == 0}
			decide(m, start.Add(time.Duration(i)*time.Second), []window.Request{{Charges: []window.Charge{c}}})
		}
		if err := reload(window.NewMemory(), m); err != nil {
			t.Fatal(err)
		}
		for _, after := range []time.Duration{time.Hour, window.MaxWindow, 1000 * window.MaxWindow} {
			m.Sweep(start.Add(after), 1<<30)
		}
		if m.Usage().Keys > keys+7 {
			t.Fatalf("%d keys of %d", m.Usage().Keys, keys)
		}
	})
}

func BenchmarkSavePart(b *testing.B) {
	const keys = 1_000_000
	m := window.NewMemory()
	for i := range keys {
		admit(m, start, fmt.Appendf(nil, "acme/per-minute/%d", i), 1, time.Minute)
		admit(m, start.Add(time.Second), fmt.Appendf(nil, "acme/per-minute/%d", i), 1, time.Minute)
	}
	var data []byte
	part := 0
	b.ReportAllocs()
	for b.Loop() {
		data = m.AppendPart(data[:0], part%window.Parts)
		part++
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)*window.Parts/keys, "ns/key")
	b.ReportMetric(float64(len(data))*window.Parts/keys, "B/key")
}

func BenchmarkLoadPart(b *testing.B) {
	const keys = 100_000
	from := window.NewMemory()
	for i := range keys {
		admit(from, start, fmt.Appendf(nil, "acme/per-minute/%d", i), 1, time.Minute)
		admit(from, start.Add(time.Second), fmt.Appendf(nil, "acme/per-minute/%d", i), 1, time.Minute)
	}
	b.ReportAllocs()
	for b.Loop() { // an operation is a whole store
		if err := reload(window.NewMemory(), from); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/keys, "ns/key")
}
