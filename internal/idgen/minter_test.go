package idgen_test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/internal/idgen"
)

func newMinter(tb testing.TB, node int, floor time.Time) *idgen.Minter {
	tb.Helper()
	m, err := idgen.NewMinter(node, floor)
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

func mustMint(tb testing.TB, m *idgen.Minter, now time.Time) idgen.ID {
	tb.Helper()
	id, err := m.Mint(now)
	if err != nil {
		tb.Fatal(err)
	}
	return id
}

func TestMint(t *testing.T) {
	m := newMinter(t, 42, time.Time{})
	for _, tt := range []struct{ now, want string }{
		{"2026-11-23T14:32:25Z", "AO3272652345-420000000"},
		{"2026-11-23T14:32:25.999Z", "AO3272652345-420000001"},
		{"2026-11-23T15:32:25+01:00", "AO3272652345-420000002"},
		{"2026-11-23T14:32:26Z", "AO3272652346-420000000"},
		{"2026-11-23T14:32:25Z", "AO3272652346-420000001"}, // the clock stepped back a second
		{"2000-01-01T00:00:00Z", "AO3272652346-420000002"}, // and many years
		{"2026-11-23T14:32:26Z", "AO3272652346-420000003"},
		{"2026-12-31T23:59:59Z", "AO3652686399-420000000"},
		{"2027-01-01T00:00:00Z", "AO0012700000-420000000"},
		{"2028-12-31T23:59:59Z", "AO3662886399-420000000"},
	} {
		if got := mustMint(t, m, utc(tt.now)); got.String() != tt.want {
			t.Errorf("at %s: %s, want %s", tt.now, got, tt.want)
		}
	}
}

func TestMintStaysAboveTheFloor(t *testing.T) {
	for _, tt := range []struct{ floor, now, want string }{
		{"2026-11-23T14:32:25Z", "2026-11-23T14:32:24Z", "AO3272652346-000000000"},
		{"2026-11-23T14:32:25Z", "2026-11-23T14:32:25Z", "AO3272652346-000000000"},
		{"2026-11-23T14:32:25.999Z", "2026-11-23T14:32:25.999Z", "AO3272652346-000000000"},
		{"2026-11-23T14:32:25Z", "2026-11-23T14:32:26Z", "AO3272652346-000000000"},
		{"2026-11-23T14:32:25Z", "2026-11-23T14:32:27Z", "AO3272652347-000000000"},
		{"2026-12-31T23:59:59Z", "2026-12-31T23:59:59Z", "AO0012700000-000000000"},
		{"1999-12-31T23:59:59Z", "2000-01-01T00:00:00Z", "AO0010000000-000000000"},
		{"0001-01-01T00:00:00Z", "2000-01-01T00:00:00Z", "AO0010000000-000000000"},
		{"2000-01-01T00:00:00Z", "2000-01-01T00:00:00Z", "AO0010000001-000000000"},
		{"2091-12-31T23:59:58Z", "2000-01-01T00:00:00Z", "AO3659186399-000000000"},
	} {
		m := newMinter(t, 0, utc(tt.floor))
		if got := mustMint(t, m, utc(tt.now)); got.String() != tt.want {
			t.Errorf("floor %s, at %s: %s, want %s", tt.floor, tt.now, got, tt.want)
		}
	}
}

func TestNewMinterRefuses(t *testing.T) {
	for _, tt := range []struct {
		node        int
		floor, want string
	}{
		{-1, "2026-11-23T14:32:25Z", "node: want 0 to 99, found -1"},
		{100, "2026-11-23T14:32:25Z", "node: want 0 to 99, found 100"},
		{0, "2091-12-31T23:59:59Z", "floor: want a time before the last second of 2091, found 2091-12-31T23:59:59Z"},
		{0, "9999-12-31T23:59:59Z", "floor: want a time before the last second of 2091, found 9999-12-31T23:59:59Z"},
	} {
		if _, err := idgen.NewMinter(tt.node, utc(tt.floor)); err == nil || err.Error() != tt.want {
			t.Errorf("node %d, floor %s: %v, want %s", tt.node, tt.floor, err, tt.want)
		}
	}
}

func TestMintRefusesOtherYears(t *testing.T) {
	m := newMinter(t, 0, time.Time{})
	mustMint(t, m, utc("2026-11-23T14:32:25Z"))
	for _, tt := range []struct{ now, want string }{
		{"1999-12-31T23:59:59Z", "now: want a time from 2000 to 2091, found 1999-12-31T23:59:59Z"},
		{"2092-01-01T00:00:00Z", "now: want a time from 2000 to 2091, found 2092-01-01T00:00:00Z"},
	} {
		if id, err := m.Mint(utc(tt.now)); err == nil || err.Error() != tt.want || id != 0 {
			t.Errorf("at %s: %s, %v; want %s", tt.now, id, err, tt.want)
		}
	}
	// A refusal has moved nothing.
	if got := mustMint(t, m, utc("2026-11-23T14:32:25Z")); got.String() != "AO3272652345-000000001" {
		t.Errorf("afterwards %s", got)
	}
}

// The ids of a second run out and the next second gives more, until the years
// end.
func TestMintUsesUpItsSeconds(t *testing.T) {
	m := newMinter(t, 99, time.Time{})
	now := utc("2091-12-31T23:59:58Z")
	for _, want := range []string{"AO3659186398-99", "AO3659186399-99"} {
		first := mustMint(t, m, now)
		m.Skip(10_000_000 - 2)
		last := mustMint(t, m, now)
		if first.String() != want+"0000000" || last.String() != want+"9999999" {
			t.Fatalf("%s to %s, want %s0000000 to %[3]s9999999", first, last, want)
		}
	}
	for range 3 {
		const want = "now: want a time from 2000 to 2091, found no id left in 2091"
		if id, err := m.Mint(now); err == nil || err.Error() != want || id != 0 {
			t.Fatalf("then %s, %v; want %s", id, err, want)
		}
	}
}

// Against a plain oracle, with a clock that stands, runs, jumps and steps back.
func TestMintFollowsTheClock(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		start := utc("2028-12-31T23:59:50Z")
		node := rapid.IntRange(0, 99).Draw(t, "node")
		floor := start.Add(time.Duration(rapid.IntRange(-20_000, 20_000).Draw(t, "floor")) * time.Millisecond)
		m, err := idgen.NewMinter(node, floor)
		if err != nil {
			t.Fatal(err)
		}
		second, sequence := floor.Truncate(time.Second).Add(time.Second), 0
		for range rapid.IntRange(1, 50).Draw(t, "ids") {
			now := start.Add(time.Duration(rapid.IntRange(-20_000, 20_000).Draw(t, "now")) * time.Millisecond)
			if s := now.Truncate(time.Second); s.After(second) {
				second, sequence = s, 0
			}
			want, err := idgen.Derive(second, node, uint64(sequence/1000), sequence%1000)
			if err != nil {
				t.Fatal(err)
			}
			sequence++
			if got, err := m.Mint(now); err != nil || got != want {
				t.Fatalf("at %v: %v, %v; want %v", now, got, err, want)
			}
		}
	})
}

// Eight goroutines with clocks of their own, which step back and forth over a
// few seconds' ends: no id comes twice, each goroutine sees its ids grow, and
// no id lies behind the clock it was minted by.
func TestMintConcurrently(t *testing.T) {
	const goroutines, each = 8, 125_000
	m := newMinter(t, 7, time.Time{})
	start := utc("2027-12-31T23:59:59.9Z")
	minted := make([][]idgen.ID, goroutines)
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			ids := make([]idgen.ID, each)
			for i := range ids {
				now := start.Add(time.Duration(i*i%997+i/100) * time.Millisecond)
				id, err := m.Mint(now)
				if err != nil || id.Time().Before(now.Truncate(time.Second)) {
					t.Errorf("at %v: %s, %v", now, id, err)
					return
				}
				ids[i] = id
			}
			minted[g] = ids
		})
	}
	wg.Wait()
	for g, ids := range minted {
		if !slices.IsSorted(ids) {
			t.Errorf("goroutine %d: ids step back", g)
		}
	}
	all := slices.Concat(minted...)
	slices.Sort(all)
	if distinct := len(slices.Compact(all)); distinct != goroutines*each {
		t.Errorf("%d distinct ids, want %d", distinct, goroutines*each)
	}
}

func TestMintAllocatesNothing(t *testing.T) {
	m, now := newMinter(t, 0, time.Time{}), utc("2026-11-23T14:32:25Z")
	if n := testing.AllocsPerRun(100, func() { mustMint(t, m, now) }); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkMint(b *testing.B) {
	m, now := newMinter(b, 0, time.Time{}), utc("2026-11-23T14:32:25Z")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Mint(now); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMintParallel(b *testing.B) {
	m, now := newMinter(b, 0, time.Time{}), utc("2026-11-23T14:32:25Z")
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := m.Mint(now); err != nil {
				b.Error(err)
				return
			}
		}
	})
}
