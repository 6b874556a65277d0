// Package journal keeps the durable log of decided requests, one JetStream
// stream a shard, in blocks: messages whose body holds one record a line.
//
// The journal is the only truth. A block is appended under the expectation
// that it follows the last one its owner knows, so of two owners of a shard one
// fails and has answered nobody. Readers see every block once and in order.
package journal

import (
	"context"
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
	Log
	js      jetstream.JetStream
	subject string
	config  Config
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
	return &Journal{Log: newLog(stream), js: js, subject: c.Names.Journal(c.Shard), config: c}, nil
}

// Open opens a shard's journal as it stands. The error is ErrNone if there is
// none.
func Open(ctx context.Context, js jetstream.JetStream, names events.Names, shard int) (*Journal, error) {
	l, err := OpenLog(ctx, js, names.JournalStream(shard))
	if err != nil {
		return nil, err
	}
	config := l.stream.CachedInfo().Config
	return &Journal{Log: *l, js: js, subject: names.Journal(shard),
		config: Config{Names: names, Shard: shard, MaxAge: config.MaxAge, MaxBytes: max(config.MaxBytes, 0)}}, nil
}

// Shard returns the journal's shard.
func (j *Journal) Shard() int { return j.config.Shard }

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
