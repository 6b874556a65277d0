package limiter

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/window"
)

const (
	// At each sweep the owner saves keys until it has this many of them, bytes or
	// parts: a millisecond's worth, and 10 MB a second at most on the connection.
	savedKeys  = 4000
	savedBytes = 1 << 20
	savedParts = 64
	// chunksAhead bounds what is saved and not yet stored; the walk waits.
	chunksAhead = 4
)

// errAbandoned ends a snapshot that was begun.
var errAbandoned = errors.New("abandoned")

// walk is a snapshot on its way, from the goroutine that decides, which saves,
// to one that stores.
type walk struct {
	// Of the goroutine that decides.
	next  int    // part
	last  uint64 // tag
	since int    // records between the beginning of the snapshot before and of this one

	chunks  chan []byte // closed at the end
	abandon func()
	ended   chan struct{} // closed when no more is read
	journal *journal.Journal

	// Of the goroutine that stores.
	rest []byte
	done bool
	quit chan struct{} // closed to abandon
}

func newWalk(j *journal.Journal) *walk {
	w := &walk{chunks: make(chan []byte, chunksAhead), ended: make(chan struct{}), quit: make(chan struct{}), journal: j}
	w.abandon = sync.OnceFunc(func() { close(w.quit) })
	return w
}

// save goes on with a snapshot, or begins one if enough was decided since the
// last. It waits for nobody, and lets a snapshot be stored when the journal has
// all blocks that are in it.
func (o *owner) save(now time.Time) {
	if o.memory == nil {
		return
	}
	if o.walk != nil {
		select {
		case <-o.walk.ended: // it was not stored
			o.walk = nil
		default:
		}
	}
	if o.walk == nil && !o.beginSnapshot(now) {
		return
	}
	w := o.walk
	if w.next < window.Parts && len(w.chunks) < cap(w.chunks) {
		w.last = o.appender.Next() - 1 // what is decided is sent
		w.chunks <- w.saveSome(o.memory)
	}
	if w.next == window.Parts && o.appender.Last() >= w.last {
		close(w.chunks)
		o.walk = nil
	}
}

// saveSome saves the next parts. The chunk gets all its memory at once, as
// decisions would wait while it grows and is copied.
func (w *walk) saveSome(m *window.Memory) []byte {
	chunk := make([]byte, 0, savedBytes+savedBytes/8) // the last part may go over
	for keys, parts := 0, 0; w.next < window.Parts && keys < savedKeys && parts < savedParts && len(chunk) < savedBytes; parts++ {
		keys += m.PartLen(w.next)
		from := len(chunk)
		chunk = beginFrame(chunk, framePart, w.last)
		chunk = m.AppendPart(chunk, w.next)
		endFrame(chunk, from)
		w.next++
	}
	return chunk
}

// beginSnapshot begins a snapshot, if it is time and none is being stored.
func (o *owner) beginSnapshot(now time.Time) bool {
	if o.unsaved <= max(o.config.SnapshotEvery, 2*o.memory.Usage().Keys) {
		return false
	}
	w := newWalk(o.journal)
	select {
	case o.walks <- w:
	default:
		return false
	}
	begins := o.appender.Next() - 1
	header, err := json.Marshal(snapshotHeader{Journal: o.journal.Identity(), Begins: begins, SeenFrom: o.seenFrom(now),
		Made: now, Spans: *o.decider.Spans()})
	if err != nil {
		panic("limiter: " + err.Error()) // strings and numbers, into memory
	}
	chunk := beginFrame([]byte(snapshotMagic), frameHeader, begins)
	chunk = append(chunk, header...)
	endFrame(chunk, len(snapshotMagic))
	w.chunks <- chunk
	w.since, o.unsaved = o.unsaved, 0
	o.walk = w
	return true
}

// seenFrom returns the block from which on the journal must be read to know what
// will not be done again: ids that are remembered, and commands of the horizon.
func (o *owner) seenFrom(now time.Time) uint64 {
	from := o.seen.from(o.appender.Next())
	for i := range o.controls {
		if c := &o.controls[i]; now.Sub(c.At) <= Horizon {
			return min(from, c.Block)
		}
	}
	return from
}

// abandonSnapshot gives up the snapshot that is being saved: what its header says
// of the windows is no more so. The next one is as due as it was.
func (o *owner) abandonSnapshot() {
	if o.walk != nil {
		o.walk.abandon()
		o.unsaved += o.walk.since
		o.walk = nil
	}
}

// storeSnapshots stores what is saved, one snapshot after another, until ctx
// ends; writes is the context of what is then under way.
func (o *owner) storeSnapshots(ctx, writes context.Context) error {
	for {
		select {
		case w := <-o.walks:
			release := context.AfterFunc(ctx, w.abandon)
			err := o.storeSnapshot(writes, w)
			release()
			close(w.ended)
			switch {
			case errors.Is(err, errAbandoned):
				o.log.Debug("snapshot", zap.Error(err))
			case err != nil:
				o.metrics.failedSnapshots.Inc()
				o.log.Warn("snapshot: the one before stays", zap.Error(err))
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (o *owner) storeSnapshot(ctx context.Context, w *walk) error {
	began := time.Now()
	bucket := o.config.Names.SnapshotBucket(o.config.Shard)
	store, err := o.js.CreateOrUpdateObjectStore(ctx, jetstream.ObjectStoreConfig{
		Bucket: bucket, Description: "windows of a shard, a shortcut through its journal",
		TTL: o.config.JournalAge, Storage: jetstream.FileStorage, // one that is older is no use
	})
	if err != nil {
		return fmt.Errorf("make bucket %s: %w", bucket, err)
	}
	if err := purgeAttempts(ctx, o.js, store, bucket, snapshotObject); err != nil {
		return fmt.Errorf("clear bucket %s: %w", bucket, err)
	}
	reader := walkReader{w, ctx}
	info, err := store.Put(ctx, jetstream.ObjectMeta{Name: snapshotObject}, reader)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	o.metrics.snapshotBytes.Set(float64(info.Size))
	o.metrics.snapshotTime.Set(float64(began.UnixMilli()) / 1000)
	o.log.Info("snapshot stored", zap.Uint64("bytes", info.Size), zap.Duration("took", time.Since(began)))
	return nil
}

// walkReader reads a snapshot while it is saved: as much as is asked for, so that
// the object's chunks are full.
type walkReader struct {
	*walk
	ctx context.Context
}

func (w walkReader) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if len(w.rest) == 0 && w.done {
			return n, io.EOF
		}
		if len(w.rest) == 0 {
			if err := w.more(); err != nil {
				return n, err
			}
		}
		copied := copy(p[n:], w.rest)
		w.rest = w.rest[copied:]
		n += copied
	}
	return n, nil
}

// more waits for what comes next: at last when the last of the blocks was stored.
func (w walkReader) more() error {
	select {
	case <-w.quit:
		return errAbandoned
	default:
	}
	select {
	case chunk, more := <-w.chunks:
		w.rest = chunk
		if more {
			return nil
		}
	case <-w.quit:
		return errAbandoned
	}
	stored, err := w.journal.Stored(w.ctx, w.last)
	if err != nil {
		return err
	}
	w.rest = beginFrame(nil, frameEnd, w.last)
	w.rest = binary.BigEndian.AppendUint64(w.rest, uint64(stored.UnixNano()))
	endFrame(w.rest, 0)
	w.done = true
	return nil
}
