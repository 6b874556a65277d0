package limiter_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/weirhq/weir/internal/decide"
	"github.com/weirhq/weir/internal/embedded"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/limiter"
	"github.com/weirhq/weir/internal/limiter/limitertest"
	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/revision"
	"github.com/weirhq/weir/internal/testenv"
	"github.com/weirhq/weir/internal/window"
)

var names = events.Names{Prefix: "weir"}

// clock is a clock that moves when it is told to.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Now().UTC().Truncate(time.Second)} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// running is a limiter that runs until stop is called or the test ends.
type running struct {
	stop     func() error
	ready    <-chan struct{}
	registry *prometheus.Registry
}

// owns tells whether it holds its shard's lease, as its metrics say.
func (r running) owns(t *testing.T) bool {
	t.Helper()
	return r.metric(t, "weir_limiter_owner") == 1
}

// metric returns a gauge's or a counter's value.
func (r running) metric(t *testing.T, name string) float64 {
	t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			m := f.GetMetric()[0]
			return m.GetGauge().GetValue() + m.GetCounter().GetValue() // one of them is nil
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

// start runs a limiter and waits until it decides.
func start(t *testing.T, nc *nats.Conn, change func(*limiter.Config)) running {
	t.Helper()
	r := launch(t, nc, change)
	select {
	case <-r.ready:
	case <-time.After(10 * time.Second):
		t.Fatal("limiter not ready")
	}
	return r
}

// launch runs a limiter, which may stand by.
func launch(t *testing.T, nc *nats.Conn, change func(*limiter.Config)) running {
	t.Helper()
	config := limiter.DefaultConfig()
	config.DegradeAfter = time.Minute // a busy machine is not what is tested
	if change != nil {
		change(&config)
	}
	registry := prometheus.NewRegistry()
	l, err := limiter.New(nc, config, zaptest.NewLogger(t), registry)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	stop := sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("limiter ended: %v", err)
		}
	})
	return running{stop, l.Ready(), registry}
}

func mustParse(t *testing.T, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// ask sends a check and waits for its decision.
func ask(t *testing.T, nc *nats.Conn, tenant, payload string) events.Decision {
	t.Helper()
	m, err := nc.Request(names.Check(0, tenant, "g"), []byte(payload), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if e := m.Header.Get(micro.ErrorCodeHeader); e != "" {
		t.Fatalf("check %s refused: %s", payload, m.Data)
	}
	d, err := events.DecodeDecision(m.Data)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestDefaultPolicyDeniesThe257th(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	c := newClock()
	start(t, nc, func(config *limiter.Config) { config.Clock = c.Now })
	seen, err := nc.SubscribeSync(names.AllDecisions())
	if err != nil {
		t.Fatal(err)
	}
	const check = `{"user":"42","method":"GET","path":"/api/order/history/"}`
	for i := range 256 {
		if d := ask(t, nc, "acme", check); d.Verdict != events.Allow || d.Remaining != int64(255-i) || d.Rule != "per-minute" {
			t.Fatalf("check %d: %+v", i+1, d)
		}
		c.Add(time.Millisecond)
	}
	d := ask(t, nc, "acme", check)
	if d.Verdict != events.Deny || d.RetryAfterMS != 60_000-256 {
		t.Fatalf("the 257th: %+v", d)
	}
	c.Add(time.Duration(d.RetryAfterMS)*time.Millisecond - time.Microsecond)
	if d := ask(t, nc, "acme", check); d.Verdict != events.Deny || d.RetryAfterMS != 1 {
		t.Fatalf("a microsecond early: %+v", d)
	}
	c.Add(time.Microsecond)
	if d := ask(t, nc, "acme", check); d.Verdict != events.Allow {
		t.Fatalf("after retry_after_ms: %+v", d)
	}
	if d := ask(t, nc, "acme", `{"user":"42","method":"POST"}`); d.Verdict != events.Allow || d.Reason != events.ReasonExempt {
		t.Fatalf("a POST: %+v", d)
	}
	for range 260 {
		if _, err := seen.NextMsg(time.Second); err != nil {
			t.Fatalf("a subscriber of %s: %v", names.AllDecisions(), err)
		}
	}
	if n := len(limitertest.Records(t, nc)); n != 260 {
		t.Fatalf("%d records, want 260", n)
	}
}

// A limiter that is stopped and started in between decides like one that never
// stopped: here against a decider that keeps its windows all along.
func TestRestartChangesNothing(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	const text = `
version: 1
tenants:
  "*":
    rules:
      - {name: burst, limit: 3/s, key: [user]}
      - {name: steady, limit: 20 per 30s, key: [user, method]}
`
	c := newClock()
	change := func(config *limiter.Config) { config.Policy, config.Clock = mustParse(t, text), c.Now }
	oracle := decide.New(mustParse(t, text), window.NewMemory())
	r := rand.New(rand.NewPCG(1, 2))
	for range 6 {
		run := start(t, nc, change)
		for range 100 {
			c.Add(time.Duration(r.IntN(200)) * time.Millisecond)
			request := events.Request{ID: fmt.Sprint(r.Uint64()), User: fmt.Sprint("u", r.IntN(3)), Method: []string{"GET", "PUT"}[r.IntN(2)], Cost: int64(r.IntN(3))}
			got := ask(t, nc, "acme", string(events.AppendRequest(nil, &request)))
			request.Tenant, request.Gateway = "acme", "g"
			want := events.Record{Request: request}
			oracle.Check(&want)
			if err := oracle.Decide(t.Context(), c.Now()); err != nil {
				t.Fatal(err)
			}
			if g, w := events.AppendDecision(nil, &got), events.AppendDecision(nil, &want.Decision); string(g) != string(w) {
				t.Fatalf("decision\n%s, want\n%s", g, w)
			}
		}
		if err := run.stop(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSameIDSameDecisionOneCharge(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	run := start(t, nc, nil)
	const check = `{"id":"order-7","user":"42"}`
	first := ask(t, nc, "acme", check)
	again := ask(t, nc, "acme", check)
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	start(t, nc, nil)
	third := ask(t, nc, "acme", check)
	for _, d := range []events.Decision{again, third} {
		if a, b := events.AppendDecision(nil, &d), events.AppendDecision(nil, &first); string(a) != string(b) {
			t.Errorf("asked again: %s, want %s", a, b)
		}
	}
	if other := ask(t, nc, "umbrella", check); other.Remaining != 255 {
		t.Errorf("another tenant's request of the same id: %+v", other)
	}
	if next := ask(t, nc, "acme", `{"user":"42"}`); next.Remaining != 254 || !strings.HasPrefix(next.ID, "AO") {
		t.Errorf("the next request: %+v, want a minted id and 254 left", next)
	}
	if n := len(limitertest.Records(t, nc)); n != 3 {
		t.Errorf("%d records, want 3", n)
	}
}

// Of two limiters that both take themselves for the owner one is fenced, and
// whoever asked has one answer, which is in the journal.
func TestTwoOwners(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	nc := testenv.Connect(t, url)
	named := func(c *limiter.Config) { c.Name = "same" } // so that the second does not wait
	first := start(t, testenv.Connect(t, url), named)
	second := start(t, testenv.Connect(t, url), named)
	seen, err := nc.SubscribeSync(names.AllDecisions())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		ask(t, nc, "acme", fmt.Sprintf(`{"id":"%d","user":"42"}`, i))
	}
	testenv.Eventually(t, 5*time.Second, func() error {
		if a, b := first.owns(t), second.owns(t); a == b {
			return fmt.Errorf("owners: %v and %v, want one", a, b)
		}
		return nil
	})
	if err := errors.Join(first.stop(), second.stop()); err != nil {
		t.Fatal(err)
	}
	for {
		m, err := seen.NextMsg(50 * time.Millisecond)
		if errors.Is(err, nats.ErrTimeout) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		d, err := events.DecodeDecision(m.Data)
		if err != nil || d.Verdict != events.Allow {
			t.Fatalf("decision %s, %v", m.Data, err)
		}
	}
	all := limitertest.Records(t, nc)
	if len(all) != 50 {
		t.Fatalf("%d records of 50 checks", len(all))
	}
	for i, r := range all {
		if want := int64(255 - i); r.Decision.Remaining != want {
			t.Errorf("record %d has %d left, want %d", i, r.Decision.Remaining, want)
		}
	}
}

// A decision is out only when its block is in the journal.
func TestNoDecisionBeforeItsBlock(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	start(t, nc, func(c *limiter.Config) { c.JournalMax = 2000 })
	ask(t, nc, "acme", `{"user":"`+strings.Repeat("x", 500)+`"}`)
	seen, err := nc.SubscribeSync(names.AllDecisions())
	if err != nil {
		t.Fatal(err)
	}
	check := []byte(`{"id":"held","user":"` + strings.Repeat("y", 500) + `"}`)
	if err := nc.Publish(names.Check(0, "acme", "g"), check); err != nil {
		t.Fatal(err)
	}
	if m, err := seen.NextMsg(300 * time.Millisecond); err == nil {
		t.Fatalf("a decision is out, its block is not in the journal: %s", m.Data)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	config := limiter.DefaultConfig()
	if _, err := journal.Create(t.Context(), js, journal.Config{Names: names, MaxAge: config.JournalAge}); err != nil {
		t.Fatal(err)
	}
	if _, err := seen.NextMsg(5 * time.Second); err != nil {
		t.Fatalf("no decision once the journal has room: %v", err)
	}
}

func TestBadChecksAreToldWhy(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	start(t, nc, nil)
	for _, c := range []struct{ subject, payload, want string }{
		{"weir.check.0.acme.cli", `nonsense`, `want a JSON object, found \"nonsense\"`},
		{"weir.check.0.acme.cli", `{"user":42}`, `user: want a string`},
		{"weir.check.0.acme.cli", `{"cost":-1}`, `cost: want a whole number from 0 to 4294967296, found \"-1\"`},
		{"weir.check.0.acme.cli", `{"user":"a\u0000"}`, `user: want a string without NUL`},
		{"weir.check.0.acme.cli", "{\"user\":\"\xff\"}", `want UTF-8`},
		{"weir.check.0.acme.cli", `{"time":"0001-01-01T00:00:00Z"}`, `time: want a time from 2000 to 2091`},
		{"weir.check.0.acme.cli", `{"time":"9999-01-01T00:00:00Z"}`, `time: want a time from 2000 to 2091`},
		{"weir.check.0.acme.cli", `{"attrs":` + strings.Repeat(`[`, 100) + `}`, `attrs: want nesting of at most 32`},
		{"weir.check.0.acme.cli", `{"tenant":"umbrella"}`, `tenant: want the subject's, acme, found \"umbrella\"`},
		{"weir.check.0.acme.cli", `{"verdict":"allow"}`, `verdict: want nothing`},
		{"weir.check.0.a!b.cli", `{}`, `tenant: want 1 to 64 characters of A-Z a-z 0-9 _ -, found \"a!b\"`},
		{"weir.check.0.acme", `{}`, `subject: want weir.`},
	} {
		m, err := nc.Request(c.subject, []byte(c.payload), 5*time.Second)
		if err != nil {
			t.Fatalf("%s %s: %v", c.subject, c.payload, err)
		}
		if m.Header.Get(micro.ErrorCodeHeader) != "400" || !strings.Contains(string(m.Data), c.want) {
			t.Errorf("%s %.60s: answer %s, want an error with %s", c.subject, c.payload, m.Data, c.want)
		}
	}
	if d := ask(t, nc, "acme", `{"user":"42"}`); d.Remaining != 255 {
		t.Errorf("after bad checks: %+v", d)
	}
}

// Requests that are large do not fit one message together, and need not.
func TestBlocksAreBoundedByBytes(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	run := start(t, nc, nil)
	const checks = 1500
	path := strings.Repeat("/long", 1600)
	for i := range checks {
		payload := fmt.Sprintf(`{"id":"%d","user":"u%d","path":%q,"attrs":{"a":%q}}`, i, i, path, path[:7000])
		if err := nc.Publish(names.Check(0, "acme", "g"), []byte(payload)); err != nil {
			t.Fatal(err)
		}
	}
	// Whoever asks last is answered when all are in the journal.
	if _, err := nc.Request(names.Check(0, "acme", "g"), []byte(`{}`), 30*time.Second); err != nil {
		t.Fatal(err)
	}
	if n := len(limitertest.Records(t, nc)); n != checks+1 {
		t.Errorf("%d records of %d", n, checks+1)
	}
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
}

// What the limiter has taken when it is told to stop is decided.
func TestStopDrains(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	nc := testenv.Connect(t, url)
	run := start(t, testenv.Connect(t, url), nil)
	seen, err := nc.SubscribeSync(names.AllDecisions())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5000 {
		if err := nc.Publish(names.Check(0, "acme", "g"), fmt.Appendf(nil, `{"user":"u%d"}`, i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	if n := len(limitertest.Records(t, nc)); n != 5000 {
		t.Fatalf("%d records of 5000 checks", n)
	}
	for range 5000 {
		if _, err := seen.NextMsg(time.Second); err != nil {
			t.Fatal(err)
		}
	}
}

func TestClockThatStepsBackStandsStill(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	c := newClock()
	run := start(t, nc, func(config *limiter.Config) { config.Clock = c.Now })
	first := ask(t, nc, "acme", `{"user":"42"}`)
	c.Add(-time.Hour)
	if d := ask(t, nc, "acme", `{"user":"42"}`); !d.DecidedAt.Equal(first.DecidedAt) || d.Remaining != 254 {
		t.Errorf("an hour back: %+v", d)
	}
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	start(t, nc, func(config *limiter.Config) { config.Clock = c.Now })
	if d := ask(t, nc, "acme", `{"user":"42"}`); !d.DecidedAt.Equal(first.DecidedAt) || d.Remaining != 253 {
		t.Errorf("an hour back, after a restart: %+v", d)
	}
}

func TestConfigNamesEveryFault(t *testing.T) {
	t.Parallel()
	c := limiter.DefaultConfig()
	c.Names.Prefix, c.Shards, c.Shard, c.JournalMax, c.JournalAge, c.DegradeAfter, c.BacklogMax, c.WindowMax = "a.b", 101, -1, -1, time.Second, 0, 0, 0
	err := c.Validate()
	for _, field := range []string{"prefix:", "shards:", "shard:", "journal-max:", "journal-age:", "degrade-after:", "backlog-max:", "window-max:"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("error %v does not name %s", err, field)
		}
	}
}

// A limiter that stands by takes over at once when the owner stops.
func TestStandby(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	nc := testenv.Connect(t, url)
	first := start(t, testenv.Connect(t, url), nil)
	second := launch(t, testenv.Connect(t, url), nil)
	ask(t, nc, "acme", `{"user":"42"}`)
	if second.owns(t) {
		t.Fatal("both own the shard")
	}
	began := time.Now()
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-second.ready:
	case <-time.After(10 * time.Second):
		t.Fatal("the one that stands by does not take over")
	}
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("it took over after %v: it waited for the lease to run out", took)
	}
	if d := ask(t, nc, "acme", `{"user":"42"}`); d.Remaining != 254 {
		t.Errorf("after the change: %+v, want 254 left", d)
	}
}

// A lease that is gone, and the bucket with it, is taken anew.
func TestLeaseBucketDeleted(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	run := start(t, nc, nil)
	ask(t, nc, "acme", `{"user":"42"}`)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteKeyValue(t.Context(), names.LeaseBucket()); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		if _, err := js.KeyValue(t.Context(), names.LeaseBucket()); err != nil {
			return err
		}
		if !run.owns(t) {
			return errors.New("not the owner")
		}
		return nil
	})
	testenv.Eventually(t, 5*time.Second, func() error {
		_, err := nc.Request(names.Check(0, "acme", "g"), []byte(`{"user":"42"}`), time.Second)
		return err
	})
}

// What is no block stands in the journal: the owner is fenced, starts anew, and
// goes on behind it.
func TestForeignMessageInTheJournal(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	start(t, nc, nil)
	ask(t, nc, "acme", `{"user":"42"}`)
	if _, err := nc.Request(names.Journal(0), []byte("foreign"), time.Second); err != nil {
		t.Fatal(err)
	}
	var d events.Decision
	testenv.Eventually(t, 10*time.Second, func() error {
		m, err := nc.Request(names.Check(0, "acme", "g"), []byte(`{"user":"42"}`), time.Second)
		if err != nil {
			return err
		}
		d, err = events.DecodeDecision(m.Data)
		return err
	})
	if d.Remaining != 254 {
		t.Errorf("decision %+v, want 254 left: what was not answered was not charged", d)
	}
}

// A record that no message can carry is refused, and holds up nobody else.
func TestRecordTooLarge(t *testing.T) {
	t.Parallel()
	server, err := embedded.StartNATS(t.Context(), embedded.NATSOptions{
		Dir: t.TempDir(), Addr: "127.0.0.1:0", MaxPayload: 1 << 20, Log: zap.NewNop(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	nc := testenv.Connect(t, server.URL())
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	text.WriteString("version: 1\ntenants:\n  \"*\":\n    rules:\n")
	for i := range 90 {
		fmt.Fprintf(&text, "      - {name: r%d, limit: %d/min, key: [path, user, route, host, method, ip, gateway]}\n", i, i+1)
	}
	start(t, nc, func(c *limiter.Config) { c.Policy = mustParse(t, text.String()) })
	large := fmt.Sprintf(`{"id":"%%s","user":%[1]q,"path":%[2]q,"route":%[2]q,"host":%[1]q,"method":"GET","ip":"10.0.0.1"}`,
		strings.Repeat("\"", 1000), strings.Repeat("\"", 8000))
	m, err := nc.Request(names.Check(0, "acme", "g"), fmt.Appendf(nil, large, "check"), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if m.Header.Get(micro.ErrorCodeHeader) != "400" || !strings.Contains(string(m.Data), "larger than one message") {
		t.Errorf("answer %.300s, want a refusal", m.Data)
	}
	if _, err := js.Publish(t.Context(), names.Report(0, "acme", "g"), fmt.Appendf(nil, large, "report")); err != nil {
		t.Fatal(err)
	}
	ask(t, nc, "acme", `{"id":"small","user":"42"}`)
	testenv.Eventually(t, 5*time.Second, func() error {
		refused := 0
		for _, r := range limitertest.Records(t, nc) {
			if r.Refused != nil && strings.Contains(r.Refused.Error, "larger than one message") {
				refused++
			}
		}
		if refused != 1 {
			return fmt.Errorf("%d refused reports, want 1", refused)
		}
		return nil
	})
}

// A journal that is deleted under way is made again.
func TestJournalGone(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	start(t, nc, nil)
	ask(t, nc, "acme", `{"user":"42"}`)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteStream(t.Context(), names.JournalStream(0)); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		_, err := nc.Request(names.Check(0, "acme", "g"), []byte(`{"user":"42"}`), time.Second)
		return err
	})
}

// What stands in the journal and makes no sense does not keep the shard from
// deciding.
func TestRecoveryLeavesOutWhatMakesNoSense(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	run := start(t, nc, nil)
	ask(t, nc, "acme", `{"user":"42"}`)
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	j, err := journal.Open(t.Context(), js, names, 0)
	if err != nil {
		t.Fatal(err)
	}
	a, err := j.Appender(1, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	for _, line := range []string{"not JSON", `{"request":{"id":"x","tenant":"acme","gateway":"g"},"decision":{"verdict":"allow","rule":"r","key":"k","cost":1}}`} {
		if _, err := a.Append(t.Context(), []byte(line+"\n"), 1, 0); err != nil {
			t.Fatal(err)
		}
	}
	start(t, nc, nil)
	if d := ask(t, nc, "acme", `{"user":"42"}`); d.Remaining != 254 {
		t.Errorf("decision %+v, want 254 left", d)
	}
}

// A policy that is applied is decided under within a second, with all that was
// counted before; one that does not parse changes nothing.
func TestFollowsThePolicy(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	const text = "version: 1\ntenants:\n  \"*\":\n    rules:\n      - {name: r, limit: 10 per %s, key: [user]}\n"
	first, err := revision.Apply(t.Context(), js, names, fmt.Appendf(nil, text, "10s"))
	if err != nil {
		t.Fatal(err)
	}
	c := newClock()
	start(t, nc, func(config *limiter.Config) { config.Policy, config.Clock = first, c.Now })
	for range 4 {
		ask(t, nc, "acme", `{"user":"42"}`)
	}
	c.Add(15 * time.Second) // beyond the window of today, within that of tomorrow
	if d := ask(t, nc, "acme", `{"user":"42"}`); d.Remaining != 9 || d.Policy != first.Revision {
		t.Fatalf("under the first policy: %+v", d)
	}
	if _, err := revision.Put(t.Context(), js, names, []byte("version: 7"), first.Revision); err != nil {
		t.Fatal(err)
	}
	second, err := revision.Apply(t.Context(), js, names, fmt.Appendf(nil, text, "30s"))
	if err != nil {
		t.Fatal(err)
	}
	var d events.Decision
	testenv.Eventually(t, 10*time.Second, func() error {
		m, err := nc.Request(names.Check(0, "acme", "g"), []byte(`{"user":"42","cost":0}`), time.Second)
		if err != nil {
			return err
		}
		if d, err = events.DecodeDecision(m.Data); err == nil && d.Policy != second.Revision {
			err = fmt.Errorf("decided under revision %d", d.Policy)
		}
		return err
	})
	if d.Remaining != 5 {
		t.Errorf("under the second policy: %+v, want 5 left of 10 in 30s", d)
	}
}

// Windows are bounded: past that those charged longest ago make room, counted.
func TestWindowsAreBounded(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	run := start(t, nc, func(c *limiter.Config) { c.WindowMax = 1 << 20 })
	for i := range 20_000 {
		if err := nc.Publish(names.Check(0, "acme", "g"), fmt.Appendf(nil, `{"user":"u%d"}`, i)); err != nil {
			t.Fatal(err)
		}
		if i%4000 == 3999 { // no more than the queue holds
			ask(t, nc, "acme", `{"user":"one"}`)
		}
	}
	testenv.Eventually(t, 5*time.Second, func() error {
		bytes, evicted := run.metric(t, "weir_limiter_window_bytes"), run.metric(t, "weir_limiter_evicted_live_windows_total")
		if bytes == 0 || bytes > 1<<20 || evicted == 0 {
			return fmt.Errorf("%v bytes, %v evicted", bytes, evicted)
		}
		return nil
	})
}
