package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/limiter/limitertest"
	"github.com/weirhq/weir/internal/testenv"
)

func connect(t *testing.T, nc *nats.Conn, config gateway.Config) *gateway.Client {
	t.Helper()
	if config.Name == "" {
		config.Name = "g"
	}
	c, err := gateway.Connect(nc, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil && !errors.Is(err, gateway.ErrClosed) {
			t.Error(err)
		}
	})
	return c
}

func TestCheck(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	limitertest.Start(t, testenv.Connect(t, url))
	c := connect(t, testenv.Connect(t, url), gateway.Config{Timeout: 10 * time.Second})
	var wg sync.WaitGroup
	var mu sync.Mutex
	allowed := 0
	for range 400 {
		wg.Go(func() {
			d, err := c.Check(t.Context(), gateway.Request{Tenant: "acme", User: "42", Method: "GET"})
			if err != nil || d.Reason != events.ReasonRule {
				t.Errorf("decision %+v, %v", d, err)
			}
			mu.Lock()
			defer mu.Unlock()
			if d.Verdict == gateway.Allow {
				allowed++
			}
		})
	}
	wg.Wait()
	if allowed != 256 {
		t.Errorf("%d of 400 allowed, want 256", allowed)
	}
}

// The same id is asked about by many at once: one charge, one answer for all.
func TestSameIDAtOnce(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	limitertest.Start(t, testenv.Connect(t, url))
	c := connect(t, testenv.Connect(t, url), gateway.Config{Timeout: 10 * time.Second})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			d, err := c.Check(t.Context(), gateway.Request{ID: "one", Tenant: "acme", User: "42"})
			if err != nil || d.Remaining != 255 || d.ID != "one" {
				t.Errorf("decision %+v, %v", d, err)
			}
		})
	}
	wg.Wait()
}

// Without a limiter on_error speaks, and what passed is recorded once there is
// one again.
func TestWithoutLimiter(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	nc := testenv.Connect(t, url)
	for _, verdict := range []gateway.Verdict{gateway.Allow, gateway.Deny} {
		c := connect(t, nc, gateway.Config{Name: "on-" + string(verdict), OnError: verdict, Timeout: 20 * time.Millisecond})
		d, err := c.Check(t.Context(), gateway.Request{ID: string(verdict), Tenant: "acme", User: "42", Cost: 3})
		if err != nil || d.Verdict != verdict || d.Reason != gateway.ReasonTimeout {
			t.Errorf("decision %+v, %v; want %s for timeout", d, err, verdict)
		}
	}
	limitertest.Start(t, testenv.Connect(t, url))
	testenv.Eventually(t, 10*time.Second, func() error {
		all := limitertest.Records(t, nc)
		if len(all) != 2 {
			return fmt.Errorf("%d records, want 2", len(all))
		}
		for _, r := range all {
			want := int64(0) // denied: charges nothing
			if r.Decision.Verdict == gateway.Allow {
				want = 3
			}
			if r.Decision.Reason != gateway.ReasonTimeout || r.Request.ID != string(r.Decision.Verdict) || r.Decision.Cost != want {
				t.Errorf("record %s", events.AppendRecord(nil, &r))
			}
		}
		return nil
	})
}

// Checks that cannot be sent do not wait for an answer.
func TestWithoutConnection(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	c := connect(t, nc, gateway.Config{Timeout: time.Hour})
	nc.Close()
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			d, err := c.Check(t.Context(), gateway.Request{Tenant: "acme"})
			if err != nil || d.Verdict != gateway.Allow || d.Reason != gateway.ReasonTimeout {
				t.Errorf("decision %+v, %v", d, err)
			}
		})
	}
	wg.Wait()
}

// What cannot be recorded either is bounded and counted, and Close gives up on
// it in time.
func TestOverflowIsCounted(t *testing.T) {
	t.Parallel()
	c := connect(t, testenv.Connect(t, testenv.NATS(t)), gateway.Config{Timeout: time.Microsecond})
	const checks = 12_000
	var wg sync.WaitGroup
	for w := range 100 {
		wg.Go(func() {
			for i := range checks / 100 {
				if _, err := c.Check(t.Context(), gateway.Request{ID: fmt.Sprint(w, "-", i), Tenant: "acme"}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if n := c.Overflow(); n < 1000 || n > 2000 {
		t.Errorf("overflow %d of %d checks, want what is over 10,000 and a batch", n, checks)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if n := c.Overflow(); n != checks {
		t.Errorf("after Close %d are counted as lost, want all %d", n, checks)
	}
	if _, err := c.Check(t.Context(), gateway.Request{Tenant: "acme"}); !errors.Is(err, gateway.ErrClosed) {
		t.Errorf("a check after Close: %v", err)
	}
}

func TestAPIKeyDoesNotTravel(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	limitertest.Start(t, testenv.Connect(t, url))
	nc := testenv.Connect(t, url)
	all, err := nc.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, nc, gateway.Config{Timeout: 5 * time.Second})
	request := gateway.Request{Tenant: "acme", APIKey: "s3cr3t-of-acme"}
	if d, err := c.Check(t.Context(), request); err != nil || d.Key != events.HashAPIKey("s3cr3t-of-acme") {
		t.Errorf("decision %+v, %v", d, err)
	}
	if err := c.Report(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	hashes := 0
	for {
		m, err := all.NextMsg(100 * time.Millisecond)
		if err != nil {
			break
		}
		if strings.Contains(string(m.Data), "s3cr3t") {
			t.Errorf("the key is in %s: %s", m.Subject, m.Data)
		}
		if strings.Contains(string(m.Data), events.HashAPIKey("s3cr3t-of-acme")) {
			hashes++
		}
	}
	if hashes == 0 {
		t.Error("no message holds the key's hash")
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	nc := testenv.Connect(t, url)
	c := connect(t, nc, gateway.Config{Shards: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := c.Report(ctx, gateway.Request{ID: "0", Tenant: "acme"}); err == nil { // may be stored later
		t.Error("a report that nobody stores is acknowledged")
	}
	limitertest.Start(t, testenv.Connect(t, url))

	batch := make([]gateway.Request, 5000)
	for i := range batch {
		batch[i] = gateway.Request{ID: fmt.Sprint(i), Tenant: "acme", Status: 200}
	}
	for range 2 { // the second time changes nothing
		if err := c.Report(t.Context(), batch...); err != nil {
			t.Fatal(err)
		}
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		if n := len(limitertest.Records(t, nc)); n != len(batch) {
			return fmt.Errorf("%d records, want %d", n, len(batch))
		}
		return nil
	})
}

func TestReportSendsAllOrNothingOfBadInput(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	limitertest.Start(t, testenv.Connect(t, url))
	nc := testenv.Connect(t, url)
	c := connect(t, nc, gateway.Config{})
	err := c.Report(t.Context(), gateway.Request{Tenant: "acme"}, gateway.Request{}, gateway.Request{Tenant: "acme", Cost: -1})
	one, ok := errors.AsType[*gateway.RequestError](err)
	if !ok || one.Index != 1 {
		t.Fatalf("error %v, want a RequestError of request 1", err)
	}
	for _, want := range []string{"request 1: tenant: want 1 to 64 characters", "request 2: cost: want a whole number from 0"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q in it", err, want)
		}
	}
	if err := c.Report(t.Context(), gateway.Request{ID: "good", Tenant: "acme"}); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 5*time.Second, func() error {
		if all := limitertest.Records(t, nc); len(all) != 1 || all[0].Request.ID != "good" {
			return fmt.Errorf("%d records, want the good one", len(all))
		}
		return nil
	})
}

func TestCheckRefuses(t *testing.T) {
	t.Parallel()
	c := connect(t, testenv.Connect(t, testenv.NATS(t)), gateway.Config{Shards: 1})
	for _, r := range []gateway.Request{
		{},
		{Tenant: "a.b"},
		{Tenant: "acme", User: "a\x00"},
		{Tenant: "acme", Path: "\xff"},
		{Tenant: "acme", Attrs: "[]"},
		{Tenant: "acme", Verdict: gateway.Allow},
	} {
		if _, err := c.Check(t.Context(), r); err == nil {
			t.Errorf("%+v is taken", r)
		} else if _, ok := errors.AsType[*gateway.FieldError](err); !ok {
			t.Errorf("%+v: error %v names no field", r, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Check(ctx, gateway.Request{Tenant: "acme"}); !errors.Is(err, context.Canceled) {
		t.Errorf("a check whose caller is gone: %v", err)
	}
}

func TestConfigNamesEveryFault(t *testing.T) {
	t.Parallel()
	_, err := gateway.Connect(nil, gateway.Config{Name: "a b", Prefix: "x.y", Shards: 101, Timeout: -1, OnError: "maybe"})
	for _, field := range []string{"name:", "prefix:", "shards:", "timeout:", "on_error:"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("error %v does not name %s", err, field)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	url := testenv.NATS(b)
	limitertest.Start(b, testenv.Connect(b, url))
	c, err := gateway.Connect(testenv.Connect(b, url), gateway.Config{Name: "bench", Timeout: 10 * time.Second})
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close() //nolint:errcheck // nothing is left to report
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if d, err := c.Check(b.Context(), gateway.Request{Tenant: "acme", User: "42", Method: "GET", Path: "/api/order/history/"}); err != nil || d.Reason == gateway.ReasonTimeout {
				b.Errorf("decision %+v, %v", d, err)
			}
		}
	})
}

// Whoever gives up does not take the decision from others who ask about the
// same request.
func TestOneOfManyGivesUp(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	checks, err := nc.SubscribeSync("weir.check.>")
	if err != nil {
		t.Fatal(err)
	}
	c := connect(t, nc, gateway.Config{Shards: 1, Timeout: 20 * time.Second})
	patient := make(chan gateway.Decision, 1)
	go func() {
		d, err := c.Check(context.WithoutCancel(t.Context()), gateway.Request{ID: "one", Tenant: "acme"})
		if err != nil {
			t.Error(err)
		}
		patient <- d
	}()
	if _, err := checks.NextMsg(5 * time.Second); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Check(ctx, gateway.Request{ID: "one", Tenant: "acme"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the one in a hurry: %v", err)
	}
	answer := events.Decision{ID: "one", Verdict: gateway.Deny, Reason: events.ReasonRule, Rule: "r", DecidedAt: time.Now()}
	subject := events.Names{Prefix: "weir"}.Decision(gateway.Deny, "acme", "g")
	if err := nc.Publish(subject, events.AppendDecision(nil, &answer)); err != nil {
		t.Fatal(err)
	}
	if d := <-patient; d.Verdict != gateway.Deny {
		t.Errorf("the one that waits: %+v, want the decision", d)
	}
}

// A client that was told no number of shards has the limiters', also when it was
// there before them; one that was told another number is refused.
func TestNumberOfShards(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	early := connect(t, testenv.Connect(t, url), gateway.Config{Name: "early", Timeout: time.Second})
	if d, err := early.Check(t.Context(), gateway.Request{ID: "early", Tenant: "acme"}); err != nil || d.Reason != gateway.ReasonTimeout {
		t.Errorf("without a limiter: %+v, %v", d, err)
	}
	if _, err := early.Explain(t.Context(), gateway.Request{Tenant: "acme"}); err == nil || !strings.Contains(err.Error(), "the number of shards is not known") {
		t.Errorf("explain without a limiter: %v", err)
	}
	limitertest.StartShards(t, testenv.Connect(t, url), 4)
	late := connect(t, testenv.Connect(t, url), gateway.Config{Name: "late", Timeout: 5 * time.Second})
	for i := range 20 {
		tenant := fmt.Sprint("tenant-", i)
		if d, err := late.Check(t.Context(), gateway.Request{Tenant: tenant}); err != nil || d.Reason == gateway.ReasonTimeout {
			t.Fatalf("%s: %+v, %v", tenant, d, err)
		}
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		d, err := early.Check(t.Context(), gateway.Request{Tenant: "acme"})
		if err == nil && d.Reason == gateway.ReasonTimeout {
			err = errors.New("the early client does not know the number yet")
		}
		return err
	})
	_, err := gateway.Connect(testenv.Connect(t, url), gateway.Config{Name: "wrong", Shards: 2})
	if err == nil || !strings.Contains(err.Error(), "shards: want 4, as this system has since its first limiter was started, found 2") {
		t.Errorf("told another number: %v", err)
	}
}
