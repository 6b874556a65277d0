package gateway_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/limiter/limitertest"
	"github.com/weirhq/weir/internal/testenv"
)

// A check or its answer that is lost is asked for again, in time: one charge,
// one record.
func TestLostOnTheWay(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		lost func(m testenv.Passing, earlier int64) bool
	}{
		{"the check", func(m testenv.Passing, earlier int64) bool { return m.ToServer && earlier < 2 }},
		{"the answer", func(m testenv.Passing, earlier int64) bool { return !m.ToServer && earlier < 2 }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			url := testenv.NATS(t)
			nc := testenv.Connect(t, url)
			limitertest.Start(t, nc)
			var checks, answers atomic.Int64
			c := connect(t, testenv.Connect(t, testenv.Proxy(t, url, func(m testenv.Passing) testenv.Fate {
				count := &answers
				switch {
				case strings.HasPrefix(m.Subject, "weir.check."):
					count = &checks
				case !strings.HasPrefix(m.Subject, "weir.decision."):
					return testenv.Arrives
				}
				if tt.lost(m, count.Add(1)-1) {
					return testenv.Fate{}
				}
				return testenv.Arrives
			})), gateway.Config{Timeout: 20 * time.Second})
			d, err := c.Check(t.Context(), gateway.Request{ID: "one", Tenant: "acme", User: "42"})
			if err != nil || d.Reason != events.ReasonRule || d.Remaining != 255 {
				t.Errorf("decision %+v, %v", d, err)
			}
			if n := checks.Load(); n < 3 {
				t.Errorf("asked %d times, of which two are lost", n)
			}
			if all := limitertest.Records(t, nc); len(all) != 1 || all[0].Request.ID != "one" {
				t.Errorf("%d records, want one", len(all))
			}
		})
	}
}

// When the connection comes back, what may have got lost with it is asked for at
// once: eight breaks take less time than the pauses between eight questions.
func TestAsksAgainOnReconnect(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	limitertest.Start(t, testenv.Connect(t, url))
	var breaks atomic.Int64
	proxy := testenv.Proxy(t, url, func(m testenv.Passing) testenv.Fate {
		if strings.HasPrefix(m.Subject, "weir.check.") && breaks.Add(1) <= 8 {
			return testenv.Fate{Cut: true}
		}
		return testenv.Arrives
	})
	nc, err := nats.Connect(proxy, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond), nats.ReconnectJitter(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	c := connect(t, nc, gateway.Config{Timeout: 4 * time.Second})
	d, err := c.Check(t.Context(), gateway.Request{Tenant: "acme", User: "42"})
	if err != nil || d.Reason != events.ReasonRule || d.Remaining != 255 {
		t.Errorf("decision %+v, %v, after %d breaks", d, err, breaks.Load())
	}
}

// Whoever does not answer is not asked much: once in the time that most wait,
// and then after pauses that grow.
func TestAsksSeldomAgain(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	store(t, nc, names.ReportsStream(), names.Reports(0))
	asked, err := nc.SubscribeSync("weir.check.>")
	if err != nil {
		t.Fatal(err)
	}
	for timeout, most := range map[time.Duration]int{50 * time.Millisecond: 1, time.Second: 4} {
		c := connect(t, nc, gateway.Config{Name: "waits-" + timeout.String(), Shards: 1, Timeout: timeout})
		if d, err := c.Check(t.Context(), gateway.Request{Tenant: "acme"}); err != nil || d.Reason != gateway.ReasonTimeout {
			t.Errorf("decision %+v, %v", d, err)
		}
		if err := nc.Flush(); err != nil { // what was asked has come
			t.Fatal(err)
		}
		n, _, err := asked.Pending()
		for range n {
			if m, next := asked.NextMsg(time.Second); next != nil || !strings.HasSuffix(m.Subject, timeout.String()) {
				t.Errorf("%v, %v", m, next)
			}
		}
		if err != nil || n < 1 || n > most || timeout == time.Second && n < 2 {
			t.Errorf("asked %d times in %s, %v; want at most %d", n, timeout, err, most)
		}
	}
}

// A check that nobody was there for is decided by the limiter that takes over.
func TestLimiterTakesOver(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	nc := testenv.Connect(t, url)
	asked, err := nc.SubscribeSync("weir.check.>")
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, testenv.Connect(t, url), gateway.Config{Shards: 1, Timeout: 20 * time.Second})
	decided := make(chan gateway.Decision, 1)
	go func() {
		d, err := c.Check(context.WithoutCancel(t.Context()), gateway.Request{Tenant: "acme", User: "42"})
		if err != nil {
			t.Error(err)
		}
		decided <- d
	}()
	if _, err := asked.NextMsg(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	limitertest.Start(t, nc)
	if d := <-decided; d.Reason != events.ReasonRule || d.Remaining != 255 {
		t.Errorf("decision %+v", d)
	}
}
