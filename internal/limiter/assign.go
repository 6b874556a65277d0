package limiter

import (
	"cmp"
	"slices"
)

// assign gives each shard to one of the limiters that are present. Their
// shares differ by one at most, and no more shards change hands than that
// takes: a move costs a shard the time to rebuild its windows. Whoever knows
// the same gives the same answer.
//
// holders has who holds a shard now, or "" if nobody does; present has at least
// one name, and none twice.
func assign(holders, present []string) []string {
	held := make(map[string]int, len(present))
	for _, name := range holders {
		held[name]++
	}
	order := slices.Clone(present)
	slices.SortFunc(order, func(a, b string) int {
		return cmp.Or(cmp.Compare(held[b], held[a]), cmp.Compare(a, b))
	})
	// Those who hold most have the larger shares, so that they keep what they can.
	room := make(map[string]int, len(order))
	for i, name := range order {
		room[name] = len(holders) / len(order)
		if i < len(holders)%len(order) {
			room[name]++
		}
	}
	assigned := make([]string, len(holders))
	for shard, name := range holders {
		if room[name] > 0 {
			assigned[shard] = name
			room[name]--
		}
	}
	for shard := range assigned {
		if assigned[shard] == "" {
			name := slices.MaxFunc(order, func(a, b string) int { return cmp.Compare(room[a], room[b]) })
			assigned[shard] = name
			room[name]--
		}
	}
	return assigned
}
