package limiter

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/window"
)

// Whatever stands in the place of a snapshot, it is read or refused.
func FuzzSnapshot(f *testing.F) {
	const begins, last = 3, 9
	j := new(journal.Journal)
	saved := window.NewMemory()
	for i := range byte(5) {
		saved.Admit(time.Unix(1_700_000_000, 0), window.Charge{Key: []byte{'k', i}, Cost: 2, Limit: 9, Window: time.Hour})
	}
	var spans policy.Spans
	spans.Follow(policy.Default())
	header, err := json.Marshal(snapshotHeader{Journal: j.Identity(), Begins: begins, Spans: spans})
	if err != nil {
		f.Fatal(err)
	}
	whole := beginFrame([]byte(snapshotMagic), frameHeader, begins)
	whole = append(whole, header...)
	endFrame(whole, len(snapshotMagic))
	for part := range window.Parts {
		if data := saved.AppendPart(nil, part); len(data) > 0 {
			from := len(whole)
			whole = append(beginFrame(whole, framePart, begins+uint64(part)*5/window.Parts), data...)
			endFrame(whole, from)
		}
	}
	whole = beginFrame(whole, frameEnd, last)
	f.Add(whole)
	f.Add(whole[:len(whole)/2])
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &snapshotReader{journal: j, last: last, in: bufio.NewReader(bytes.NewReader(data))}
		m := window.NewMemory()
		err := s.open(journal.Extent{First: 1, Last: last, Blocks: last})
		for block := uint64(1); err == nil && block <= last+1; block++ {
			err = s.load(block, m.LoadPart)
		}
		if bytes.Equal(data, whole) && (err != nil || s.frame.kind != frameEnd || m.Usage().Keys != 5) {
			t.Fatalf("%v, then a frame of kind %q, and %d keys", err, s.frame.kind, m.Usage().Keys)
		}
		if err != nil && !errors.Is(err, errSnapshot) {
			t.Fatal(err)
		}
	})
}
