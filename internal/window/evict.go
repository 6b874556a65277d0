package window

import "slices"

// neighbours is how many keys one is evicted of.
const neighbours = 8

// evict drops keys until the rest is within the budget, or only those of the
// request being decided are left.
func (m *Memory) evict() {
	for m.usage.Bytes > m.budget {
		t, slot := m.victim()
		if t == nil {
			return
		}
		m.usage.Evicted++
		if t.records[slot].expire(m.now) {
			m.usage.EvictedLive++
		}
		m.drop(t, slot)
	}
}

// victim returns where the key to evict is; the table is nil if there is none.
func (m *Memory) victim() (t *table, victim int) {
	// The larger of two parts: taken without regard to their sizes some would
	// run out of idle keys, and busy ones be evicted.
	from, other := m.random.IntN(parts), m.random.IntN(parts)
	if m.parts[other].n > m.parts[from].n {
		from = other
	}
	for i := range parts {
		t = &m.parts[(from+i)%parts]
		if t.n == 0 {
			continue
		}
		victim = -1
		slot := m.random.IntN(len(t.hashes))
		for range min(t.n, neighbours) {
			for t.hashes[slot] == 0 {
				slot = t.after(slot)
			}
			r := t.records[slot]
			switch {
			case slices.ContainsFunc(m.claims, func(k claim) bool { return k.record == r }):
			case !r.expire(m.now):
				return t, slot
			case victim < 0 || r.newest < t.records[victim].newest:
				victim = slot
			}
			slot = t.after(slot)
		}
		if victim >= 0 {
			return t, victim
		}
	}
	return nil, 0
}
