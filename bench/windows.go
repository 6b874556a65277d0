package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/sethvargo/go-limiter/memorystore"
	"github.com/throttled/throttled/v2"
	"github.com/throttled/throttled/v2/store/memstore"
	"golang.org/x/time/rate"

	"github.com/weirhq/weir/internal/window"
)

// The rule of every measurement of windows, and the traffic: a few keys are busy
// and most are not, as with users or addresses.
const (
	windowLimit  = 1000
	windowLength = time.Minute
	keySkew      = 1.1     // of Zipf's law
	sequence     = 1 << 20 // keys of one run, one after the other
	batchSize    = 64      // requests that Weir decides in one call
	// pace is what the clock makes of the decisions, so that as many leave a
	// window as come into it, however fast they are made.
	pace = 50_000 // a second
)

// clock is the system's, and ahead of it by what the decisions would have taken
// at their pace. It is read for each decision, as it is in life.
type clock struct{ ahead time.Duration }

func (c *clock) now() time.Time { return time.Now().Add(c.ahead) }
func (c *clock) pass(n int)     { c.ahead += time.Duration(n) * time.Second / pace }

// contender is one limiter in the process.
type contender struct {
	name   string
	decide func(keys []string) error // about one request of each key, in order
	close  func() error
}

// windowsInMemory measures decisions at many keys beside other limiters in the
// process. Each decides about the same keys in the same order. The others lock
// for each decision; Weir's store has an owner, who has a batch of them decided.
func windowsInMemory(_ context.Context, _ string, o options, r *report, progress func(string, ...any)) (err error) {
	opens := []func() (contender, error){openWeir(batchSize), openWeir(1), openThrottled, openGoLimiter, openRate}
	keys := zipf(o.keys)
	names, sizes := make([]string, len(opens)), make([]float64, len(opens))
	runs := make([]func() (float64, error), len(opens))
	for i, open := range opens {
		c, size, fault := fill(o.keys, keys, open)
		if fault != nil {
			return fault
		}
		defer func() { err = errors.Join(err, c.close()) }()
		names[i], sizes[i], runs[i] = c.name, size, func() (float64, error) { return timed(c, keys) }
	}
	times, err := inRounds(o.rounds, runs...)
	if err != nil {
		return err
	}
	t := table{Title: fmt.Sprintf("Windows in memory: processor time of a decision at %d keys (zipf %.1f), limit %d a minute, against limiters that are not exact",
		o.keys, keySkew, windowLimit), Bare: "other"}
	for i, name := range names {
		progress("windows in memory, %s: %.0f ns a decision, %.0f bytes a key", name, median(times[i])*1e9, sizes[i])
		if i >= 2 {
			t.Rows = append(t.Rows,
				compare(name, fmt.Sprint("one of ", batchSize), seconds, pairs(times[i], times[0]), aim{below: 1}),
				compare(name, "one alone", seconds, pairs(times[i], times[1]), aim{}),
				compare(name, "a key", ofMemory, []pair{{sizes[i], sizes[0]}}, aim{}))
		}
	}
	r.Tables = append(r.Tables, t)
	return nil
}

// keys measures how a decision's cost grows with the keys. The traffic is the
// same otherwise.
func keys(_ context.Context, _ string, o options, r *report, progress func(string, ...any)) error {
	var counts []int
	var sizes []float64
	var runs []func() (float64, error)
	for _, part := range []int{1000, 100, 10, 1} {
		n := o.keys / part
		traffic := zipf(n)
		c, size, err := fill(n, traffic, openWeir(batchSize))
		if err != nil {
			return err
		}
		counts, sizes, runs = append(counts, n), append(sizes, size), append(runs, func() (float64, error) { return timed(c, traffic) })
	}
	times, err := inRounds(o.rounds, runs...)
	if err != nil {
		return err
	}
	t := table{Title: fmt.Sprintf("Keys: processor time of a decision in memory, one of %d, and what a key takes, its name included, against fewer keys", batchSize),
		Bare: fmt.Sprint(counts[0], " keys")}
	for i, n := range counts {
		progress("%d keys: %.0f ns a decision, %.0f bytes a key", n, median(times[i])*1e9, sizes[i])
		if i > 0 {
			where := fmt.Sprint(n, " keys")
			t.Rows = append(t.Rows, compare(where, "a decision", seconds, pairs(times[0], times[i]), aim{}),
				compare(where, "a key", ofMemory, []pair{{sizes[0], sizes[i]}}, aim{}))
		}
	}
	r.Tables = append(r.Tables, t)
	return nil
}

// fill opens a contender that then has seen every key, and the traffic, and
// tells how many bytes it takes a key.
func fill(n int, traffic []string, open func() (contender, error)) (c contender, size float64, err error) {
	before := heap()
	if c, err = open(); err != nil {
		return c, 0, err
	}
	for from := 0; from < n && err == nil; from += batchSize {
		err = c.decide(names(from, min(n, from+batchSize))) // which it may keep
	}
	if err == nil {
		err = c.decide(traffic)
	}
	if err != nil {
		return c, 0, errors.Join(err, c.close())
	}
	return c, float64(heap()-before) / float64(n), nil
}

// heap returns the bytes in use. What is pooled goes with the second collection.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

// timed returns the seconds of processor time that a decision takes. What else
// the machine does takes none of it, unlike time on the wall.
func timed(c contender, keys []string) (float64, error) {
	before, err := processor()
	if err != nil {
		return 0, err
	}
	if err := c.decide(keys); err != nil {
		return 0, err
	}
	after, err := processor()
	return (after - before).Seconds() / float64(len(keys)), err
}

// processor returns the processor time that this process has taken.
func processor() (time.Duration, error) {
	var u syscall.Rusage
	err := syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), err
}

func name(n uint64) string { return fmt.Sprintf("%s\x00per-minute\x00%d", tenant, n) }

func names(from, to int) []string {
	all := make([]string, to-from)
	for i := range all {
		all[i] = name(uint64(from + i))
	}
	return all
}

// zipf returns the traffic of so many keys.
func zipf(n int) []string {
	z := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), keySkew, 1, uint64(n-1))
	all := make([]string, sequence)
	for i := range all {
		all[i] = name(z.Uint64())
	}
	return all
}

func nothing() error { return nil }

// openWeir returns a way to open Weir's store in memory, which then decides so
// many requests a call.
func openWeir(size int) func() (contender, error) {
	return func() (contender, error) {
		m := window.NewMemory()
		batch := requests(size)
		var c clock
		return contender{fmt.Sprint("weir, ", size, " a call"), func(keys []string) error {
			for some := range slices.Chunk(keys, size) {
				for i, key := range some {
					batch[i].Charges[0].Key = append(batch[i].Charges[0].Key[:0], key...)
				}
				c.pass(len(some))
				if err := m.Decide(context.Background(), c.now(), batch[:len(some)]); err != nil {
					return err
				}
			}
			return nil
		}, nothing}, nil
	}
}

// requests returns some that each charge a key that is not named yet.
func requests(n int) []window.Request {
	batch := make([]window.Request, n)
	for i := range batch {
		batch[i].Charges = []window.Charge{{Cost: 1, Limit: windowLimit, Window: windowLength}}
	}
	return batch
}

// openThrottled opens throttled's GCRA: a time for each key.
func openThrottled() (contender, error) {
	store, err := memstore.New(0)
	if err != nil {
		return contender{}, err
	}
	var c clock
	store.SetTimeNow(c.now)
	limiter, err := throttled.NewGCRARateLimiterCtx(throttled.WrapStoreWithContext(store),
		throttled.RateQuota{MaxRate: throttled.PerMin(windowLimit), MaxBurst: windowLimit - 1})
	return contender{"throttled memstore", func(keys []string) error {
		for _, key := range keys {
			c.pass(1)
			if _, _, err := limiter.RateLimitCtx(context.Background(), key, 1); err != nil {
				return err
			}
		}
		return nil
	}, nothing}, err
}

// openGoLimiter opens go-limiter's windows, which begin at fixed times. It has a
// clock of its own.
func openGoLimiter() (contender, error) {
	store, err := memorystore.New(&memorystore.Config{Tokens: windowLimit, Interval: windowLength})
	return contender{"go-limiter memorystore", func(keys []string) error {
		for _, key := range keys {
			if _, _, _, _, err := store.Take(context.Background(), key); err != nil {
				return err
			}
		}
		return nil
	}, func() error { return store.Close(context.Background()) }}, err
}

// openRate makes x/time/rate's token buckets in a map, as everybody does.
func openRate() (contender, error) {
	var mu sync.Mutex // guards limiters
	limiters := map[string]*rate.Limiter{}
	var c clock
	return contender{"x/time/rate in a map", func(keys []string) error {
		for _, key := range keys {
			c.pass(1)
			mu.Lock()
			l := limiters[key]
			if l == nil {
				l = rate.NewLimiter(rate.Every(windowLength/windowLimit), windowLimit)
				limiters[key] = l
			}
			mu.Unlock()
			l.AllowN(c.now(), 1)
		}
		return nil
	}, nothing}, nil
}
