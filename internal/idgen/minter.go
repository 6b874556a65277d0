package idgen

import (
	"fmt"
	"sync/atomic"
	"time"
)

// Minter makes ids that no other Minter makes, as long as no two work under
// one node number at a time. It is safe for concurrent use and takes no lock.
type Minter struct {
	node int
	last atomic.Int64 // the newest tick: seconds since the epoch × perSecond + sequence
}

// NewMinter returns a Minter for a node from 0 to 99. The floor is the latest
// second that an earlier owner of the node may have used: no id is minted in
// it or before. A floor before 2000 is no bound.
func NewMinter(node int, floor time.Time) (*Minter, error) {
	if node < 0 || node >= shards {
		return nil, fmt.Errorf("node: want 0 to %d, found %d", shards-1, node)
	}
	second := max(floor.Unix()-epoch, -1)
	if second >= lifetime-1 {
		return nil, fmt.Errorf("floor: want a time before the last second of %d, found %s",
			lastYear, floor.UTC().Format(time.RFC3339))
	}
	m := &Minter{node: node}
	m.last.Store((second+1)*perSecond - 1)
	return m, nil
}

// Mint returns an id above every one minted before. It bears the second of
// now, or the second of the id before it if that is later: when the clock
// steps back, and when more than 10,000,000 ids are minted in a second, which
// go on in the next, ahead of the clock. It fails when now is not in 2000 to
// 2091 and when the ids of 2091 are used up.
func (m *Minter) Mint(now time.Time) (ID, error) {
	second, err := secondOf("now", now)
	if err != nil {
		return 0, err
	}
	// Ends within start-last turns: each that fails has seen last grow.
	start := second * perSecond
	for last := m.last.Load(); last < start-1; last = m.last.Load() {
		if m.last.CompareAndSwap(last, start-1) {
			break
		}
	}
	tick := m.last.Add(1) // of an Int64 no run of failures reaches the end
	if tick >= lifetime*perSecond {
		return 0, fmt.Errorf("now: want a time from %d to %d, found no id left in %d", firstYear, lastYear, lastYear)
	}
	return compose(tick/perSecond, m.node, tick%perSecond), nil
}
