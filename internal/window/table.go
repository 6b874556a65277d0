package window

// record is one key with its admissions. It is 80 bytes, a size class of the
// allocator.
type record struct {
	name string
	ring
}

// table holds some of the keys by their hashes, open to the next free slot: 12
// bytes a slot, 15 to 23 a key. A map's slots also hold the names' headers, and
// it can neither be swept from where one left off nor grow without reading keys.
type table struct {
	hashes  []uint32 // 0 where there is none
	records []*record
	n       int
}

// Keys take four fifths of the slots at most. A full table grows by half, and
// one that is an eighth full is made smaller.
const fewestSlots = 8

func (t *table) home(hash uint32) int { return int(uint64(hash) * uint64(len(t.hashes)) >> 32) }

func (t *table) after(slot int) int {
	if slot++; slot == len(t.hashes) {
		return 0
	}
	return slot
}

// find returns the record of a key, or nil.
func (t *table) find(hash uint32, key []byte) *record {
	if t.n == 0 {
		return nil
	}
	for slot := t.home(hash); t.hashes[slot] != 0; slot = t.after(slot) {
		if t.hashes[slot] == hash && t.records[slot].name == string(key) {
			return t.records[slot]
		}
	}
	return nil
}

// insert adds a record whose key it does not hold.
func (t *table) insert(hash uint32, r *record) {
	if (t.n+1)*5 > len(t.hashes)*4 {
		t.resize(max(fewestSlots, len(t.hashes)*3/2))
	}
	t.put(hash, r)
	t.n++
}

func (t *table) put(hash uint32, r *record) {
	slot := t.home(hash)
	for t.hashes[slot] != 0 {
		slot = t.after(slot)
	}
	t.hashes[slot], t.records[slot] = hash, r
}

// remove empties a slot and moves up those after it that it kept from theirs.
func (t *table) remove(slot int) {
	t.n--
	for next := t.after(slot); t.hashes[next] != 0; next = t.after(next) {
		// The one in next may move unless its home lies after slot.
		fromHome, fromSlot := next-t.home(t.hashes[next]), next-slot
		if fromHome < 0 {
			fromHome += len(t.hashes)
		}
		if fromSlot < 0 {
			fromSlot += len(t.hashes)
		}
		if fromHome >= fromSlot {
			t.hashes[slot], t.records[slot] = t.hashes[next], t.records[next]
			slot = next
		}
	}
	t.hashes[slot], t.records[slot] = 0, nil
}

// shrink gives back slots that a burst has left behind.
func (t *table) shrink() {
	if t.n == 0 {
		*t = table{}
	} else if len(t.hashes) > fewestSlots && t.n*8 < len(t.hashes) {
		t.resize(max(fewestSlots, t.n*3/2))
	}
}

func (t *table) resize(slots int) {
	was := *t
	t.hashes, t.records = make([]uint32, slots), make([]*record, slots)
	for slot, hash := range was.hashes {
		if hash != 0 {
			t.put(hash, was.records[slot])
		}
	}
}
