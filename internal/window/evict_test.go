package window_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/window"
)

// What the budget counts is what the heap has.
func TestBudget(t *testing.T) {
	const budget, keys = 16 << 20, 400_000
	before := heap()
	m := window.NewMemory()
	m.Bound(budget)
	random := rand.New(rand.NewPCG(3, 4))
	batch := []window.Request{{Charges: []window.Charge{{Cost: 1, Limit: 1000, Window: time.Hour}}}}
	at := start
	for range keys {
		at = at.Add(time.Millisecond)
		batch[0].Charges[0].Key = fmt.Append(nil, "key", random.IntN(keys/2))
		decide(m, at, batch)
		if got := m.Usage().Bytes; got > budget {
			t.Fatalf("%d bytes, want at most %d", got, budget)
		}
	}
	u := m.Usage()
	got := heap() - before
	t.Logf("%+v, %d bytes of heap", u, got)
	runtime.KeepAlive(m)
	if got > budget*11/10 || got < budget*8/10 {
		t.Errorf("%d bytes of heap with a budget of %d", got, budget)
	}
	if u.EvictedLive == 0 || u.Evicted < u.EvictedLive || u.Keys != m.Len() {
		t.Errorf("%+v", u)
	}
	m.Bound(budget / 2)
	if u := m.Usage(); u.Bytes > budget/2 {
		t.Errorf("%d bytes after the budget was halved to %d", u.Bytes, budget/2)
	}
}

// Keys in use are not those evicted, and one with nothing to count goes first.
func TestEvictsWhatIsIdle(t *testing.T) {
	const budget, busy, idle = 4 << 20, 1000, 30_000
	m := window.NewMemory()
	m.Bound(budget)
	at := start
	charge := func(prefix string, i int, span time.Duration) {
		decide(m, at, []window.Request{{Charges: []window.Charge{
			{Key: fmt.Append(nil, prefix, i), Cost: 1, Limit: 1 << 30, Window: span}}}})
	}
	for i := range 4 * idle {
		at = at.Add(10 * time.Microsecond)
		charge("idle", i, time.Hour)
		charge("busy", i%busy, time.Hour)
	}
	kept := 0
	for i := range busy {
		batch := []window.Request{{Charges: []window.Charge{{Key: fmt.Append(nil, "busy", i), Limit: 1 << 30, Window: time.Hour}}}}
		decide(m, at, batch)
		if batch[0].Charges[0].Limit-batch[0].Charges[0].Remaining == 4*idle/busy {
			kept++
		}
	}
	if live := m.Usage().EvictedLive; kept < busy*99/100 || live == 0 {
		t.Errorf("%d of %d busy keys were never evicted, %d live keys were; want nearly all, and some", kept, busy, live)
	}
	// All leave; new keys then evict none that is live.
	at = at.Add(2 * time.Hour)
	live := m.Usage().EvictedLive
	for i := range idle / 4 {
		charge("new", i, time.Hour)
	}
	u := m.Usage()
	if got := u.EvictedLive - live; got > idle/4/20 || u.Evicted == u.EvictedLive {
		t.Errorf("%d live keys of %d evicted where most had left", got, u.Evicted-live)
	}
}

// The keys of a request stay while it is decided, even if they alone are more
// than the budget.
func TestRequestLargerThanTheBudget(t *testing.T) {
	m := window.NewMemory()
	m.Bound(1)
	batch := []window.Request{{}}
	for i := range 20 {
		batch[0].Charges = append(batch[0].Charges, window.Charge{Key: fmt.Append(nil, i), Cost: 1, Limit: 2, Window: time.Hour})
	}
	for i, want := range []bool{true, true, false} {
		if decide(m, start, batch); batch[0].Admitted != want {
			t.Errorf("request %d: admitted %v, want %v", i, batch[0].Admitted, want)
		}
	}
	decide(m, start, []window.Request{{Charges: []window.Charge{{Key: []byte("another"), Cost: 1, Limit: 2, Window: time.Hour}}}})
	if u := m.Usage(); u.Keys != 1 || u.EvictedLive != 20 {
		t.Errorf("%+v, want one key left", u)
	}
}
