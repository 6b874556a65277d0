package crashtest

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/testenv"
)

const (
	askers = 32
	// reportsAtOnce are acknowledged together.
	reportsAtOnce = 20
	// maxAnswered bounds the outcomes that are told together.
	maxAnswered = 20
	// reportEvery leaves something of a small machine to what is tested.
	reportEvery = 10 * time.Millisecond
	// checkTimeout is long enough for a busy machine, and far shorter than a
	// restart is followed by answers.
	checkTimeout = 300 * time.Millisecond
	// reportPrefix begins the ids of reports.
	reportPrefix = "report-"
	// tries bounds how often a request without a decision is asked about again.
	tries = 5
	// remembered is how many requests an asker has decisions of until it asks
	// about one of them again.
	remembered = 6
	// maxNamed bounds the faults that are told one by one.
	maxNamed = 20
)

// load asks and reports without pause, and keeps what it was told.
type load struct {
	t        *testing.T
	client   *gateway.Client
	watch    *nats.Subscription
	stopped  context.CancelFunc
	workers  sync.WaitGroup
	answers  atomic.Int64
	plain    atomic.Int64 // of them, those that are not degraded
	degraded atomic.Int64 // decisions that went over the wire as such
	epoch    atomic.Int64 // counts the calls of forget
	faults   atomic.Int64

	mu       sync.Mutex                  // guards the rest
	decided  map[string]gateway.Decision // checks that were answered
	timedOut map[string]bool             // checks that had to do without, at least once
	reported map[string]bool             // reports that were acknowledged
	answered []gateway.Request           // checks whose outcomes are told next, maxAnswered at most
	told     map[string]gateway.Outcome  // outcomes that were acknowledged
	seen     map[sight]map[string]bool   // decisions that went over the wire, as they did
	newest   map[string]time.Time        // when a tenant's check was answered last
}

// sight is a decision's request, and whether the decision tells of a gateway
// that did without one, which is a second one for the request.
type sight struct {
	id      string
	timeout bool
}

// load starts to ask and to report.
func (s *system) load() *load {
	s.Helper()
	nc := testenv.Connect(s.T, s.nats)
	client, err := gateway.Connect(nc, gateway.Config{Name: "crash", Shards: s.shards, Timeout: checkTimeout})
	if err != nil {
		s.Fatal(err)
	}
	l := &load{t: s.T, client: client, decided: map[string]gateway.Decision{}, timedOut: map[string]bool{},
		reported: map[string]bool{}, told: map[string]gateway.Outcome{}, seen: map[sight]map[string]bool{}, newest: map[string]time.Time{}}
	observer := testenv.Connect(s.T, s.nats)
	if l.watch, err = observer.Subscribe(names.AllDecisions(), l.observe); err != nil {
		s.Fatal(err)
	}
	if err := l.watch.SetPendingLimits(-1, -1); err != nil {
		s.Fatal(err)
	}
	if err := observer.Flush(); err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithCancel(s.Context())
	l.stopped = cancel
	for n := range askers {
		l.workers.Go(func() { l.ask(ctx, n) })
	}
	l.workers.Go(func() { l.report(ctx) })
	s.Cleanup(l.workers.Wait)
	s.Cleanup(cancel)
	return l
}

// request makes one of a caller that goes far over its limit, or of one of many
// that do not.
func request(kind string, n int) gateway.Request {
	user := "hot"
	if n%2 == 0 {
		user = fmt.Sprint("user-", n)
	}
	return gateway.Request{ID: fmt.Sprint(kind, n), Tenant: fmt.Sprint("tenant-", n%7), User: user, Method: "GET", Path: "/api/order/history/"}
}

// wrong tells of a fault.
func (l *load) wrong(format string, args ...any) {
	l.t.Helper()
	if l.faults.Add(1) > maxNamed {
		l.t.Fail()
		return
	}
	l.t.Errorf(format, args...)
}

// ask asks about one request after the other, and at times about one that it had
// a decision of: that must be the same, also from another limiter.
func (l *load) ask(ctx context.Context, worker int) {
	var recent []gateway.Request
	epoch := l.epoch.Load()
	for n := worker; ctx.Err() == nil; n += askers + 1 { // odd, so that each has all kinds of callers
		r := request("check-", n)
		if now := l.epoch.Load(); now != epoch {
			recent, epoch = recent[:0], now
		}
		if len(recent) == remembered {
			l.askAbout(ctx, recent[n%remembered])
			recent = recent[:0]
		}
		if l.askAbout(ctx, r) {
			recent = append(recent, r)
		}
	}
}

// askAbout asks until there is a decision, some times at most.
func (l *load) askAbout(ctx context.Context, r gateway.Request) bool {
	for try := 0; try < tries && ctx.Err() == nil; try++ {
		d, err := l.client.Check(context.WithoutCancel(ctx), r)
		if err != nil {
			l.t.Error(err)
			return false
		}
		l.mu.Lock()
		if d.Reason == gateway.ReasonTimeout {
			l.timedOut[r.ID] = true
			l.mu.Unlock()
			continue
		}
		l.decided[r.ID] = d
		l.newest[r.Tenant] = time.Now()
		if len(l.answered) < maxAnswered {
			l.answered = append(l.answered, r)
		}
		l.mu.Unlock()
		l.answers.Add(1)
		if !d.Degraded {
			l.plain.Add(1)
		}
		return true
	}
	return false
}

// forget has the load ask no more about what it has decisions of.
func (l *load) forget() { l.epoch.Add(1) }

// report reports, and tells outcomes: of checks that were answered, of requests
// that are reported only then, and of some that nobody will ever hear of.
func (l *load) report(ctx context.Context) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for n := 0; ctx.Err() == nil; <-tick.C {
		batch := make([]gateway.Request, reportsAtOnce)
		for i := range batch {
			batch[i] = request(reportPrefix, n)
			n++
		}
		l.mu.Lock()
		of := append(l.answered, request("unknown-", n))
		l.answered = nil
		l.mu.Unlock()
		outcomes := make([]gateway.Outcome, 0, len(of)+len(batch))
		for _, r := range append(of, batch...) {
			outcomes = append(outcomes, gateway.Outcome{ID: r.ID, Tenant: r.Tenant, Status: 200, LatencyUS: int64(n)})
		}
		if !l.send(ctx, func(ctx context.Context) error { return l.client.Outcome(ctx, outcomes...) }) {
			return
		}
		l.mu.Lock()
		for _, o := range outcomes {
			if _, again := l.told[o.ID]; !again { // the first one counts
				l.told[o.ID] = o
			}
		}
		l.mu.Unlock()
		if !l.send(ctx, func(ctx context.Context) error { return l.client.Report(ctx, batch...) }) {
			return
		}
		l.mu.Lock()
		for _, r := range batch {
			l.reported[r.ID] = true
		}
		l.mu.Unlock()
	}
}

// send tries until all is acknowledged.
func (l *load) send(ctx context.Context, all func(context.Context) error) bool {
	deadline, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	err := backoff.Retry(func() error { return all(deadline) }, backoff.WithContext(backoff.NewConstantBackOff(checkTimeout), deadline))
	if err != nil {
		l.t.Error(err) // the broker is never away for so long
	}
	return err == nil
}

// observe keeps every decision that goes by.
func (l *load) observe(m *nats.Msg) {
	d, err := decode(m.Data)
	if err != nil {
		l.wrong("decision %s: %v", m.Data, err)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if d.Degraded {
		l.degraded.Add(1)
	}
	at := sight{d.ID, d.Reason == gateway.ReasonTimeout}
	if l.seen[at] == nil {
		l.seen[at] = map[string]bool{}
	}
	l.seen[at][string(m.Data)] = true
}

// awaitAnswers waits until n more checks are answered.
func (l *load) awaitAnswers(n int64) {
	l.t.Helper()
	l.await(n, l.answers.Load)
}

// awaitPlain waits until n more checks are answered from the journal.
func (l *load) awaitPlain(n int64) {
	l.t.Helper()
	l.await(n, l.plain.Load)
}

// awaitDegraded waits until n more checks are answered before the journal has
// the answers.
func (l *load) awaitDegraded(n int64) {
	l.t.Helper()
	l.await(n, func() int64 { return l.answers.Load() - l.plain.Load() })
}

func (l *load) await(n int64, count func() int64) {
	l.t.Helper()
	enough := count() + n
	testenv.Eventually(l.t, patience, func() error {
		if have := count(); have < enough {
			return fmt.Errorf("%d answers of %d", have, enough)
		}
		return nil
	})
}

// awaitEachTenant waits until a check of each tenant, all of which were asked for
// before, has been answered after a moment, and returns when the last one was.
func (l *load) awaitEachTenant(after time.Time) (last time.Time) {
	l.t.Helper()
	testenv.Eventually(l.t, patience, func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		last = after
		for tenant, at := range l.newest {
			if !at.After(after) {
				return fmt.Errorf("no answer for %s", tenant)
			}
			if at.After(last) {
				last = at
			}
		}
		return nil
	})
	return last
}

// stop ends the load when nothing of it is under way any more.
func (l *load) stop() {
	l.t.Helper()
	l.stopped()
	l.workers.Wait()
	if err := l.client.Close(); err != nil { // what timed out is reported then
		l.t.Fatal(err)
	}
	if n := l.client.Overflow(); n > 0 {
		l.t.Fatalf("%d requests are recorded nowhere", n)
	}
}
