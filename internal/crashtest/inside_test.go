package crashtest

import (
	"bytes"
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap/zaptest"

	"github.com/weirhq/weir/internal/bus"
	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/limiter"
	"github.com/weirhq/weir/internal/testenv"
)

// inside runs a limiter in this process, on a connection to a URL, until stop is
// called or the test ends.
func (s *system) inside(url string, change func(*limiter.Config)) (stop func()) {
	s.Helper()
	log := zaptest.NewLogger(s)
	nc, err := bus.Connect(s.Context(), url, bus.Credentials{}, "limiter", log)
	if err != nil {
		s.Fatal(err)
	}
	config := limiter.DefaultConfig()
	config.Name = "inside"
	config.DegradeAfter = time.Minute
	change(&config)
	l, err := limiter.New(nc, config, log, prometheus.NewRegistry())
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.Context()))
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.Error(err)
		}
		nc.Close()
	})
	s.Cleanup(stop)
	return stop
}

// The journal runs full under load, and is given room again: what went out as
// degraded meanwhile is in it then.
func TestJournalRunsFull(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.inside(s.nats, func(c *limiter.Config) { c.JournalMax, c.DegradeAfter = 1<<20, 50*time.Millisecond })
	l := s.load()
	l.awaitDegraded(answersBetween)
	js, err := jetstream.New(testenv.Connect(t, s.nats))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := journal.Create(t.Context(), js, journal.Config{Names: names, MaxAge: limiter.DefaultConfig().JournalAge}); err != nil {
		t.Fatal(err)
	}
	l.awaitPlain(answersBetween)
	l.stop()
	s.check(l)
}

// The journal's disk is slow: acknowledgements take a while, or seconds; some
// come twice, some never, and at times the connection is gone with all of them.
func TestDiskIsSlow(t *testing.T) {
	t.Parallel()
	for name, degradeAfter := range map[string]time.Duration{"degraded": 50 * time.Millisecond, "waiting": time.Minute} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSystem(t)
			var healthy atomic.Bool
			s.inside(testenv.Proxy(t, s.nats, slow(&healthy)), func(c *limiter.Config) { c.DegradeAfter = degradeAfter })
			l := s.load()
			l.awaitAnswers(answersBetween / 2)
			healthy.Store(true)
			l.awaitPlain(answersBetween / 3)
			l.stop()
			s.check(l)
		})
	}
}

// slow makes acknowledgements of the journal slow until healthy is set.
func slow(healthy *atomic.Bool) func(testenv.Passing) testenv.Fate {
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(1, 2)) // guarded by mu
	return func(m testenv.Passing) testenv.Fate {
		if healthy.Load() || m.ToServer || !bytes.HasPrefix(m.Payload, []byte(`{"stream":"WEIR_JOURNAL_0"`)) {
			return testenv.Arrives
		}
		mu.Lock()
		defer mu.Unlock()
		after := 100*time.Millisecond + time.Duration(r.IntN(100))*time.Millisecond
		switch n := r.IntN(100); {
		case n < 5:
			return testenv.Fate{} // lost
		case n < 15:
			return testenv.Fate{After: []time.Duration{after, 2 * after}} // twice
		case n < 20:
			return testenv.Fate{After: []time.Duration{3 * time.Second}}
		case n < 22:
			return testenv.Fate{Cut: true}
		}
		return testenv.Fate{After: []time.Duration{after}}
	}
}

// The owner's clock steps back by an hour and returns, steps forth by an hour
// and returns, and the limiter is stopped and started in between.
func TestClockSteps(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	var ahead atomic.Int64
	clock := func(c *limiter.Config) {
		c.Clock = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	}
	stop := s.inside(s.nats, clock)
	l := s.load()
	for _, step := range []time.Duration{-time.Hour, 0, time.Hour, 0} {
		l.awaitAnswers(answersBetween / 3)
		ahead.Store(int64(step))
		l.forget() // an hour is beyond the horizon
		l.awaitAnswers(answersBetween / 3)
		stop()
		stop = s.inside(s.nats, clock)
	}
	l.awaitAnswers(answersBetween / 3)
	l.stop()
	s.check(l)
}
