package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/internal/window"
)

const (
	redisKeys = 10_000
	// fullKeys are those whose windows are filled to see what a unit takes.
	fullKeys = 100
)

// onRedis are the limiters on one server.
type onRedis struct {
	server *redis.Client
	weir   *window.Redis
	keys   []string
	n      atomic.Int64 // of the next request
}

// windowsOnRedis measures decisions on Redis beside redis_rate's on the same
// server, each as it is used: redis_rate makes a call for each request, over a
// connection for each that is in flight; Weir's limiters have the requests that
// are in flight decided in two calls, as those of two shards. The keys take turns,
// so that no batch has one twice, and all requests are admitted, the more costly
// answer to both.
func windowsOnRedis(ctx context.Context, dir string, o options, r *report, progress func(string, ...any)) (err error) {
	server, stop, err := startRedis(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if r.Machine.Redis, err = redisVersion(ctx, server); err != nil {
		return err
	}
	config := window.DefaultRedisConfig()
	config.URL, config.Timeout = "redis://"+server.Options().Addr, answerWithin
	weir, err := window.OpenRedis(config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, weir.Close()) }()
	s := &onRedis{server: server, weir: weir, keys: names(0, redisKeys)}
	t := table{Title: fmt.Sprintf("Windows on Redis: decisions at %d keys, limit %d a minute, those in flight in two calls, against redis_rate", redisKeys, windowLimit), Bare: "redis_rate"}
	for _, inFlight := range []int{1, 64, 256} {
		rows, err := s.rates(ctx, inFlight, o)
		if err != nil {
			return err
		}
		for _, row := range rows {
			progress("windows on Redis, %s: redis_rate %.0f/s, weir %.0f/s", row.Case, row.Bare, row.Weir)
		}
		t.Rows = append(t.Rows, rows...)
	}
	size, err := s.sizes(ctx)
	if err != nil {
		return err
	}
	t.Rows = append(t.Rows, compare("full windows", "a unit", ofMemory, []pair{size}, aim{most: 16}))
	r.Tables = append(r.Tables, t)
	return nil
}

// rates measures with a number of requests in flight. Besides as it is used,
// redis_rate gets a client that sends what waits together; go-redis calls that
// experimental.
func (s *onRedis) rates(ctx context.Context, inFlight int, o options) (rows []row, err error) {
	client := redis.NewClient(&redis.Options{Addr: s.server.Options().Addr, PoolSize: inFlight, MaxRetries: -1})
	defer func() { err = errors.Join(err, client.Close()) }()
	pipelined, err := client.AutoPipeline()
	if err != nil {
		return nil, err
	}
	duration := o.duration / 2 // there are three of them
	allow := func(l *redis_rate.Limiter) func() (float64, error) {
		return func() (float64, error) {
			f, err := drive(ctx, &s.n, inFlight, duration, func(ctx context.Context, n int64) error {
				_, err := l.Allow(ctx, s.key(n), redis_rate.PerMinute(windowLimit))
				return err
			})
			return f.rate, err
		}
	}
	runs := []func() (float64, error){
		allow(redis_rate.NewLimiter(client)), allow(redis_rate.NewLimiter(pipelined)),
		func() (float64, error) { return s.decide(ctx, inFlight, duration) },
	}
	if _, err := inTurn(0, runs...); err != nil { // to warm up
		return nil, err
	}
	rates, err := inRounds(o.rounds, runs...)
	if err != nil {
		return nil, err
	}
	var a aim
	if inFlight > 1 {
		a.atLeast = 2.5
	}
	where := fmt.Sprint(inFlight, " in flight")
	return []row{
		compare(where, "rate", perSecond, pairs(rates[0], rates[2]), a),
		compare(where, "to pipelined", perSecond, pairs(rates[1], rates[2]), aim{}),
	}, nil
}

func (s *onRedis) key(n int64) string { return s.keys[n%int64(len(s.keys))] }

// callers is how many limiters decide at a time.
const callers = 2

// decide has Weir decide for a while and returns how many a second.
func (s *onRedis) decide(ctx context.Context, inFlight int, duration time.Duration) (float64, error) {
	group, ctx := errgroup.WithContext(ctx)
	var decided atomic.Int64
	began := time.Now()
	for range min(callers, inFlight) {
		group.Go(func() error {
			batch := requests(max(1, inFlight/callers))
			for time.Since(began) < duration {
				for i := range batch {
					batch[i].Charges[0].Key = append(batch[i].Charges[0].Key[:0], s.key(s.n.Add(1))...)
				}
				if err := s.weir.Decide(ctx, time.Time{}, batch); err != nil {
					return err
				}
				decided.Add(int64(len(batch)))
			}
			return nil
		})
	}
	err := group.Wait()
	return float64(decided.Load()) / time.Since(began).Seconds(), err
}

// sizes returns the bytes that an admitted unit takes when windows are full, the
// keys' names and all.
func (s *onRedis) sizes(ctx context.Context) (size pair, err error) {
	if err := s.server.FlushDB(ctx).Err(); err != nil {
		return size, err
	}
	limiter, batch := redis_rate.NewLimiter(s.server), requests(fullKeys)
	for i := range batch {
		batch[i].Charges[0].Key = []byte(s.keys[i])
		if _, err := limiter.AllowN(ctx, s.keys[i], redis_rate.PerMinute(windowLimit), windowLimit); err != nil {
			return size, err
		}
	}
	for range windowLimit {
		if err := s.weir.Decide(ctx, time.Time{}, batch); err != nil {
			return size, err
		}
	}
	stored, err := s.server.Keys(ctx, "*").Result()
	if err != nil {
		return size, err
	}
	for _, key := range stored {
		n, err := s.server.MemoryUsage(ctx, key, 0).Result() // all of it, no samples
		if err != nil {
			return size, err
		}
		perUnit := float64(n) / (fullKeys * windowLimit)
		if strings.HasPrefix(key, window.DefaultRedisConfig().Prefix) {
			size.weir += perUnit
		} else {
			size.bare += perUnit
		}
	}
	return size, nil
}
