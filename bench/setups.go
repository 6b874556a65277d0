package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync/atomic"
)

const (
	// tenants spread the load over shards.
	tenants = 64
	// setupRounds bounds the rounds, as there are many setups.
	setupRounds = 3
)

// setups measures checks as checks does, with more rules, with the windows on
// Redis, and with several shards.
func setups(ctx context.Context, dir string, o options, r *report, progress func(string, ...any)) (err error) {
	server, stop, err := startRedis(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	t := table{Title: "Checks by rules that all charge them, store and shards, against an echo of one rule's messages", Bare: "echo"}
	for _, redis := range []string{"", "redis://" + server.Options().Addr} {
		for _, shards := range []int{1, 4} {
			for _, rules := range []int{1, 5, 20} {
				with := setup{rules: rules, redis: redis, shards: shards}
				rows, err := with.measure(ctx, filepath.Join(dir, "setup", strconv.Itoa(len(t.Rows))), o, progress)
				if err != nil {
					return fmt.Errorf("%s: %w", with.name(), err)
				}
				t.Rows = append(t.Rows, rows...)
				if err := server.FlushAll(ctx).Err(); err != nil {
					return err
				}
			}
		}
	}
	r.Tables = append(r.Tables, t)
	return nil
}

func (s setup) name() string {
	store := "memory"
	if s.redis != "" {
		store = "Redis"
	}
	return fmt.Sprintf("%s, shards %d, rules %d", store, s.shards, s.rules)
}

func (s setup) measure(ctx context.Context, dir string, o options, progress func(string, ...any)) (rows []row, err error) {
	system, err := startSystem(ctx, dir, s)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, system.close()) }()
	weir := func(ctx context.Context, n int64) error {
		return ask(ctx, system.client, "t"+strconv.FormatInt(n%tenants, 10), n)
	}
	var n atomic.Int64
	duration := o.duration / 4
	for _, inFlight := range []int{1, 64, 256} {
		run := func(ask asker) func() (figures, error) {
			return func() (figures, error) { return drive(ctx, &n, inFlight, duration, ask) }
		}
		if _, err := run(weir)(); err != nil { // to warm up
			return nil, err
		}
		measured, err := inRounds(min(o.rounds, setupRounds), run(system.echo.ask), run(weir))
		if err != nil {
			return nil, err
		}
		var rates, p50s, allocations []pair
		for i, bare := range measured[0] {
			w := measured[1][i]
			rates, p50s = append(rates, pair{bare.rate, w.rate}), append(p50s, pair{bare.p50, w.p50})
			allocations = append(allocations, pair{bare.allocations, w.allocations})
		}
		what := fmt.Sprintf("%d in flight: ", inFlight)
		rows = append(rows, compare(s.name(), what+"rate", perSecond, rates, aim{}), compare(s.name(), what+"p50", seconds, p50s, aim{}))
		if inFlight == 64 {
			rows = append(rows, compare(s.name(), what+"allocations", each, allocations, aim{}))
			progress("checks, %s, 64 in flight: echo %.0f/s, weir %.0f/s", s.name(), rows[2].Bare, rows[2].Weir)
		}
	}
	return rows, nil
}
