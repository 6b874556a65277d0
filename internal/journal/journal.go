// Package journal keeps the durable log of decided requests, one JetStream
// stream a shard, in blocks: messages whose body holds one record a line.
//
// The journal is the only truth. A block is appended under the expectation
// that it follows the last one its owner knows, so of two owners of a shard one
// fails and has answered nobody. Readers see every block once and in order.
package journal

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/events"
)

// Config says where a shard's journal is and how long it keeps blocks.
type Config struct {
	Names    events.Names  // the subjects' prefix
	Shard    int           // 0..99
	MaxAge   time.Duration // blocks older than this are dropped; 0 keeps them for ever
	MaxBytes int64         // a journal this large takes no more; 0 leaves it to the server
}

// DefaultMaxAge keeps a week: what a writer may lag, and the longest window.
const DefaultMaxAge = 7 * 24 * time.Hour

// leastDuplicates is how long the server must remember blocks' names at least.
// Nothing rests on that: blocks have names so that the next one can follow them.
const leastDuplicates = 100 * time.Millisecond

// Journal is one shard's stream.
type Journal struct {
	js      jetstream.JetStream
	stream  jetstream.Stream
	subject string
	config  Config
	created time.Time
}

// Create opens a shard's journal and makes or updates its stream.
func Create(ctx context.Context, js jetstream.JetStream, c Config) (*Journal, error) {
	limit := c.MaxBytes
	if limit == 0 {
		limit = -1
	}
	name := c.Names.JournalStream(c.Shard)
	stream, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name:        name,
		Description: "decided requests, in blocks; the truth of this shard",
		Subjects:    []string{c.Names.Journal(c.Shard)},
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		MaxAge:      c.MaxAge,
		MaxBytes:    limit,
		Storage:     jetstream.FileStorage,
		AllowDirect: true,
		DenyDelete:  true,
		Duplicates:  leastDuplicates,
	})
	if err != nil {
		return nil, fmt.Errorf("make stream %s: %w", name, err)
	}
	return &Journal{js: js, stream: stream, subject: c.Names.Journal(c.Shard), config: c,
		created: stream.CachedInfo().Created}, nil
}

// ErrNone says that the shard has no journal: no limiter has made it yet.
var ErrNone = errors.New("no journal")

// Open opens a shard's journal as it stands. The error is ErrNone if there is
// none.
func Open(ctx context.Context, js jetstream.JetStream, names events.Names, shard int) (*Journal, error) {
	name := names.JournalStream(shard)
	stream, err := js.Stream(ctx, name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, fmt.Errorf("stream %s: %w", name, ErrNone)
	}
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", name, err)
	}
	info := stream.CachedInfo()
	return &Journal{js: js, stream: stream, subject: names.Journal(shard),
		config:  Config{Names: names, Shard: shard, MaxAge: info.Config.MaxAge, MaxBytes: max(info.Config.MaxBytes, 0)},
		created: info.Created}, nil
}

// Shard returns the journal's shard.
func (j *Journal) Shard() int { return j.config.Shard }

// Identity tells this stream from another that bore the same name: when it was
// made, in nanoseconds since 1970.
func (j *Journal) Identity() int64 { return j.created.UnixNano() }

// Extent is what a journal holds at one moment. Without blocks, Last is still
// the sequence of the last block there was, and First is Last+1.
type Extent struct {
	First, Last uint64    // sequences
	LastStored  time.Time // when the last block was stored
	Blocks      uint64
	Bytes       uint64
}

// Extent asks the server what the journal holds.
func (j *Journal) Extent(ctx context.Context) (Extent, error) {
	info, err := j.stream.Info(ctx)
	if err != nil {
		return Extent{}, fmt.Errorf("journal of shard %d: %w", j.config.Shard, err)
	}
	s := info.State
	return Extent{First: s.FirstSeq, Last: s.LastSeq, LastStored: s.LastTime, Blocks: s.Msgs, Bytes: s.Bytes}, nil
}

// Stored asks the server when a block was stored, to the nanosecond: no other
// block that bore its sequence, before the journal was restored from a backup or
// after, has been at that time.
func (j *Journal) Stored(ctx context.Context, seq uint64) (time.Time, error) {
	m, err := j.stream.GetMsg(ctx, seq)
	if err != nil {
		return time.Time{}, fmt.Errorf("block %d of shard %d: %w", seq, j.config.Shard, err)
	}
	return m.Time, nil
}
