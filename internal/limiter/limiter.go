// Package limiter decides requests: of each shard it takes checks and reports
// in, appends what it decided to the journal, block by block, and only then lets
// the decisions out.
//
// It is a group commit. While one block is on its way to the journal the next
// one gathers, so that the cost of a durable write is shared by all who wait.
//
// A lease says which limiter tries; the journal says which one succeeds. An
// owner that finds another owner's block in the journal stops, has answered
// nobody, and stands by. A fleet divides the shards among the processes that are
// there.
package limiter

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/internal/decide"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/policy"
)

// Config is what a limiter can be told.
type Config struct {
	Names      events.Names  // prefix of the subjects; default weir
	Shard      int           // the one that a Limiter owns; a Fleet works on all
	Shards     int           // how many there are; default 1
	Name       string        // a process takes over at once what an earlier one of its name owned; empty: waits for the lease to run out
	JournalAge time.Duration // how long the journal keeps blocks; default a week
	JournalMax int64         // bytes after which the journal takes no more; 0 leaves it to the server
	Policy     *policy.Policy
	Clock      func() time.Time // default time.Now

	// Windows are shared with other limiters, as on Redis; nil: each shard has
	// its own in memory, made again from the journal.
	Windows decide.Windows
	// MoveWindows lets a system's windows be where they were not before. From
	// memory to Redis counts begin anew; to memory they come from the journal.
	MoveWindows bool
	// WindowMax is how many bytes the windows in memory may take; past that those charged
	// longest ago make room, counted, and are no longer exact. Of a Fleet each
	// shard may take its part. Default 1 GiB, some millions of keys.
	WindowMax int64

	// DegradeAfter is how long a block may take until decisions go out, as
	// degraded, before the journal has them; default 50ms.
	DegradeAfter time.Duration
	// BacklogMax is how many bytes of blocks may wait for the journal meanwhile;
	// past that nobody is answered. Default 64 MiB, some 130,000 decisions.
	BacklogMax int

	// SnapshotEvery is after how many records windows in memory are saved, or
	// twice as many as they are if that is more: to save and load a window takes
	// about as long as to read a record again. Default 250,000, which are read
	// in half a second.
	SnapshotEvery int
}

// DefaultConfig returns the configuration of a deployment with one shard and
// the built-in policy.
func DefaultConfig() Config {
	return Config{
		Names:      events.Names{Prefix: events.DefaultPrefix},
		Shards:     1,
		JournalAge: journal.DefaultMaxAge,
		Policy:     policy.Default(),
		Clock:      time.Now,

		WindowMax:    1 << 30,
		DegradeAfter: 50 * time.Millisecond,
		BacklogMax:   64 << 20,

		SnapshotEvery: 250_000,
	}
}

// Validate names every fault at once.
func (c *Config) Validate() error {
	var faults []error
	faults = append(faults, events.CheckToken("prefix", c.Names.Prefix))
	if c.Shards < 1 || c.Shards > events.MaxShards {
		faults = append(faults, fmt.Errorf("shards: want 1 to %d, found %d", events.MaxShards, c.Shards))
	}
	if c.Shard < 0 || c.Shards > 0 && c.Shard >= c.Shards {
		faults = append(faults, fmt.Errorf("shard: want 0 to %d, found %d", c.Shards-1, c.Shard))
	}
	if c.DegradeAfter <= 0 {
		faults = append(faults, fmt.Errorf("degrade-after: want a positive duration, found %v", c.DegradeAfter))
	}
	if c.WindowMax < minWindowMax {
		faults = append(faults, fmt.Errorf("window-max: want %d bytes or more, found %d", minWindowMax, c.WindowMax))
	}
	if c.BacklogMax < 1 {
		faults = append(faults, fmt.Errorf("backlog-max: want 1 byte or more, found %d", c.BacklogMax))
	}
	if c.SnapshotEvery < 1 {
		faults = append(faults, fmt.Errorf("snapshot-every: want 1 record or more, found %d", c.SnapshotEvery))
	}
	if c.JournalMax < 0 {
		faults = append(faults, fmt.Errorf("journal-max: want 0 or more bytes, found %d", c.JournalMax))
	}
	if least := c.Policy.LongestWindow() + recoveryMargin; c.JournalAge < least {
		faults = append(faults, fmt.Errorf("journal-age: want at least %v, as the policy's longest window needs, found %v", least, c.JournalAge))
	}
	return errors.Join(faults...)
}

const (
	// minWindowMax is what the windows of a shard need to be of use.
	minWindowMax = 1 << 20
	// maxBlock is how many records a block holds at most; ids have room for
	// 1,000.
	maxBlock = 512
	// reservedForReports is how many places in a block checks leave to reports
	// that wait, so that neither starves the other.
	reservedForReports = 64
	// sweepEvery and sweepBudget free empty windows between blocks.
	sweepEvery  = 100 * time.Millisecond
	sweepBudget = 2000
	// drainTimeout bounds the last block of a limiter that is told to stop.
	drainTimeout = 5 * time.Second
)

// Limiter owns one shard, or waits to. Make it with New, then Run it; once it
// has ended it can be Run again.
type Limiter struct {
	config  Config
	nc      *nats.Conn
	js      jetstream.JetStream
	log     *zap.Logger
	metrics *metrics
	ready   chan struct{}
	once    sync.Once // closes ready
	decides atomic.Bool
	holds   atomic.Bool   // the lease
	changed func()        // called when decides or holds has changed; nil if nobody is to know
	letGo   chan struct{} // has room for one note that the lease may be free
}

// New makes a limiter on a connection, which stays the caller's.
func New(nc *nats.Conn, config Config, log *zap.Logger, registerer prometheus.Registerer) (*Limiter, error) {
	if err := config.Validate(); err != nil {
		return nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, fmt.Errorf("limiter: %w", err)
	}
	return &Limiter{
		config: config, nc: nc, js: js, log: log.Named("limiter").With(zap.Int("shard", config.Shard)),
		metrics: newMetrics(registerer, config.Shard),
		ready:   make(chan struct{}),
		letGo:   make(chan struct{}, 1),
	}, nil
}

// Ready is closed once the limiter has taken checks for the first time.
func (l *Limiter) Ready() <-chan struct{} { return l.ready }

// Decides tells whether the limiter takes checks now; else it stands by, or
// rebuilds its windows.
func (l *Limiter) Decides() bool { return l.decides.Load() }

// set notes what the limiter does now.
func (l *Limiter) set(flag *atomic.Bool, to bool) {
	flag.Store(to)
	if l.changed != nil {
		l.changed()
	}
}

// Run waits for the shard's lease, decides while it holds it, and waits again
// when it has lost it, until ctx ends; then it commits what it has taken. The
// error says that this was not possible.
func (l *Limiter) Run(ctx context.Context) error {
	again := backoff.NewExponentialBackOff(backoff.WithInitialInterval(50*time.Millisecond),
		backoff.WithMaxInterval(time.Second), backoff.WithMaxElapsedTime(0))
	for first := true; ; first = false {
		err := l.term(ctx, first)
		if ctx.Err() != nil {
			if err != nil {
				return fmt.Errorf("limiter of shard %d: %w", l.config.Shard, err)
			}
			return nil
		}
		l.log.Warn("not the owner", zap.Error(err))
		timer := time.NewTimer(again.NextBackOff())
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// term waits for the lease and owns the shard while it has it. It returns nil
// only when ctx has ended.
func (l *Limiter) term(ctx context.Context, first bool) error {
	lease, err := l.acquire(ctx, first)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	l.metrics.owner.Set(1)
	defer l.metrics.owner.Set(0)
	l.set(&l.holds, true)
	defer l.set(&l.holds, false)
	group, inner := errgroup.WithContext(ctx)
	group.Go(func() error { return lease.renew(inner) })
	group.Go(func() error { return l.decide(inner, lease) })
	err = group.Wait()
	lease.release(context.WithoutCancel(ctx), l.log)
	return err
}
