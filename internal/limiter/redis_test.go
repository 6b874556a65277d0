package limiter_test

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/limiter"
	"github.com/weirhq/weir/internal/limiter/limitertest"
	"github.com/weirhq/weir/internal/testenv"
)

// onRedis keeps the windows of a limiter on a server.
func onRedis(t *testing.T, url string) func(*limiter.Config) {
	t.Helper()
	windows, err := limiter.OpenWindows(url, names)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = windows.Close() })
	return func(c *limiter.Config) { c.Windows = windows }
}

// With the windows on Redis a limiter decides as with its own: one that starts
// knows them, and the journal has every decision at the time it counts from.
func TestWindowsOnRedis(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	change := onRedis(t, testenv.Redis(t))
	run := start(t, nc, change)
	ask(t, nc, "acme", `{"user":"7"}`) // the connections are there
	check := func(n int) events.Decision {
		return ask(t, nc, "acme", fmt.Sprintf(`{"id":"%d","user":"42"}`, n))
	}
	for n := range 200 {
		if d := check(n); d.Verdict != events.Allow || d.Remaining != int64(255-n) || d.Reason != events.ReasonRule {
			t.Fatalf("check %d: %+v", n, d)
		}
	}
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	start(t, nc, change)
	if d := check(199); d.Remaining != 56 {
		t.Errorf("asked again after a restart: %+v", d)
	}
	for n := 200; n < 256; n++ {
		if d := check(n); d.Remaining != int64(255-n) {
			t.Fatalf("check %d, after a restart: %+v", n, d)
		}
	}
	if d := check(256); d.Verdict != events.Deny || d.RetryAfterMS == 0 {
		t.Errorf("the 257th: %+v", d)
	}
	var last time.Time
	records := limitertest.Records(t, nc)
	for _, r := range records {
		if r.Decision.DecidedAt.Before(last) {
			t.Errorf("decided at %v, after one at %v", r.Decision.DecidedAt, last)
		}
		last = r.Decision.DecidedAt
	}
	if len(records) != 258 {
		t.Errorf("%d records, want 258", len(records))
	}
}

// While Redis is away each rule's on_error speaks, soon, and decisions say so;
// once it is back they are exact again, and nothing is charged for the time
// between.
func TestRedisAway(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	addr := testenv.FreeAddr(t)
	server := testenv.StartRedis(t, addr)
	const text = `
version: 1
tenants:
  "*":
    rules:
      - {name: open, limit: 3/min, key: [user]}
      - {name: closed, limit: 3/min, key: [route], on_error: deny}
      - {name: shadow, limit: 3/min, key: [host], on_error: deny, mode: shadow}
`
	redis := onRedis(t, "redis://"+addr)
	run := start(t, nc, func(c *limiter.Config) { redis(c); c.Policy = mustParse(t, text) })
	checks := []struct {
		payload string
		verdict events.Verdict
		reason  events.Reason
	}{
		{`{"user":"42"}`, events.Allow, events.ReasonUnavailable},
		{`{"user":"42","route":"/r"}`, events.Deny, events.ReasonUnavailable},
		{`{"host":"h"}`, events.Allow, events.ReasonNoRule},
		{`{}`, events.Allow, events.ReasonNoRule},
	}
	away := func(within time.Duration) {
		t.Helper()
		for range 10 {
			for _, c := range checks {
				began := time.Now()
				d := ask(t, nc, "acme", c.payload)
				if d.Verdict != c.verdict || d.Reason != c.reason || d.Rule != "" || d.Degraded {
					t.Errorf("%s: %+v, want %s for %s", c.payload, d, c.verdict, c.reason)
				}
				if took := time.Since(began); took > within {
					t.Errorf("%s: answered after %v", c.payload, took)
				}
			}
		}
	}
	back := func(user string) {
		t.Helper()
		testenv.Eventually(t, 10*time.Second, func() error {
			if d := ask(t, nc, "acme", fmt.Sprintf(`{"user":%q,"cost":0}`, user)); d.Reason != events.ReasonRule || d.Remaining != 3 {
				return fmt.Errorf("%+v", d)
			}
			return nil
		})
		if d := ask(t, nc, "acme", fmt.Sprintf(`{"user":%q,"cost":3}`, user)); d.Verdict != events.Allow || d.Remaining != 0 {
			t.Errorf("%+v", d)
		}
		if run.metric(t, "weir_limiter_windows_available") != 1 {
			t.Error("the metric says that the windows are away")
		}
	}
	back("1")
	const soon = time.Second // what is bound to 50 ms, on a busy machine
	if err := syscall.Kill(server.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	away(soon)
	if run.metric(t, "weir_limiter_windows_available") != 0 {
		t.Error("the metric does not say that the windows are away")
	}
	if err := syscall.Kill(server.Pid(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	back("2")
	server.Kill()
	away(soon)
	testenv.StartRedis(t, addr)
	back("42")
}

// The same id in one batch is one decision.
func TestSameIDInOneBatch(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*limiter.Config){"memory": nil, "redis": onRedis(t, testenv.Redis(t))} {
		nc := testenv.Connect(t, testenv.NATS(t))
		start(t, nc, change)
		ask(t, nc, "acme", `{"user":"7"}`)
		inbox := nc.NewRespInbox()
		answers := make(chan *nats.Msg, 400)
		if _, err := nc.ChanSubscribe(inbox, answers); err != nil {
			t.Fatal(err)
		}
		for i := range cap(answers) {
			payload := fmt.Appendf(nil, `{"id":"%d","user":"42"}`, i%20)
			if err := nc.PublishRequest(names.Check(0, "acme", "g"), inbox, payload); err != nil {
				t.Fatal(err)
			}
		}
		said := map[string]string{}
		for range cap(answers) {
			select {
			case m := <-answers:
				d, err := events.DecodeDecision(m.Data)
				if err != nil {
					t.Fatal(err)
				}
				if before, ok := said[d.ID]; ok && before != string(m.Data) {
					t.Fatalf("%s: %s and %s", name, before, m.Data)
				}
				said[d.ID] = string(m.Data)
			case <-time.After(10 * time.Second):
				t.Fatalf("%s: %d ids answered", name, len(said))
			}
		}
		if d := ask(t, nc, "acme", `{"user":"42","cost":0}`); d.Remaining != 236 {
			t.Errorf("%s: %d of 256 are left after 20 ids, want 236", name, d.Remaining)
		}
	}
}

// Windows are in one place: a limiter that would keep them in another is refused
// until it is told to move them.
func TestWindowsAreInOnePlace(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	redis := onRedis(t, testenv.Redis(t))
	fleet := func(change func(*limiter.Config)) error {
		config := limiter.DefaultConfig()
		change(&config)
		f, err := limiter.NewFleet(nc, config, zap.NewNop(), prometheus.NewRegistry())
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
		defer stop()
		ended := make(chan error, 1)
		go func() { ended <- f.Run(ctx) }()
		select {
		case <-f.Ready():
			stop()
		case <-ctx.Done():
		case err := <-ended:
			return err
		}
		return <-ended
	}
	inMemory := func(*limiter.Config) {}
	if err := fleet(inMemory); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		change func(*limiter.Config)
		has    string // "" if it may run
	}{
		{redis, "memory"},
		{func(c *limiter.Config) { redis(c); c.MoveWindows = true }, ""},
		{inMemory, "redis"},
		{redis, ""},
		{func(c *limiter.Config) { c.MoveWindows = true }, ""},
		{redis, "memory"},
	} {
		err := fleet(tt.change)
		elsewhere, refused := errors.AsType[*limiter.ElsewhereError](err)
		if refused != (tt.has != "") || refused && elsewhere.Has != tt.has || !refused && err != nil {
			t.Errorf("want refused by %q, found %v", tt.has, err)
		}
	}
}
