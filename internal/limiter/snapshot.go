package limiter

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/policy"
)

// A snapshot is the windows of a shard as they were saved, part by part, while
// the owner decided. It is a shortcut and no more: recovery without one reads
// more of the journal and ends with the same windows.
//
// Each part is tagged with the block up to which it has everything. Recovery
// reads the journal from the block after the one that the snapshot begins with,
// and before each block loads the parts that are tagged with an earlier one. A
// part replaces what the blocks up to its tag have made of its keys. So every key
// has, of each block, what the owner had made of it:
//
//   - from the block after its part's tag on, because those blocks are read after
//     the part was loaded;
//   - up to the tag, because they are in the part;
//   - and a key that was in no part at its tag had nothing left to count then. It
//     had expired, and then what the blocks since the beginning have made of it
//     has expired too; or it was reset, and the reading has met the same reset, or
//     what it was charged lies before the beginning and is not read; or it was
//     evicted, and what is read of it is true.
//
// It is the one object in the shard's bucket of the object store: a line that names
// the format, then frames. The object appears once all of it is there.
const (
	snapshotMagic = "weir snapshot 1\n"
	frameHeader   = 'h' // tag is the block that the snapshot begins with; JSON
	framePart     = 'p' // tag is the last block that is in it; see window.Memory.AppendPart
	frameEnd      = 'e' // tag is the highest one before; when that block was stored, nanoseconds since 1970
	frameBytes    = 1 + 8 + 4
)

// snapshotHeader is what must be known before the windows are loaded.
type snapshotHeader struct {
	Journal  int64        `json:"journal"`   // the stream's identity
	Begins   uint64       `json:"begins"`    // the last block that is in every part
	SeenFrom uint64       `json:"seen_from"` // the block from which on the known ids, also of commands, must be read
	Made     time.Time    `json:"made"`
	Spans    policy.Spans `json:"spans"` // for how long the windows were kept
}

// errSnapshot says that a snapshot cannot be used.
var errSnapshot = errors.New("snapshot not used")

func unusable(format string, args ...any) error {
	return fmt.Errorf("%w: %w", errSnapshot, fmt.Errorf(format, args...))
}

// beginFrame appends the beginning of a frame whose data is appended next.
func beginFrame(dst []byte, kind byte, tag uint64) []byte {
	dst = binary.BigEndian.AppendUint64(append(dst, kind), tag)
	return append(dst, 0, 0, 0, 0)
}

// endFrame takes note of the length of the frame that begins at an offset.
func endFrame(dst []byte, from int) {
	binary.BigEndian.PutUint32(dst[from+frameBytes-4:], uint32(len(dst)-from-frameBytes))
}

// snapshotObject is the name of a shard's snapshot in its bucket.
const snapshotObject = "windows"

// snapshotReader reads a snapshot while the journal is read.
type snapshotReader struct {
	header  snapshotHeader
	journal *journal.Journal
	last    uint64 // of the journal's blocks
	in      *bufio.Reader
	frame   frame // that is read next
	part    bytes.Buffer
}

type frame struct {
	kind   byte
	tag    uint64
	length int64
}

// openSnapshot begins to read the shard's snapshot. It is nil if there is none,
// and errSnapshot if there is one that does not fit the journal.
func (o *owner) openSnapshot(ctx context.Context, extent journal.Extent) (*snapshotReader, error) {
	if o.memory == nil {
		return nil, nil
	}
	object, err := openObject(ctx, o.js, o.config.Names.SnapshotBucket(o.config.Shard), snapshotObject)
	if errors.Is(err, jetstream.ErrBucketNotFound) || errors.Is(err, jetstream.ErrObjectNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, unusable("open: %w", err)
	}
	s := &snapshotReader{journal: o.journal, last: extent.Last, in: bufio.NewReader(object)}
	if err := s.open(extent); err != nil {
		return nil, err
	}
	if !o.decider.Resume(s.header.Spans, o.config.Clock()) {
		return nil, unusable("the policy has windows that are longer than they were")
	}
	return s, nil
}

// open reads the header and sees whether it fits the journal.
func (s *snapshotReader) open(extent journal.Extent) error {
	magic := make([]byte, len(snapshotMagic))
	if _, err := io.ReadFull(s.in, magic); err != nil {
		return unusable("read: %w", err)
	}
	if string(magic) != snapshotMagic {
		return unusable("its format is %q, want %q", magic, snapshotMagic)
	}
	if err := s.advance(); err != nil {
		return err
	}
	text, err := s.data()
	if err != nil {
		return err
	}
	if s.frame.kind != frameHeader {
		return unusable("it begins with a frame of kind %q", s.frame.kind)
	}
	if err := json.Unmarshal(text, &s.header); err != nil {
		return unusable("header: %w", err)
	}
	h := &s.header
	switch {
	case h.Journal != s.journal.Identity():
		return unusable("it is of another journal")
	case h.Begins > extent.Last:
		return unusable("it begins with block %d, the journal ends with %d", h.Begins, extent.Last)
	case h.Begins+1 < extent.First:
		return unusable("it begins with block %d, the journal with %d", h.Begins, extent.First)
	}
	s.frame = frame{kind: framePart, tag: h.Begins}
	return s.advance()
}

// advance reads the beginning of the next frame.
func (s *snapshotReader) advance() error {
	var head [frameBytes]byte
	if _, err := io.ReadFull(s.in, head[:]); err != nil {
		return unusable("read: %w", err)
	}
	was := s.frame
	s.frame = frame{head[0], binary.BigEndian.Uint64(head[1:]), int64(binary.BigEndian.Uint32(head[9:]))}
	if s.frame.tag < was.tag || s.frame.tag > s.last {
		return unusable("block %d after %d, the journal ends with %d", s.frame.tag, was.tag, s.last)
	}
	return nil
}

// data reads what is in the frame. It is valid until the next call.
func (s *snapshotReader) data() ([]byte, error) {
	s.part.Reset()
	if _, err := io.CopyN(&s.part, s.in, s.frame.length); err != nil {
		return nil, unusable("read: %w", err)
	}
	return s.part.Bytes(), nil
}

// load hands over the parts that must be there before a block is read.
func (s *snapshotReader) load(block uint64, part func([]byte) error) error {
	for s.frame.kind == framePart && s.frame.tag < block {
		data, err := s.data()
		if err != nil {
			return err
		}
		if err := part(data); err != nil {
			return unusable("part: %w", err)
		}
		if err := s.advance(); err != nil {
			return err
		}
	}
	return nil
}

// finish hands over the parts that are left, and sees that the snapshot is whole
// and its blocks are the journal's.
func (s *snapshotReader) finish(ctx context.Context, part func([]byte) error) error {
	if err := s.load(s.last+1, part); err != nil {
		return err
	}
	data, err := s.data()
	if err != nil {
		return err
	}
	if s.frame.kind != frameEnd || len(data) != 8 {
		return unusable("a frame of kind %q and %d bytes at its end", s.frame.kind, len(data))
	}
	stored, err := s.journal.Stored(ctx, s.frame.tag)
	if err != nil {
		return unusable("its last block: %w", err)
	}
	if at := int64(binary.BigEndian.Uint64(data)); at != stored.UnixNano() {
		return unusable("its block %d is not the journal's: the journal was restored from a backup", s.frame.tag)
	}
	switch _, err := s.in.ReadByte(); {
	case err == nil:
		return unusable("it goes on after its end")
	case !errors.Is(err, io.EOF): // also when its digest is another
		return unusable("read: %w", err)
	}
	return nil
}
