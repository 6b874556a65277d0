package limiter

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// shares counts the shards of each of those who are present.
func shares(assigned, present []string) map[string]int {
	n := make(map[string]int)
	for _, name := range present {
		n[name] = 0
	}
	for _, name := range assigned {
		n[name]++
	}
	return n
}

func drawPresent(t *rapid.T) []string {
	present := make([]string, rapid.IntRange(1, 9).Draw(t, "limiters"))
	for i := range present {
		present[i] = fmt.Sprint("limiter-", i)
	}
	return present
}

// moved counts the shards that somebody held and another one is to have.
func moved(holders, assigned []string) int {
	n := 0
	for shard, name := range holders {
		if name != "" && assigned[shard] != name {
			n++
		}
	}
	return n
}

// Whoever held what: each shard has one who is present, shares differ by one at
// most, as many shards as can be stay where they are, and that is that.
func TestAssign(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		present := drawPresent(t)
		known := append([]string{"", "gone"}, present...)
		holders := rapid.SliceOfN(rapid.SampledFrom(known), 1, 30).Draw(t, "holders")
		assigned := assign(holders, present)

		have := shares(assigned, present)
		if len(have) != len(present) || len(assigned) != len(holders) {
			t.Fatalf("assigned to somebody who is not present: %q", assigned)
		}
		counts := slices.Collect(maps.Values(have))
		if slices.Max(counts)-slices.Min(counts) > 1 {
			t.Fatalf("not balanced: %v", have)
		}
		least, larger := len(holders)/len(present), len(holders)%len(present)
		stay := 0
		for name, n := range shares(holders, nil) {
			if !slices.Contains(present, name) {
				continue
			}
			stay += min(n, least)
			if n > least && larger > 0 {
				stay++
				larger--
			}
		}
		kept := 0
		for shard, name := range holders {
			if assigned[shard] == name {
				kept++
			}
		}
		if kept != stay {
			t.Fatalf("%d shards stay, want %d", kept, stay)
		}
		if again := assign(assigned, present); !slices.Equal(again, assigned) {
			t.Fatalf("once assigned: %q, want no more moves from %q", again, assigned)
		}
		rand.Shuffle(len(present), func(i, j int) { present[i], present[j] = present[j], present[i] })
		if again := assign(holders, present); !slices.Equal(again, assigned) {
			t.Fatalf("in another order: %q, want %q", again, assigned)
		}
	})
}

// One that joins takes its share and no more changes hands; of one that leaves
// only its own shards do.
func TestAssignJoinAndLeave(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		present := drawPresent(t)
		holders := assign(make([]string, rapid.IntRange(1, 100).Draw(t, "shards")), present)
		joined := assign(holders, append(slices.Clone(present), "new"))
		if n, want := moved(holders, joined), len(holders)/(len(present)+1); n != want {
			t.Fatalf("%d shards move as one joins, want %d", n, want)
		}
		left := assign(joined, present)
		if n, want := moved(joined, left), shares(joined, nil)["new"]; n != want {
			t.Fatalf("%d shards move as one leaves, want %d", n, want)
		}
	})
}
