package gateway_test

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/limiter/limitertest"
	"github.com/weirhq/weir/internal/revision"
	"github.com/weirhq/weir/internal/testenv"
)

var names = events.Names{Prefix: events.DefaultPrefix}

// apply makes a text the newest revision, whether it parses or not, and returns
// its number.
func apply(tb testing.TB, nc *nats.Conn, text string) uint64 {
	tb.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		tb.Fatal(err)
	}
	newest, err := revision.Newest(tb.Context(), js, names)
	if err != nil {
		tb.Fatal(err)
	}
	number, err := revision.Put(tb.Context(), js, names, []byte(text), newest.Number)
	if err != nil {
		tb.Fatal(err)
	}
	return number
}

// store makes what keeps the reports or outcomes of clients, so that Close need
// not wait for a limiter.
func store(t *testing.T, nc *nats.Conn, stream, subject string) {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	config := jetstream.StreamConfig{Name: stream, Subjects: []string{subject}}
	if _, err := js.CreateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
}

// follows waits until a client that gets no decisions is under a revision.
func follows(t *testing.T, c *gateway.Client, number uint64) {
	t.Helper()
	testenv.Eventually(t, 10*time.Second, func() error {
		d, err := c.Check(t.Context(), gateway.Request{Tenant: "waits"})
		if err == nil && d.Policy != number {
			err = fmt.Errorf("under revision %d, want %d", d.Policy, number)
		}
		return err
	})
}

const ownOnError = `
version: 1
defaults: { on_error: %s }
tenants:
  "*":
    rules:
      - { name: logins, limit: 5/min, key: [user], match: { paths: [/login] }, on_error: deny }
      - { name: reads, limit: 10/s, key: [ip], on_error: allow }
      - { name: all, limit: 100/s, key: [user] }
`

// Without a limiter the rules that would charge a request say what becomes of
// it, and it is recorded so once there is one again.
func TestRulesSayOnError(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	nc := testenv.Connect(t, url)
	lax := apply(t, nc, fmt.Sprintf(ownOnError, "allow"))
	c := connect(t, nc, gateway.Config{Timeout: time.Millisecond})
	strict := connect(t, nc, gateway.Config{Name: "strict", Timeout: time.Millisecond, OnError: gateway.Deny})
	follows(t, c, lax)
	follows(t, strict, lax)
	want := map[string]gateway.Verdict{}
	check := func(c *gateway.Client, id string, r gateway.Request, verdict gateway.Verdict) {
		t.Helper()
		r.ID, r.Tenant = id, "acme"
		d, err := c.Check(t.Context(), r)
		if err != nil || d.Verdict != verdict || d.Reason != gateway.ReasonTimeout || d.ID != id {
			t.Errorf("%s: decision %+v, %v; want %s for timeout", id, d, err, verdict)
		}
		want[id] = verdict
	}
	login := gateway.Request{User: "42", Path: "/login"}
	read := gateway.Request{IP: netip.MustParseAddr("192.0.2.1"), Path: "/"}
	write := gateway.Request{User: "42", Path: "/"}
	none := gateway.Request{Path: "/login"} // no rule has its key of it
	check(c, "login", login, gateway.Deny)
	check(c, "read", read, gateway.Allow)
	check(c, "write", write, gateway.Allow)
	check(c, "none", none, gateway.Allow)
	check(strict, "strict-login", login, gateway.Deny)
	check(strict, "strict-read", read, gateway.Allow)
	check(strict, "strict-write", write, gateway.Deny)
	check(strict, "strict-none", none, gateway.Deny)

	follows(t, c, apply(t, nc, fmt.Sprintf(ownOnError, "deny")))
	check(c, "later-login", login, gateway.Deny)
	check(c, "later-read", read, gateway.Allow)
	check(c, "later-write", write, gateway.Deny)
	check(c, "later-none", none, gateway.Deny)

	limitertest.Start(t, testenv.Connect(t, url))
	testenv.Eventually(t, 10*time.Second, func() error {
		found := 0
		for _, r := range limitertest.Records(t, nc) {
			verdict, ours := want[r.Request.ID]
			if !ours {
				continue
			}
			found++
			if r.Decision.Verdict != verdict || r.Decision.Reason != gateway.ReasonTimeout {
				t.Errorf("record %s, want %s for timeout", events.AppendRecord(nil, &r), verdict)
			}
		}
		if found != len(want) {
			return fmt.Errorf("%d records of %d", found, len(want))
		}
		return nil
	})
}

// A client that came before the first policy takes it up, and each that is
// applied later, but for what does not parse.
func TestFollowsThePolicy(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	store(t, nc, names.ReportsStream(), names.Reports(0))
	c := connect(t, nc, gateway.Config{Timeout: time.Millisecond})
	login := gateway.Request{Tenant: "acme", User: "42", Path: "/login"}
	verdict := func() gateway.Verdict {
		t.Helper()
		d, err := c.Check(t.Context(), login)
		if err != nil {
			t.Fatal(err)
		}
		return d.Verdict
	}
	if v := verdict(); v != gateway.Allow {
		t.Errorf("under the built-in policy: %s", v)
	}
	first := apply(t, nc, fmt.Sprintf(ownOnError, "allow"))
	follows(t, c, first)
	if v := verdict(); v != gateway.Deny {
		t.Errorf("under the first policy: %s", v)
	}
	broken := apply(t, nc, "version: 7")
	looks, err := nc.SubscribeSync("$JS.API.DIRECT.GET.KV_weir_policy.>")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // whoever looks again has done with what it found
		if _, err := looks.NextMsg(10 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if d, err := c.Check(t.Context(), login); err != nil || d.Verdict != gateway.Deny || d.Policy != first {
		t.Errorf("after revision %d, which does not parse: %+v, %v; want revision %d", broken, d, err, first)
	}
	follows(t, c, apply(t, nc, "version: 1\ntenants: {}"))
	if v := verdict(); v != gateway.Allow {
		t.Errorf("under the last policy: %s", v)
	}
}

// How long a check waits is the policy's to say, unless the gateway says.
func TestPolicySaysTimeout(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	store(t, nc, names.ReportsStream(), names.Reports(0))
	number := apply(t, nc, "version: 1\ndefaults: { timeout: 300ms }\ntenants: {}")
	follows(t, connect(t, nc, gateway.Config{Name: "own", Timeout: time.Millisecond}), number)
	c := connect(t, nc, gateway.Config{})
	follows(t, c, number)
	start := time.Now()
	if d, err := c.Check(t.Context(), gateway.Request{Tenant: "acme"}); err != nil || d.Reason != gateway.ReasonTimeout {
		t.Errorf("%+v, %v", d, err)
	}
	if waited := time.Since(start); waited < 300*time.Millisecond {
		t.Errorf("the check waited %v, want 300ms", waited)
	}
}

// Without JetStream the built-in policy is in force, and Connect and Close do
// not wait for another.
func TestWithoutJetStream(t *testing.T) {
	t.Parallel()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(s.Shutdown)
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server is not ready")
	}
	c := connect(t, testenv.Connect(t, s.ClientURL()), gateway.Config{Shards: 1})
	start := time.Now()
	d, err := c.Check(t.Context(), gateway.Request{Tenant: "acme", User: "42"})
	if err != nil || d.Verdict != gateway.Allow || d.Reason != gateway.ReasonTimeout || d.Policy != 0 {
		t.Errorf("%+v, %v", d, err)
	}
	if waited := time.Since(start); waited < 50*time.Millisecond {
		t.Errorf("the check waited %v, want 50ms", waited)
	}
}
