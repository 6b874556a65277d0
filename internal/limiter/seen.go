package limiter

import (
	"hash/maphash"
	"time"

	"github.com/weirhq/weir/internal/events"
)

const (
	// seenBytes bounds the decisions that a generation remembers: some 150,000.
	seenBytes = 32 << 20
	// chunkBytes is how much memory a generation grows by: nothing is copied,
	// which would hold up every check for milliseconds.
	chunkBytes = 1 << 20
	// Horizon is how long a request id is remembered at least, unless more
	// than seenBytes of decisions were made within it.
	Horizon = 2 * time.Minute
)

// seen remembers the decisions of request ids, as they went out, so that a
// request that comes again gets the same answer and is charged once.
//
// There are two generations. When the younger has lasted for the horizon, or
// is full, it becomes the older, and what the older knew is forgotten. Neither
// holds a pointer for each decision, so that the garbage collector passes them
// by.
type seen struct {
	seeds        [2]maphash.Seed
	young, old   generation
	sinceRotated time.Time
}

type generation struct {
	at     map[fingerprint]span
	chunks [][]byte // of decisions' JSON; the last one is being filled
	size   int      // bytes of decisions
	from   uint64   // the block of the first of them
}

// fingerprint stands for a tenant's request id: 128 bits of keyed hash, so that
// nobody can choose two ids that look alike.
type fingerprint [2]uint64

// span is where a decision's JSON is.
type span struct {
	chunk, from, to uint32
	deny            bool
}

// decided is a decision that was made: its verdict, and its JSON.
type decided struct {
	verdict events.Verdict
	text    []byte
}

func newSeen() *seen {
	return &seen{
		seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
		young: generation{at: make(map[fingerprint]span)},
		old:   generation{at: make(map[fingerprint]span)},
	}
}

// from returns the block from which on all that is remembered is in the journal;
// next is the one that is being filled.
func (s *seen) from(next uint64) uint64 {
	switch {
	case len(s.old.at) > 0:
		return s.old.from
	case len(s.young.at) > 0:
		return s.young.from
	}
	return next
}

func (s *seen) fingerprint(tenant, id string) fingerprint {
	var f fingerprint
	for i, seed := range s.seeds {
		var h maphash.Hash
		h.SetSeed(seed)
		_, _ = h.WriteString(tenant)
		_ = h.WriteByte(0) // no tenant holds one
		_, _ = h.WriteString(id)
		f[i] = h.Sum64()
	}
	return f
}

// decision returns the decision that was made of an id, if it is remembered.
// Its text is valid until the next add.
func (s *seen) decision(f fingerprint) (decided, bool) {
	g := &s.young
	at, ok := g.at[f]
	if !ok {
		g = &s.old
		at, ok = g.at[f]
	}
	if !ok {
		return decided{}, false
	}
	d := decided{events.Allow, g.chunks[at.chunk][at.from:at.to]}
	if at.deny {
		d.verdict = events.Deny
	}
	return d, true
}

// add remembers a decision of an id that is not remembered, made at now and in a
// block.
func (s *seen) add(f fingerprint, block uint64, now time.Time, d decided) {
	if now.Sub(s.sinceRotated) > Horizon || s.young.size+len(d.text) > seenBytes {
		s.young, s.old = s.old, s.young
		clear(s.young.at)
		s.young.chunks, s.young.size, s.young.from = nil, 0, block
		s.sinceRotated = now
	}
	g := &s.young
	last := len(g.chunks) - 1
	if last < 0 || len(g.chunks[last])+len(d.text) > cap(g.chunks[last]) {
		g.chunks = append(g.chunks, make([]byte, 0, max(chunkBytes, len(d.text))))
		last++
	}
	from := len(g.chunks[last])
	g.chunks[last] = append(g.chunks[last], d.text...)
	g.size += len(d.text)
	g.at[f] = span{uint32(last), uint32(from), uint32(from + len(d.text)), d.verdict == events.Deny}
}
