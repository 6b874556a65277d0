package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/events"
)

const (
	tenant      = "acme"
	gatewayName = "bench"
	// users spread the load, so that most checks pass under the built-in policy.
	users = 20_000
	// answerWithin is far longer than any answer takes: a check without one is
	// a fault and no figure.
	answerWithin = 10 * time.Second
	// maxSamples bounds the latencies kept of one run.
	maxSamples = 4_000_000
)

// asker asks number n, waits for the answer, and says what was wrong with it.
type asker func(ctx context.Context, n int64) error

// checks measures checks through the gateway's client, NATS, the limiter and
// the journal against an echo of the same messages. All are in this process
// and all connections to NATS are made in the same way, over loopback.
func checks(ctx context.Context, dir string, o options, r *report, progress func(string, ...any)) (err error) {
	s, err := startSystem(ctx, filepath.Join(dir, "checks"), setup{shards: 1})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	r.Machine.NATS = s.version
	weir := func(ctx context.Context, n int64) error { return ask(ctx, s.client, tenant, n) }
	return alternate(ctx, o, r, progress, s.echo.ask, weir)
}

// ask makes one check. A denial is as good an answer as any.
func ask(ctx context.Context, client *gateway.Client, tenant string, n int64) error {
	d, err := client.Check(ctx, gateway.Request{ID: id(n), Tenant: tenant, User: "u" + strconv.FormatInt(n%users, 10), Method: "GET", Path: "/api/order/history/"})
	if err == nil && (d.Reason == gateway.ReasonTimeout || d.Reason == events.ReasonUnavailable) {
		err = fmt.Errorf("check %s: no decision within %v", id(n), answerWithin)
	}
	return err
}

// idLength is that of all ids, so that one can take another's place.
const idLength = len("000000000000")

func id(n int64) string { return fmt.Sprintf("%0*d", idLength, n) }

// alternate runs both at each number of requests in flight, in turn, so that
// what else the machine does meets both.
func alternate(ctx context.Context, o options, r *report, progress func(string, ...any), bare, weir asker) error {
	t := table{Title: "Checks: gateway, NATS, limiter and journal (file storage) against an echo of the same messages", Bare: "echo"}
	var n atomic.Int64 // numbers are used once, throughout: a check that comes again is not decided again
	for _, inFlight := range []int{1, 64, 256} {
		for _, warm := range []asker{bare, weir} {
			if _, err := drive(ctx, &n, inFlight, o.duration/4, warm); err != nil {
				return err
			}
		}
		var rates, p50s, p99s []pair
		for round := range o.rounds {
			m, err := inTurn(round,
				func() (figures, error) { return drive(ctx, &n, inFlight, o.duration, bare) },
				func() (figures, error) { return drive(ctx, &n, inFlight, o.duration, weir) })
			if err != nil {
				return err
			}
			b, w := m[0], m[1]
			progress("checks, %d in flight, round %d: echo %.0f/s, weir %.0f/s", inFlight, round+1, b.rate, w.rate)
			rates, p50s, p99s = append(rates, pair{b.rate, w.rate}), append(p50s, pair{b.p50, w.p50}), append(p99s, pair{b.p99, w.p99})
		}
		var rateAim, p50Aim aim
		switch inFlight {
		case 1:
			p50Aim.below = 3
		case 64:
			rateAim.atLeast = 0.5
		}
		where := fmt.Sprint(inFlight, " in flight")
		t.Rows = append(t.Rows, compare(where, "rate", perSecond, rates, rateAim),
			compare(where, "p50", seconds, p50s, p50Aim), compare(where, "p99", seconds, p99s, aim{}))
	}
	r.Tables = append(r.Tables, t)
	return nil
}

// inTurn makes the runs of a round, another one first each time, each without
// the garbage of the one before. It returns what they measured in their order.
func inTurn[T any](round int, runs ...func() (T, error)) ([]T, error) {
	measured := make([]T, len(runs))
	for i := range runs {
		at := (round + i) % len(runs)
		runtime.GC()
		var err error
		if measured[at], err = runs[at](); err != nil {
			return nil, err
		}
	}
	return measured, nil
}

// inRounds makes all rounds and returns what each run measured, by rounds.
func inRounds[T any](rounds int, runs ...func() (T, error)) ([][]T, error) {
	measured := make([][]T, len(runs))
	for round := range rounds {
		all, err := inTurn(round, runs...)
		if err != nil {
			return nil, err
		}
		for i, one := range all {
			measured[i] = append(measured[i], one)
		}
	}
	return measured, nil
}

// figures are those of one run; times in seconds.
type figures struct {
	rate, p50, p99 float64
	processor      float64 // of a request, by this process
	allocations    float64 // likewise
}

// drive asks for a while, with a number of requests in flight all the time.
func drive(ctx context.Context, n *atomic.Int64, inFlight int, duration time.Duration, ask asker) (figures, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stuck := time.AfterFunc(duration+answerWithin, func() { cancel(errors.New("requests without an answer")) })
	defer stuck.Stop()
	latencies := make([][]time.Duration, inFlight)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	spentBefore, err := processor()
	if err != nil {
		return figures{}, err
	}
	began := time.Now()
	var workers sync.WaitGroup
	for w := range inFlight {
		workers.Go(func() {
			for at := began; ctx.Err() == nil && at.Sub(began) < duration && len(latencies[w]) < maxSamples/inFlight; {
				if err := ask(ctx, n.Add(1)); err != nil {
					cancel(err)
					return
				}
				now := time.Now()
				latencies[w] = append(latencies[w], now.Sub(at))
				at = now
			}
		})
	}
	workers.Wait()
	took := time.Since(began)
	if ctx.Err() != nil {
		return figures{}, context.Cause(ctx)
	}
	spentAfter, err := processor()
	if err != nil {
		return figures{}, err
	}
	runtime.ReadMemStats(&after)
	all := slices.Sorted(slices.Values(slices.Concat(latencies...)))
	return figures{
		rate:        float64(len(all)) / took.Seconds(),
		p50:         all[len(all)/2].Seconds(),
		p99:         all[len(all)*99/100].Seconds(),
		processor:   (spentAfter - spentBefore).Seconds() / float64(len(all)),
		allocations: float64(after.Mallocs-before.Mallocs) / float64(len(all)),
	}, nil
}
