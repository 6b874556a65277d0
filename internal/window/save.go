package window

import (
	"encoding/binary"
	"errors"
)

// Parts is into how many parts a store in memory can be saved. Which keys are in
// which part is another in every process.
const Parts = parts

// latestTime bounds a store's instants, microseconds before and since 1970: no sum
// of one and a window overflows.
const latestTime = 1 << 60

// ErrSaved says that what was to be loaded is not what AppendPart writes.
var ErrSaved = errors.New("not the saved windows of a store")

// AppendPart appends what the keys of a part hold that still counts, for LoadPart.
// A key is its name, when its first entry was, how long after that the newest, its
// units with for how long entries are kept, and the entries between as they are.
// Nothing is kept of dst.
func (m *Memory) AppendPart(dst []byte, part int) []byte {
	t := &m.parts[part]
	for slot, hash := range t.hashes {
		if hash == 0 {
			continue
		}
		r := t.records[slot]
		if !r.expire(m.now) {
			continue
		}
		dst = binary.AppendUvarint(dst, uint64(len(r.name)))
		dst = append(dst, r.name...)
		dst = binary.AppendVarint(dst, r.first)
		dst = binary.AppendUvarint(dst, uint64(r.newest-r.first))
		dst = binary.AppendUvarint(dst, r.last)
		dst = binary.AppendUvarint(dst, uint64(len(r.buf)-r.head))
		dst = append(dst, r.buf[r.head:]...)
	}
	return dst
}

// PartLen returns how many keys a part has.
func (m *Memory) PartLen(part int) int { return m.parts[part].n }

// LoadPart takes over keys as AppendPart has saved them. What the store holds of
// such a key is replaced. After an error, which is ErrSaved, some may have been.
// Nothing is kept of data.
func (m *Memory) LoadPart(data []byte) error {
	m.claims = m.claims[:0]
	for s := (saved{data}); len(s.rest) > 0; {
		name := s.bytes()
		var r ring
		r.first = s.varint()
		r.newest = r.first + int64(min(s.uvarint(), latestTime))
		r.last = s.uvarint()
		r.buf = s.bytes()
		if s.rest == nil || !r.sound() {
			return ErrSaved
		}
		r.buf = append([]byte(nil), r.buf...)
		k := m.open(name)
		m.usage.Bytes += int64(cap(r.buf) - cap(k.buf))
		k.ring = r
		m.evict()
	}
	return nil
}

// sound tells whether the entries are such as add makes, and sums their units:
// walking over them ends at the newest. It is for a ring whose head is 0.
func (r *ring) sound() bool {
	if r.first < -latestTime || r.first > latestTime || r.newest > latestTime || r.units() == 0 {
		return false
	}
	at, sum := r.first, r.units()
	for off := 0; off < len(r.buf); {
		gap, n := binary.Uvarint(r.buf[off:])
		off += max(n, 0)
		units := uint64(1)
		if n > 0 && gap&1 != 0 {
			units, n = binary.Uvarint(r.buf[off:])
			off += max(n, 0)
		}
		if n <= 0 || units == 0 || units > unitMask || gap>>1 > uint64(r.newest-at) {
			return false
		}
		at += int64(gap >> 1)
		sum += int64(units)
	}
	r.sum = sum
	return at == r.newest
}

// saved is what is left to be loaded; nil once it is not what was saved.
type saved struct{ rest []byte }

func (s *saved) uvarint() uint64 {
	v, n := binary.Uvarint(s.rest)
	s.skip(n)
	return v
}

func (s *saved) varint() int64 {
	v, n := binary.Varint(s.rest)
	s.skip(n)
	return v
}

func (s *saved) skip(n int) {
	if n <= 0 {
		s.rest = nil
		return
	}
	s.rest = s.rest[n:]
}

func (s *saved) bytes() []byte {
	n := s.uvarint()
	if n > uint64(len(s.rest)) {
		s.rest = nil
		return nil
	}
	b := s.rest[:n]
	s.rest = s.rest[n:]
	return b
}
