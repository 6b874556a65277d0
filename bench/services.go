package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	burstTenant  = "bursts"
	deniedTenant = "denied"
	// serviceTurns are the runs that one is divided into. Three processes share
	// the cores: what else the machine does in a second would decide.
	serviceTurns = 4
	// deniedUsers go on though they are denied.
	deniedUsers = 1000
	// burstLimit is that of a second for each user of bursts.
	burstLimit = 100
	// burstWithin is how long before a second begins the first burst does.
	burstWithin = 100 * time.Millisecond
)

// contest is Weir, and ratelimit as it comes and at its best.
type contest struct {
	closers
	weir       *served
	asIs, best *ratelimit
}

// services measures Weir, asked by its SDK, over HTTP and over gRPC, beside
// Envoy's rate limit service on Redis. Each service is a process of its own, and
// this one is the gateway of all, with the same client of gRPC for both. They have
// the same rules and are asked about the same users.
func services(ctx context.Context, dir string, o options, r *report, progress func(string, ...any)) (err error) {
	progress("services: building %s", ratelimitModule)
	program, err := buildRatelimit(ctx, dir)
	if err != nil {
		return err
	}
	r.Machine.Ratelimit = program.version
	var c contest
	defer func() { err = errors.Join(err, c.close()) }()
	if c.weir, err = startServed(ctx, filepath.Join(dir, "served")); err != nil {
		return err
	}
	c.opened(c.weir.close)
	if c.asIs, err = program.start(ctx, filepath.Join(dir, "as-is"), false); err != nil {
		return err
	}
	c.opened(c.asIs.close)
	if c.best, err = program.start(ctx, filepath.Join(dir, "best"), true); err != nil {
		return err
	}
	c.opened(c.best.close)
	for _, measure := range []func(context.Context, options, *report, func(string, ...any)) error{c.checks, c.denied, c.bursts} {
		if err := measure(ctx, o, r, progress); err != nil {
			return err
		}
	}
	return nil
}

// way is one to ask Weir, and what its rate should be of ratelimit's with 64 in
// flight. Where that is said its p50 should be below ratelimit's.
type way struct {
	name           string
	by             connection
	ofAsIs, ofBest aim
}

// checks measures checks that all pass.
func (c *contest) checks(ctx context.Context, o options, r *report, progress func(string, ...any)) error {
	const title = "Services, each a process of its own: checks of 20000 users, limit 1000 a minute, against ratelimit "
	asIs := table{Title: title + "as it comes", Bare: "ratelimit"}
	best := table{Title: title + "at its best", Bare: "its best"}
	ways := []way{
		{"SDK", c.weir.sdk, aim{atLeast: 4}, aim{atLeast: 4}},
		{"HTTP", c.weir.http, aim{}, aim{}},
		{"gRPC", c.weir.grpc, aim{atLeast: 1.3}, aim{atLeast: 1}},
	}
	connections := []connection{c.asIs.grpc, c.best.grpc}
	for _, w := range ways {
		connections = append(connections, w.by)
	}
	var n atomic.Int64
	for _, inFlight := range []int{1, 64, 256} {
		duration := o.duration / 2 / serviceTurns // there are five of them
		var runs []func() (figures, error)
		for _, by := range connections {
			runs = append(runs, func() (figures, error) { return drive(ctx, &n, inFlight, duration, passing(by)) })
		}
		if _, err := inTurn(0, runs...); err != nil { // to warm up
			return err
		}
		measured, err := inRounds(o.rounds*serviceTurns, runs...)
		if err != nil {
			return err
		}
		where := fmt.Sprint(inFlight, " in flight")
		for i, w := range ways {
			ofAsIs, ofBest := w.ofAsIs, w.ofBest
			if inFlight != 64 {
				ofAsIs, ofBest = aim{}, aim{}
			}
			one, other := compareFigures(where, w.name, measured[0], measured[2+i], ofAsIs), compareFigures(where, w.name, measured[1], measured[2+i], ofBest)
			progress("services, %s: ratelimit %.0f/s, at its best %.0f/s, weir by %s %.0f/s", where, one[0].Bare, other[0].Bare, w.name, one[0].Weir)
			asIs.Rows, best.Rows = append(asIs.Rows, one...), append(best.Rows, other...)
		}
	}
	r.Tables = append(r.Tables, asIs, best)
	return nil
}

// compareFigures compares rates and latencies.
func compareFigures(where, way string, bare, weir []figures, rate aim) []row {
	var p50 aim
	if rate != (aim{}) {
		p50.below = 1
	}
	return []row{
		compare(where, way+" rate", perSecond, pairsOf(bare, weir, func(f figures) float64 { return f.rate }), rate),
		compare(where, way+" p50", seconds, pairsOf(bare, weir, func(f figures) float64 { return f.p50 }), p50),
		compare(where, way+" p99", seconds, pairsOf(bare, weir, func(f figures) float64 { return f.p99 }), aim{}),
	}
}

// pairsOf puts one of the figures that both sides measured together, by rounds.
func pairsOf(bare, weir []figures, figure func(figures) float64) []pair {
	all := make([]pair, len(bare))
	for i := range bare {
		all[i] = pair{figure(bare[i]), figure(weir[i])}
	}
	return all
}

// denied measures checks of clients that are denied and go on. Both remember
// that: ratelimit's service, at its best, and Weir's SDK, in the gateway.
func (c *contest) denied(ctx context.Context, o options, r *report, progress func(string, ...any)) error {
	for _, by := range []connection{c.best.grpc, c.weir.sdk} {
		for _, user := range userNames(deniedUsers) {
			for range 2 { // the first passes
				if _, err := by.may(ctx, deniedTenant, user); err != nil {
					return err
				}
			}
		}
	}
	var n atomic.Int64
	run := func(by connection, inFlight int) func() (figures, error) {
		return func() (figures, error) { return drive(ctx, &n, inFlight, o.duration/2, refused(by)) }
	}
	cores := runtime.GOMAXPROCS(0)
	measured, err := inRounds(o.rounds, run(c.best.grpc, 64), run(c.weir.sdk, cores))
	if err != nil {
		return err
	}
	bare, weir := measured[0], measured[1]
	where := fmt.Sprint(deniedUsers, " users")
	t := table{Title: fmt.Sprintf("Denied clients that go on: checks by the SDK, %d at a time, against ratelimit with its local cache, 64 in flight", cores), Bare: "its best", Rows: []row{
		compare(where, "rate", perSecond, pairsOf(bare, weir, func(f figures) float64 { return f.rate }), aim{least: 1e6}),
		compare(where, "processor time of the gateway", seconds, pairsOf(bare, weir, func(f figures) float64 { return f.processor }), aim{}),
		compare(where, "allocations by it", each, pairsOf(bare, weir, func(f figures) float64 { return f.allocations }), aim{}),
	}}
	progress("denied clients: ratelimit %.0f/s, weir %.0f/s", t.Rows[0].Bare, t.Rows[0].Weir)
	r.Tables = append(r.Tables, t)
	return nil
}

// bursts measures how many requests are admitted within a second, if a client
// sends the whole limit at the end of one second of the clock, and once more at
// the beginning of the next.
func (c *contest) bursts(ctx context.Context, o options, r *report, progress func(string, ...any)) error {
	var rounds []pair
	for round := range o.rounds {
		edge := time.Now().Add(2 * burstWithin).Truncate(time.Second).Add(time.Second)
		var admitted [2]int
		var both errgroup.Group
		for i, by := range []connection{c.asIs.grpc, c.weir.grpc} {
			both.Go(func() (err error) {
				admitted[i], err = acrossEdge(ctx, by, fmt.Sprint("u", round), edge)
				return err
			})
		}
		if err := both.Wait(); err != nil {
			return err
		}
		progress("burst across the edge of a second, round %d: ratelimit admits %d, weir %d", round+1, admitted[0], admitted[1])
		rounds = append(rounds, pair{float64(admitted[0]), float64(admitted[1])})
	}
	r.Tables = append(r.Tables, table{
		Title: fmt.Sprintf("A burst across the edge of a second: limit %d a second, %[1]d requests in its last %v and %[1]d in the next one's first", burstLimit, burstWithin), Bare: "ratelimit",
		Rows: []row{compare("gRPC", "admitted in one second", requested, rounds, aim{most: burstLimit})},
	})
	return nil
}

// span is from when a request was sent to when it was answered.
type span struct{ sent, answered time.Time }

// acrossEdge returns the most requests that were surely admitted within a second:
// the first was sent, and the last answered in it.
func acrossEdge(ctx context.Context, by connection, user string, edge time.Time) (most int, err error) {
	var mu sync.Mutex // guards admitted
	var admitted []span
	for _, begin := range []time.Time{edge.Add(-burstWithin), edge} {
		time.Sleep(time.Until(begin))
		var burst errgroup.Group
		for range burstLimit {
			burst.Go(func() error {
				sent := time.Now()
				may, err := by.may(ctx, burstTenant, user)
				if err == nil && may {
					mu.Lock()
					defer mu.Unlock()
					admitted = append(admitted, span{sent, time.Now()})
				}
				return err
			})
		}
		if err := burst.Wait(); err != nil {
			return 0, err
		}
	}
	for _, first := range admitted {
		within := 0
		for _, a := range admitted {
			if !a.sent.Before(first.sent) && !a.answered.After(first.sent.Add(time.Second)) {
				within++
			}
		}
		most = max(most, within)
	}
	return most, nil
}
