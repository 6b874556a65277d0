// Package limiter decides the requests of one shard: it takes checks and
// reports in, appends what it decided to the journal, block by block, and only
// then lets the decisions out.
//
// It is a group commit. While one block is on its way to the journal the next
// one gathers, so that the cost of a durable write is shared by all who wait.
// A limiter that finds another owner's block in the journal stops and has
// answered nobody.
package limiter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/internal/decide"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/idgen"
	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/policy"
)

// Config is what a limiter can be told.
type Config struct {
	Names      events.Names  // prefix of the subjects; default weir
	Shard      int           // the shard it owns
	Shards     int           // how many there are; default 1
	JournalAge time.Duration // how long the journal keeps blocks; default a week
	JournalMax int64         // bytes after which the journal takes no more; 0 leaves it to the server
	Policy     *policy.Policy
	Clock      func() time.Time // default time.Now
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
	}
}

// Validate names every fault at once.
func (c *Config) Validate() error {
	var faults []error
	faults = append(faults, events.CheckToken("prefix", c.Names.Prefix))
	if c.Shards < 1 || c.Shards > events.MaxShards {
		faults = append(faults, fmt.Errorf("shards: want 1 to %d, found %d", events.MaxShards, c.Shards))
	}
	if c.Shard < 0 || c.Shard >= c.Shards {
		faults = append(faults, fmt.Errorf("shard: want 0 to %d, found %d", c.Shards-1, c.Shard))
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

// Limiter owns one shard. Make it with New, then Run it once.
type Limiter struct {
	config  Config
	nc      *nats.Conn
	js      jetstream.JetStream
	log     *zap.Logger
	metrics *metrics
	ready   chan struct{}

	checks  chan *nats.Msg
	reports chan report

	// Of the goroutine that commits alone.
	decider   *decide.Decider
	seen      *seen
	minter    *idgen.Minter
	appender  *journal.Appender
	last      time.Time // decided_at of the last record
	reportSeq uint64    // of the last report taken
	block     block
	subjects  map[address]string
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
	l := &Limiter{
		config: config, nc: nc, js: js, log: log.Named("limiter").With(zap.Int("shard", config.Shard)),
		ready:   make(chan struct{}),
		checks:  make(chan *nats.Msg, maxWaiting),
		reports: make(chan report, maxBlock),
		decider: decide.New(config.Policy),
		seen:    newSeen(),

		subjects: make(map[address]string),
	}
	l.metrics = newMetrics(registerer, l)
	l.block.max = int(nc.MaxPayload()) - headerRoom
	return l, nil
}

// Ready is closed once the limiter takes checks.
func (l *Limiter) Ready() <-chan struct{} { return l.ready }

// Run rebuilds the windows from the journal and decides until ctx ends; then it
// commits what it has taken and returns nil. Any other end is an error, which
// is journal.ErrFenced if another limiter owns the shard.
func (l *Limiter) Run(ctx context.Context) error {
	from, err := l.recover(ctx)
	if err != nil {
		return fmt.Errorf("limiter of shard %d: %w", l.config.Shard, err)
	}
	defer l.appender.Close()
	sub, err := l.nc.ChanSubscribe(l.config.Names.Checks(l.config.Shard), l.checks)
	if err != nil {
		return fmt.Errorf("limiter of shard %d: take checks: %w", l.config.Shard, err)
	}
	group, inner := errgroup.WithContext(ctx)
	stopped := make(chan struct{})
	writes, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	context.AfterFunc(inner, func() { time.AfterFunc(drainTimeout, cancel) })
	group.Go(func() error { return l.takeReports(inner, from.reports, from.nextReport) })
	group.Go(func() error { return l.commit(writes, stopped) })
	if err := l.nc.FlushTimeout(drainTimeout); err != nil {
		l.log.Warn("the server may not know of the subscription yet", zap.Error(err))
	}
	close(l.ready)
	l.log.Info("deciding", zap.Uint64("policy", l.config.Policy.Revision))

	<-inner.Done()
	drain(sub)
	close(stopped)
	if err := group.Wait(); err != nil {
		return fmt.Errorf("limiter of shard %d: %w", l.config.Shard, err)
	}
	return nil
}

// drain ends a subscription once what the server has sent of it is in its
// channel, for a second at most.
func drain(sub *nats.Subscription) {
	closed := sub.StatusChanged(nats.SubscriptionClosed)
	if sub.Drain() != nil {
		return // the connection is closed: nothing comes any more
	}
	select {
	case <-closed:
	case <-time.After(time.Second):
	}
}
