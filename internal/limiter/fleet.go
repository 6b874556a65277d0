package limiter

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

const (
	// beatEvery is how often a fleet says that it is there.
	beatEvery = time.Second
	// presentFor is how long it counts as present after it has said so: two of
	// three may be lost. It is less than leaseTTL, so that the others wait for
	// the leases of one that has died when these run out.
	presentFor = 3 * time.Second
	// patience is how long a shard may have no holder until everybody tries, and
	// not only the one that it is assigned to: longer than a lease takes to run
	// out.
	patience = 2 * leaseTTL
	// maxOthers bounds the fleets that are known. More than one a shard only
	// stand by.
	maxOthers = 1000
)

// Fleet decides all shards together with the fleets of other processes. Each
// says which shards it holds; from that all of them conclude who is to have
// which, and a shard changes hands once the other one waits for its lease. What
// they conclude decides only who tries: it may be wrong or differ for a while,
// and a lease and the journal are what they are for one Limiter.
//
// Make it with NewFleet, then Run it once.
type Fleet struct {
	name     string // among all fleets; a process that is started again under its name has the place it had
	nc       *nats.Conn
	subject  string
	log      *zap.Logger
	limiters []*Limiter    // of all shards
	changed  chan struct{} // has room for one note that a limiter holds or decides, or does not any more
	ready    chan struct{}

	mu    sync.Mutex // guards share
	share []int      // shards that are for this fleet to decide; nil before it knows

	// Of the goroutine that runs alone.
	others  map[string]other
	running map[int]context.CancelFunc // of the limiters that run, by shard
	ended   chan end
	unheld  []time.Time // since when nobody holds a shard; zero if somebody does
	said    []byte      // the newest presence
	greeted bool        // nobody has come since
}

// presence is what fleets tell each other.
type presence struct {
	Name  string `json:"name"`
	Holds []int  `json:"holds,omitempty"` // shards whose lease it has
	Waits []int  `json:"waits,omitempty"` // shards whose lease it takes once it is free
	Left  bool   `json:"left,omitempty"`  // it has come to its end
}

// other is another process's fleet.
type other struct {
	presence
	heard time.Time
}

// end tells how a limiter has ended.
type end struct {
	shard int
	err   error
}

// NewFleet makes a fleet on a connection, which stays the caller's. The shard
// of its configuration says nothing.
func NewFleet(nc *nats.Conn, config Config, log *zap.Logger, registerer prometheus.Registerer) (*Fleet, error) {
	config.Shard = 0
	if err := config.Validate(); err != nil {
		return nil, err
	}
	if least := int64(config.Shards) * minWindowMax; config.WindowMax < least {
		return nil, fmt.Errorf("window-max: want %d bytes or more for %d shards, found %d", least, config.Shards, config.WindowMax)
	}
	config.WindowMax /= int64(config.Shards)
	f := &Fleet{
		name: cmp.Or(config.Name, nuid.Next()), nc: nc, subject: config.Names.Limiters(), log: log.Named("fleet"),
		changed: make(chan struct{}, 1),
		ready:   make(chan struct{}),
		others:  make(map[string]other),
		running: make(map[int]context.CancelFunc),
		ended:   make(chan end, config.Shards),
		unheld:  make([]time.Time, config.Shards),
	}
	for config.Shard = range config.Shards {
		l, err := New(nc, config, log, registerer)
		if err != nil {
			return nil, err
		}
		l.changed = func() { note(f.changed) }
		f.limiters = append(f.limiters, l)
	}
	return f, nil
}

// note wakes whoever waits, unless it has not seen the last note yet.
func note(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Ready is closed once the fleet decides its share for the first time, which
// may be that others have all.
func (f *Fleet) Ready() <-chan struct{} { return f.ready }

// Decides tells whether the fleet decides its share now.
func (f *Fleet) Decides() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.share != nil && !slices.ContainsFunc(f.share, func(shard int) bool { return !f.limiters[shard].Decides() })
}

// Run decides the fleet's share until ctx ends; then it commits what it has
// taken. The error says that this was not possible, or is a *shards.OtherError or
// an *ElsewhereError.
func (f *Fleet) Run(ctx context.Context) error {
	if err := f.fixShards(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	heard := make(chan *nats.Msg, maxOthers)
	sub, err := f.nc.ChanSubscribe(f.subject, heard)
	if err != nil {
		return fmt.Errorf("hear of other limiters: %w", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // fails when the connection is closed
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for due := true; ; {
		f.balance(ctx, time.Now())
		f.say(f.presence(), due || !f.greeted)
		due, f.greeted = false, true
		select {
		case m := <-heard:
			f.hear(m.Data, time.Now())
		case <-f.changed:
		case e := <-f.ended:
			f.end(e)
		case <-tick.C:
			due = true
		case <-ctx.Done():
			return f.leave()
		}
	}
}

// fixShards says for good how many shards there are, or finds that it was said.
func (f *Fleet) fixShards(ctx context.Context) error {
	fix := func() error {
		_, err := f.limiters[0].createReports(ctx)
		if final(err) {
			return backoff.Permanent(err)
		}
		return err
	}
	again := backoff.NewExponentialBackOff(backoff.WithMaxInterval(time.Second), backoff.WithMaxElapsedTime(0))
	failed := func(err error, _ time.Duration) { f.log.Warn("not started yet", zap.Error(err)) }
	if err := backoff.RetryNotify(fix, backoff.WithContext(again, ctx), failed); ctx.Err() == nil {
		return err
	}
	return nil
}

// hear takes note of another fleet.
func (f *Fleet) hear(payload []byte, now time.Time) {
	var p presence
	if err := json.Unmarshal(payload, &p); err != nil || p.Name == "" || p.Name == f.name {
		return // not from a fleet, or from us
	}
	_, known := f.others[p.Name]
	switch {
	case p.Left: // it says so when it begins to stop, and of each shard that it has let go
		delete(f.others, p.Name)
		for shard := range f.running {
			note(f.limiters[shard].letGo)
		}
	case known || len(f.others) < maxOthers:
		f.others[p.Name] = other{p, now}
		f.greeted = f.greeted && known
	}
}

// balance starts the limiters of the shards that the fleet is to have, and
// stops those that another one is to have and waits for.
func (f *Fleet) balance(ctx context.Context, now time.Time) {
	maps.DeleteFunc(f.others, func(_ string, o other) bool { return now.Sub(o.heard) > presentFor })
	holders := f.holders()
	assigned := assign(holders, append(slices.Collect(maps.Keys(f.others)), f.name))
	share := []int{}
	for shard, name := range assigned {
		switch {
		case holders[shard] != "":
			f.unheld[shard] = time.Time{}
		case f.unheld[shard].IsZero():
			f.unheld[shard] = now
			note(f.limiters[shard].letGo)
		}
		mine := name == f.name
		if mine {
			share = append(share, shard)
		}
		tries := mine || holders[shard] == "" && now.Sub(f.unheld[shard]) > patience
		stop, runs := f.running[shard]
		switch {
		case tries && !runs:
			f.start(ctx, shard)
		case !tries && runs && (holders[shard] != f.name || slices.Contains(f.others[name].Waits, shard)):
			stop() // it is told again until it has ended
		}
	}
	f.mu.Lock()
	changed := !slices.Equal(f.share, share) || f.share == nil
	f.share = share
	f.mu.Unlock()
	if changed {
		f.log.Info("share of the shards", zap.Ints("shards", share), zap.Int("others", len(f.others)))
	}
	select {
	case <-f.ready:
	default:
		if f.Decides() {
			close(f.ready)
		}
	}
}

// holders returns who holds each shard, "" where nobody does. Of a shard that
// two claim each takes itself for its holder, until one finds that it is not.
func (f *Fleet) holders() []string {
	holders := make([]string, len(f.limiters))
	for _, name := range slices.Sorted(maps.Keys(f.others)) {
		for _, shard := range f.others[name].Holds {
			if shard >= 0 && shard < len(holders) {
				holders[shard] = name
			}
		}
	}
	for shard, l := range f.limiters {
		if l.holds.Load() {
			holders[shard] = f.name
		}
	}
	return holders
}

// start runs a shard's limiter; end must see how it ends.
func (f *Fleet) start(ctx context.Context, shard int) {
	ctx, f.running[shard] = context.WithCancel(ctx)
	go func() { f.ended <- end{shard, f.limiters[shard].Run(ctx)} }() // has room for all
}

// end takes note of a limiter that was stopped for another fleet's sake.
func (f *Fleet) end(e end) {
	f.running[e.shard]() // frees its context
	delete(f.running, e.shard)
	if e.err != nil { // its gateways have their on_error; the shard is with somebody else
		f.log.Warn("not all that was taken is committed", zap.Error(e.err))
	}
}

// presence returns what there is to say of this fleet.
func (f *Fleet) presence() presence {
	p := presence{Name: f.name}
	for shard, l := range f.limiters {
		if l.holds.Load() {
			p.Holds = append(p.Holds, shard)
		} else if f.running[shard] != nil {
			p.Waits = append(p.Waits, shard)
		}
	}
	return p
}

// say tells the other fleets, if it is due or something has changed. What is
// lost is said again.
func (f *Fleet) say(p presence, due bool) {
	text, err := json.Marshal(p)
	if err != nil {
		panic(err) // strings and numbers
	}
	if !due && bytes.Equal(text, f.said) {
		return
	}
	f.said = text
	if err := f.nc.Publish(f.subject, text); err != nil {
		f.log.Debug("presence not told", zap.Error(err))
	}
}

// leave lets the others have the shards, once the limiters have ended, which
// the end of their context makes them do.
func (f *Fleet) leave() error {
	f.say(presence{Name: f.name, Left: true}, true)
	var faults []error
	for len(f.running) > 0 {
		e := <-f.ended
		f.running[e.shard]()
		delete(f.running, e.shard)
		f.say(presence{Name: f.name, Left: true}, true)
		faults = append(faults, e.err)
	}
	return errors.Join(faults...)
}
