package limiter

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/internal/decide"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/idgen"
	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/window"
)

// owner is a limiter while it owns its shard. All it knows comes from the
// journal, so that it ends with its ownership.
type owner struct {
	*Limiter
	lease *lease

	sub     *nats.Subscription // of the checks
	checks  chan *nats.Msg
	reports chan report
	asked   chan *nats.Msg // explains and commands
	walks   chan *walk     // snapshots to be stored
	changes chan change    // of the policy
	journal *journal.Journal

	// Of the goroutine that commits alone, once run has begun.
	policy    *policy.Policy
	decider   *decide.Decider
	memory    *window.Memory // its windows; nil if they are shared
	seen      *seen
	minter    *idgen.Minter
	appender  *journal.Appender
	last      time.Time // the clock, and decided_at of the last record
	forgotten time.Time // ids that were decided before are not taken over from the journal
	reportSeq uint64    // of the last report that is in a block
	reportOf  int64     // the stream that this is of, as the last block said; 0 if it did not
	unsaved   int       // records since a snapshot was begun
	walk      *walk     // the snapshot that is being saved; else nil
	evicted   uint64    // windows that had to make room, as far as they are counted
	dropped   int       // checks that found no room, likewise

	batch    []entry // what is being decided
	batched  map[fingerprint]struct{}
	deciding bool       // beside this goroutine, which then leaves batch and decider alone
	decided  chan error // what the windows said
	down     bool       // the windows could not be asked the last time

	controls []events.Control // the last that were done by hand, for commands that come again

	block    *block   // that is being filled
	queue    []*block // blocks that are not in the journal, the first one first
	queued   int      // bytes of them
	free     []*block // to be used again
	maxBody  int      // bytes of a block
	late     *time.Timer
	degraded bool // decisions go out before the journal has them
	decision []byte
	subjects map[address]string
}

func newOwner(l *Limiter, lease *lease) *owner {
	o := &owner{
		Limiter:  l,
		lease:    lease,
		checks:   make(chan *nats.Msg, maxWaiting),
		reports:  make(chan report, maxBlock),
		asked:    make(chan *nats.Msg, maxAsked),
		changes:  make(chan change),
		walks:    make(chan *walk),
		policy:   l.config.Policy,
		batch:    make([]entry, 0, maxBlock),
		batched:  make(map[fingerprint]struct{}, maxBlock),
		decided:  make(chan error, 1),
		block:    new(block),
		maxBody:  int(l.nc.MaxPayload()) - headerRoom,
		late:     time.NewTimer(l.config.DegradeAfter),
		subjects: make(map[address]string),
	}
	o.late.Stop()
	o.forget()
	return o
}

// forget begins with nothing known.
func (o *owner) forget() {
	o.seen, o.controls, o.last, o.reportSeq, o.reportOf = newSeen(), nil, time.Time{}, 0, 0
	windows := o.config.Windows
	if windows == nil {
		o.memory = o.newMemory()
		windows = o.memory
	}
	o.decider = decide.New(o.policy, windows)
}

func (o *owner) newMemory() *window.Memory {
	m := window.NewMemory()
	m.Bound(o.config.WindowMax)
	return m
}

// run rebuilds the windows from the journal and decides until ctx ends; then it
// commits what it has taken and returns nil. Any other end is an error, which
// is journal.ErrFenced if another limiter has appended to the journal.
func (o *owner) run(ctx context.Context) error {
	from, err := o.recover(ctx)
	if ctx.Err() != nil {
		return nil // told to stop before it began
	}
	if err != nil {
		return err
	}
	defer o.appender.Close()
	sub, err := o.nc.ChanSubscribe(o.config.Names.Checks(o.config.Shard), o.checks)
	if err != nil {
		return fmt.Errorf("take checks: %w", err)
	}
	o.sub = sub
	stopAsked, err := o.takeAsked()
	if err != nil {
		return err
	}
	defer stopAsked()
	revision := o.policy.Revision
	group, inner := errgroup.WithContext(ctx)
	stopped := make(chan struct{})
	writes, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	context.AfterFunc(inner, func() { time.AfterFunc(drainTimeout, cancel) })
	group.Go(func() error { return o.takeReports(inner, from) })
	group.Go(func() error { return o.commit(writes, stopped) })
	group.Go(func() error { return o.storeSnapshots(inner, writes) })
	if err := o.nc.FlushTimeout(drainTimeout); err != nil {
		o.log.Warn("the server may not know of the subscription yet", zap.Error(err))
	}
	o.tellOfPolicy(revision)
	if o.config.Shard == 0 {
		made := o.tryOutcomes(inner)
		group.Go(func() error { return o.keepOutcomes(inner, made) })
	}
	o.once.Do(func() { close(o.ready) })
	o.set(&o.decides, true)
	defer o.set(&o.decides, false)
	o.log.Info("deciding", zap.Uint64("policy", revision))

	<-inner.Done()
	drain(sub)
	close(stopped)
	return group.Wait()
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
