package window

// ahead is how many requests' keys are looked up before the first is decided.
const ahead = 32

// spot is where the search for a key begins.
type spot struct {
	table *table
	hash  uint32
	slot  int
}

// warm reads the memory that deciding some requests will need. At a million keys
// most of a decision is waiting for three or four lines of memory, each of which
// tells where the next is. Read for many keys side by side, the processor waits
// for them together. The sum of what was read is kept, so that it is read.
func (m *Memory) warm(batch []Request) {
	spots := m.spots[:0]
	for i := range batch {
		for j := range batch[i].Charges {
			t, hash := m.table(batch[i].Charges[j].Key)
			if t.n > 0 && len(spots) < cap(spots) {
				spots = append(spots, spot{t, hash, t.home(hash)})
			}
		}
	}
	var sum uint64
	for i := range spots {
		s := &spots[i] // its slot ends at the key's, most likely, or at none
		for s.table.hashes[s.slot] != s.hash && s.table.hashes[s.slot] != 0 {
			s.slot = s.table.after(s.slot)
		}
	}
	for i := range spots {
		if r := spots[i].table.records[spots[i].slot]; r != nil && r.name != "" {
			sum += uint64(r.newest) + uint64(r.name[0])
		}
	}
	m.warmth += sum
}
