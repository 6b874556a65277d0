package load_test

import (
	"bytes"
	"context"
	"errors"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/load"
)

// standIn decides in place of a gateway's client.
type standIn func(context.Context, events.Request) (events.Decision, error)

func (s standIn) Check(ctx context.Context, r events.Request) (events.Decision, error) {
	return s(ctx, r)
}

// after answers d after a while.
func after(wait time.Duration, d events.Decision) standIn {
	return func(context.Context, events.Request) (events.Decision, error) {
		time.Sleep(wait)
		return d, nil
	}
}

var allow = events.Decision{Verdict: events.Allow, Reason: events.ReasonRule}

func config(change func(*load.Config)) load.Config {
	c := load.DefaultConfig()
	change(&c)
	return c
}

func TestBounds(t *testing.T) {
	for _, tt := range []struct {
		name     string
		config   load.Config
		requests int64
		took     time.Duration
		p50      float64 // milliseconds
	}{
		{"by count", config(func(c *load.Config) { c.Requests, c.Duration, c.InFlight = 1000, 0, 10 }), 1000, 400 * time.Millisecond, 4},
		{"by count, fewer than askers", config(func(c *load.Config) { c.Requests = 3 }), 3, 4 * time.Millisecond, 4},
		{"by time", config(func(c *load.Config) { c.Duration, c.InFlight = 101*time.Millisecond, 10 }), 260, 104 * time.Millisecond, 4},
		{"by both", config(func(c *load.Config) { c.Requests, c.Duration, c.InFlight = 1000, 41*time.Millisecond, 1 }), 11, 44 * time.Millisecond, 4},
		{"at a rate", config(func(c *load.Config) { c.Requests, c.Rate, c.InFlight = 101, 100, 1 }), 101, 1004 * time.Millisecond, 4},
		{"at a rate, until time is up", config(func(c *load.Config) { c.Duration, c.Rate = 995*time.Millisecond, 100 }), 100, 995 * time.Millisecond, 4},
		// Asked 1,000 times a second, it answers 250: the half of them is 1.5 s late or more.
		{"above what it can do", config(func(c *load.Config) { c.Requests, c.Rate, c.InFlight = 1000, 1000, 1 }), 1000, 4 * time.Second, 1504},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r, err := load.Run(t.Context(), after(4*time.Millisecond, allow), tt.config)
				if err != nil {
					t.Fatal(err)
				}
				if r.Requests != tt.requests || r.Allowed != tt.requests || r.Took != tt.took {
					t.Errorf("%d requests, %d allowed, in %v; want %d in %v", r.Requests, r.Allowed, r.Took, tt.requests, tt.took)
				}
				if math.Abs(r.Latency.P50/tt.p50-1) > 0.01 {
					t.Errorf("p50 %v ms, want %v", r.Latency.P50, tt.p50)
				}
				if want := float64(r.Requests) / r.Took.Seconds(); r.Rate != want {
					t.Errorf("rate %v, want %v", r.Rate, want)
				}
			})
		})
	}
}

func TestCountsAndPercentiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var n int
		slower := standIn(func(context.Context, events.Request) (events.Decision, error) {
			n++
			time.Sleep(time.Duration(n) * time.Millisecond)
			switch {
			case n%10 == 0:
				return events.Decision{Verdict: events.Allow, Reason: events.ReasonTimeout}, nil
			case n%2 == 0:
				return events.Decision{Verdict: events.Deny, Reason: events.ReasonRule, Degraded: true}, nil
			}
			return allow, nil
		})
		var told atomic.Int64
		r, err := load.Run(t.Context(), slower, config(func(c *load.Config) {
			c.Requests, c.Duration, c.InFlight = 1000, 0, 1
			c.Decided = func(events.Decision) { told.Add(1) }
		}))
		if err != nil || told.Load() != 1000 {
			t.Errorf("told of %d decisions, %v", told.Load(), err)
		}
		if r.Allowed != 500 || r.Denied != 400 || r.Timeouts != 100 || r.Degraded != 400 {
			t.Errorf("counts %+v", r)
		}
		l := r.Latency
		for name, pair := range map[string][2]float64{
			"mean": {l.Mean, 500}, "p50": {l.P50, 500}, "p90": {l.P90, 900}, "p99": {l.P99, 990}, "p99.9": {l.P999, 999}, "max": {l.Max, 999},
		} {
			if math.Abs(pair[0]/pair[1]-1) > 0.005 {
				t.Errorf("%s %v ms, want %v", name, pair[0], pair[1])
			}
		}
	})
}

func TestEndOfContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		r, err := load.Run(ctx, standIn(func(ctx context.Context, _ events.Request) (events.Decision, error) {
			select {
			case <-ctx.Done():
				return events.Decision{}, ctx.Err()
			case <-time.After(4 * time.Millisecond):
				return allow, nil
			}
		}), config(func(c *load.Config) { c.InFlight = 2 }))
		if err != nil || r.Requests != 4 || r.Took != 10*time.Millisecond {
			t.Errorf("%+v, %v; want 4 requests in 10ms", r, err)
		}
	})
}

func TestClientThatCannotAsk(t *testing.T) {
	closed := errors.New("closed")
	var n atomic.Int64
	r, err := load.Run(t.Context(), standIn(func(context.Context, events.Request) (events.Decision, error) {
		if n.Add(1) > 100 {
			return events.Decision{}, closed
		}
		return allow, nil
	}), load.DefaultConfig())
	if !errors.Is(err, closed) || r.Requests != 100 || r.Took > 5*time.Second {
		t.Errorf("%+v, %v; want 100 requests, at once, and %v", r, err, closed)
	}
}

func TestKeys(t *testing.T) {
	for _, zipf := range []float64{0, 1.5} {
		var mu sync.Mutex
		seen := map[string]int{}
		_, err := load.Run(t.Context(), standIn(func(_ context.Context, r events.Request) (events.Decision, error) {
			mu.Lock()
			defer mu.Unlock()
			seen[r.User]++
			r.Gateway = "test"
			return allow, r.Validate()
		}), config(func(c *load.Config) { c.Requests, c.Duration, c.Keys, c.Zipf, c.InFlight = 100_000, 0, 100, zipf, 4 }))
		if err != nil {
			t.Fatal(err)
		}
		most := 0
		for _, n := range seen {
			most = max(most, n)
		}
		if len(seen) > 100 || zipf == 0 && (len(seen) < 100 || most > 1300) || zipf > 0 && most < 30_000 {
			t.Errorf("zipf %v: %d users, one of them %d times", zipf, len(seen), most)
		}
	}
}

func TestConfigNamesEveryFault(t *testing.T) {
	_, err := load.Run(t.Context(), after(0, allow), load.Config{Rate: math.NaN(), Zipf: 1})
	for _, want := range []string{"tenant: ", "in flight: want 1 to 10000, found 0", "requests and duration: ", "rate: ", "keys: ", "zipf: want 0, or above 1"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
}

func TestPrint(t *testing.T) {
	var out bytes.Buffer
	err := load.Print(&out,
		load.Result{InFlight: 1, Requests: 3500, Rate: 3500.4, Allowed: 3500, Latency: load.Latency{P50: 0.22, P90: 0.3, P99: 0.41, P999: 1, Max: 12.5}},
		load.Result{InFlight: 64, Requests: 400_000, Rate: 40_000, Allowed: 399_000, Denied: 999, Timeouts: 1})
	const want = `
  in flight  requests  rate/s  p50 ms    p90    p99  p99.9     max  allowed  denied  timeouts  degraded
          1      3500    3500   0.220  0.300  0.410  1.000  12.500     3500       0         0         0
         64    400000   40000   0.000  0.000  0.000  0.000   0.000   399000     999         1         0
`
	if got := "\n" + out.String(); err != nil || got != want {
		t.Errorf("%v, got:%s\nwant:%s", err, got, want)
	}
}

// BenchmarkRun measures what the measuring costs.
func BenchmarkRun(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := load.Run(b.Context(), after(0, allow), config(func(c *load.Config) { c.Requests, c.Duration, c.InFlight = 1000, 0, 64 })); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*1000/b.Elapsed().Seconds(), "requests/s")
}
