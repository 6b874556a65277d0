// Package load asks a running system for decisions as fast as it answers, or at
// a given rate, and measures how long it takes.
//
// It is a closed loop: so many askers, each of whom waits for an answer before
// asking again. At a given rate, latency counts from when a request was due,
// also if all askers were busy then: a system that falls behind is seen to.
package load

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/internal/events"
)

// Config says what is asked, and how much.
type Config struct {
	InFlight int                   // askers at once
	Requests int64                 // the run ends after so many; 0: no such bound
	Duration time.Duration         // the run ends after so long; 0: no such bound
	Rate     float64               // requests a second over all askers; 0: as fast as possible
	Tenant   string                // of all requests
	Keys     int                   // different users
	Zipf     float64               // above 1: few users ask much, the more the larger; 0: all the same
	Decided  func(events.Decision) // told of every decision, by many goroutines at once; may be nil
}

// DefaultConfig asks 10 seconds long.
func DefaultConfig() Config {
	return Config{InFlight: 64, Duration: 10 * time.Second, Tenant: "default", Keys: 10_000}
}

const (
	maxInFlight = 10_000
	maxKeys     = 100_000_000
	// longest is the largest latency that is told from larger ones.
	longest = time.Minute
)

// Validate names every fault at once.
func (c Config) Validate() error {
	faults := []error{events.CheckToken("tenant", c.Tenant)}
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.InFlight < 1 || c.InFlight > maxInFlight {
		fault("in flight: want 1 to %d, found %d", maxInFlight, c.InFlight)
	}
	if c.Requests < 0 || c.Duration < 0 || c.Requests == 0 && c.Duration == 0 {
		fault("requests and duration: want at least one of them above 0 and none below, found %d and %v", c.Requests, c.Duration)
	}
	if !(c.Rate >= 0 && c.Rate <= 1e9) { // nor NaN
		fault("rate: want 0 to 1e9 requests a second, found %v", c.Rate)
	}
	if c.Keys < 1 || c.Keys > maxKeys {
		fault("keys: want 1 to %d, found %d", maxKeys, c.Keys)
	}
	if c.Zipf != 0 && !(c.Zipf > 1 && c.Zipf <= 10) {
		fault("zipf: want 0, or above 1 and to 10, found %v", c.Zipf)
	}
	return errors.Join(faults...)
}

// Result is what a run measured.
type Result struct {
	InFlight int           `json:"in_flight"`
	Requests int64         `json:"requests"` // answered in whatever way
	Allowed  int64         `json:"allowed"`
	Denied   int64         `json:"denied"`
	Timeouts int64         `json:"timeouts"` // no decision in time; neither allowed nor denied
	Degraded int64         `json:"degraded"` // among those allowed and denied
	Took     time.Duration `json:"took_ns"`
	Rate     float64       `json:"rate"` // requests a second
	Latency  Latency       `json:"latency"`
}

// Latency is how long decisions took, in milliseconds; requests without one
// are left out.
type Latency struct {
	Mean float64 `json:"mean_ms"`
	P50  float64 `json:"p50_ms"`
	P90  float64 `json:"p90_ms"`
	P99  float64 `json:"p99_ms"`
	P999 float64 `json:"p999_ms"`
	Max  float64 `json:"max_ms"`
}

// checker is a gateway's client.
type checker interface {
	Check(ctx context.Context, r events.Request) (events.Decision, error)
}

// Run asks until one of the bounds is reached or ctx ends, waits for what is
// under way, and returns what it measured. The error tells of a bad config or
// of a client that cannot ask; what was measured before counts.
func Run(ctx context.Context, client checker, c Config) (Result, error) {
	if err := c.Validate(); err != nil {
		return Result{}, err
	}
	r := run{Config: c, client: client, start: time.Now(), latency: hdrhistogram.New(1, longest.Microseconds(), 3)}
	asking, stop := context.WithCancel(ctx)
	defer stop()
	if c.Duration > 0 {
		asking, stop = context.WithTimeout(asking, c.Duration)
		defer stop()
	}
	group, asking := errgroup.WithContext(asking)
	for i := range c.InFlight {
		group.Go(func() error { return r.ask(ctx, asking, uint64(i)) })
	}
	err := group.Wait()
	return r.result(), err
}

// run is a run under way.
type run struct {
	Config
	client checker
	start  time.Time
	next   atomic.Int64 // requests begun

	mu      sync.Mutex // guards the rest
	counts  Result
	latency *hdrhistogram.Histogram // microseconds
}

// ask is one asker: it begins requests while asking lasts, and ends those
// begun unless ctx does.
func (r *run) ask(ctx, asking context.Context, seed uint64) error {
	random := rand.New(rand.NewPCG(seed, 0))
	user := func() uint64 { return random.Uint64N(uint64(r.Keys)) }
	if r.Zipf > 0 {
		user = rand.NewZipf(random, r.Zipf, 1, uint64(r.Keys-1)).Uint64
	}
	for {
		n := r.next.Add(1) - 1
		if r.Requests > 0 && n >= r.Requests {
			return nil
		}
		due, ok := r.await(asking, n)
		if !ok {
			return nil
		}
		d, err := r.client.Check(ctx, events.Request{
			Tenant: r.Tenant, User: "user-" + strconv.FormatUint(user(), 10), Method: "GET", Path: "/load",
		})
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end of a run, not a failure
		}
		if err != nil {
			return err
		}
		r.count(&d, time.Since(due))
	}
}

// await waits until the nth request is due and returns when that was; ok is
// false if asking ended.
func (r *run) await(asking context.Context, n int64) (due time.Time, ok bool) {
	now := time.Now()
	if r.Rate == 0 {
		return now, asking.Err() == nil
	}
	due = r.start.Add(time.Duration(float64(n) / r.Rate * float64(time.Second)))
	if wait := due.Sub(now); wait > 0 {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-asking.Done():
		}
	}
	return due, asking.Err() == nil
}

func (r *run) count(d *events.Decision, took time.Duration) {
	if r.Decided != nil {
		r.Decided(*d)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.counts.Requests++
	if d.Reason == events.ReasonTimeout {
		r.counts.Timeouts++
		return
	}
	if d.Verdict == events.Deny {
		r.counts.Denied++
	} else {
		r.counts.Allowed++
	}
	if d.Degraded {
		r.counts.Degraded++
	}
	_ = r.latency.RecordValue(min(max(took.Microseconds(), 1), longest.Microseconds())) // in its range
}

func (r *run) result() Result {
	r.mu.Lock()
	defer r.mu.Unlock()
	result := r.counts
	result.InFlight, result.Took = r.InFlight, time.Since(r.start)
	result.Rate = float64(result.Requests) / result.Took.Seconds()
	at := func(percent float64) float64 { return float64(r.latency.ValueAtQuantile(percent)) / 1000 }
	result.Latency = Latency{
		Mean: r.latency.Mean() / 1000, P50: at(50), P90: at(90), P99: at(99), P999: at(99.9), Max: float64(r.latency.Max()) / 1000,
	}
	return result
}
