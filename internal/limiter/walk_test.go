package limiter

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/window"
)

// Decisions wait while keys are saved: a chunk is not grown and copied meanwhile.
func TestSavedChunkIsAllocatedOnce(t *testing.T) {
	m := window.NewMemory()
	m.Bound(1 << 30)
	for i := range uint64(200_000) {
		key := binary.BigEndian.AppendUint64([]byte("a key of a common length: "), i)
		m.Admit(time.Unix(1_700_000_000, 0), window.Charge{Key: key, Cost: 1, Limit: 9, Window: time.Hour})
	}
	w := newWalk(nil)
	chunk := 0
	allocs := testing.AllocsPerRun(20, func() { chunk = len(w.saveSome(m)) })
	if allocs != 1 || chunk == 0 || w.next == window.Parts {
		t.Errorf("%v allocations for a chunk, the last of %d bytes, up to part %d; want 1", allocs, chunk, w.next)
	}
}
