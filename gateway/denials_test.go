package gateway

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"pgregory.net/rapid"

	"github.com/weirhq/weir/internal/decide"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/testenv"
	"github.com/weirhq/weir/internal/window"
)

// randomPolicy has rules of every kind, with small limits.
func randomPolicy(t *rapid.T, random *rand.Rand, revision uint64, at time.Time) *policy.Policy {
	var text strings.Builder
	limit := func() string {
		return fmt.Sprintf("%d per %ds", random.IntN(6), []int{1, 2, 10, 100}[random.IntN(4)])
	}
	text.WriteString("version: 1\ntenants:\n  \"*\":\n    rules:\n")
	for i, key := range []string{"user", "user, method", "path"} {
		fmt.Fprintf(&text, "      - name: r%d\n        limit: %s\n        key: [%s]\n        exempt: {methods: [PUT]}\n", i, limit(), key)
		if random.IntN(2) == 0 {
			fmt.Fprintf(&text, "        cost: request.cost * %d\n", random.IntN(3))
		}
		if random.IntN(3) == 0 {
			text.WriteString("        match: {methods: [GET, PUT]}\n")
		}
		if random.IntN(3) == 0 {
			text.WriteString("        algorithm: buckets\n")
		}
		if random.IntN(12) == 0 {
			text.WriteString("        mode: shadow\n")
		}
		if random.IntN(12) == 0 {
			text.WriteString("        count_denied: true\n")
		}
		if key == "user" && random.IntN(2) == 0 {
			fmt.Fprintf(&text, "        overrides:\n          - {key: [u1], limit: %s, until: %s}\n",
				[]string{limit(), "0", "unlimited"}[random.IntN(3)], at.Add(time.Duration(random.IntN(20))*time.Second).Format(time.RFC3339))
		}
	}
	p, err := policy.Parse([]byte(text.String()))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text.String())
	}
	p.Revision = revision
	return p
}

// limiters are two that are told and asked the same: of one the gateway
// remembers denials, the other it would ask about everything.
type limiters [2]*decide.Decider

func (l *limiters) each(do func(*decide.Decider) error) {
	for _, d := range l {
		if err := do(d); err != nil {
			panic(err) // memory does not fail
		}
	}
}

func ask(d *decide.Decider, r Request, at time.Time) Decision {
	record := events.Record{Request: r}
	d.Check(&record)
	if err := d.Decide(context.Background(), at); err != nil {
		panic(err)
	}
	return record.Decision
}

// coming is a decision on its way to the gateway.
type coming struct {
	request       Request
	decision      Decision
	sent, arrives time.Time
}

// With local denials every request has the verdict that it would have without:
// under every kind of rule, with other requests that other gateways ask about,
// answers that arrive late, clocks that run apart, resets, overrides by hand
// that begin and end, and policies that limiter and gateway follow at different
// times.
func TestLocalDenialsChangeNoVerdict(t *testing.T) {
	local, asked := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 4))
		start := time.Date(2026, 5, 17, 10, 5, 3, 0, time.UTC)
		now := start // by the limiter's clock
		skew, drift := time.Duration(random.IntN(7200)-3600)*time.Second, random.IntN(1001)-500
		here := func(at time.Time) time.Time { // by the gateway's
			passed := at.Sub(start)
			return at.Add(skew + passed*time.Duration(drift)/1_000_000)
		}
		newest := randomPolicy(t, random, 1, now)
		adopted, followed := newest, newest // by the limiters, by the gateway
		l := limiters{decide.New(newest, window.NewMemory()), decide.New(newest, window.NewMemory())}
		d := newDenials()
		var answers []coming
		request := func() Request {
			r := Request{Tenant: "acme", Gateway: "g", User: fmt.Sprint("u", random.IntN(3)), Method: []string{"GET", "POST", "PUT"}[random.IntN(3)],
				Path: "/", Cost: int64(random.IntN(3)), Peek: random.IntN(20) == 0}
			return r
		}
		for range 600 {
			switch random.IntN(8) {
			case 0:
				now = now.Add(time.Duration(random.IntN(3_000_000)) * time.Microsecond)
			case 1:
				now = now.Add(time.Duration(random.IntN(3000)) * time.Microsecond)
			case 2: // to where the next denial ends
				next := time.Hour
				for _, known := range d.known {
					if left := known.until.Sub(here(now)); left > 0 {
						next = min(next, left)
					}
				}
				if next < time.Hour {
					now = now.Add(next).Truncate(time.Microsecond)
				}
			}
			answers = slices.DeleteFunc(answers, func(a coming) bool {
				if a.arrives.After(now) {
					return false
				}
				d.remember(followed, &a.request, &a.decision, here(a.sent), here(a.arrives))
				return true
			})
			if adopted != newest && random.IntN(5) == 0 && l[0].Adopt(newest, now) && l[1].Adopt(newest, now) {
				for user := range 3 {
					lift := events.Control{Kind: events.ControlLift, Tenant: "acme", Rule: "r0", Key: fmt.Sprint("u", user)}
					l.each(func(d *decide.Decider) error { return d.Apply(t.Context(), &lift) })
				}
				adopted = newest
				d.forget(events.Notice{Kind: events.NoticePolicy, Revision: newest.Revision}, here(now))
			}
			if random.IntN(5) == 0 {
				followed = newest
			}
			switch random.IntN(30) {
			case 0:
				c := events.Control{Kind: []events.ControlKind{events.ControlReset, events.ControlOverride, events.ControlLift}[random.IntN(3)],
					Tenant: "acme", Rule: "r0", Key: fmt.Sprint("u", random.IntN(3)), Limit: int64(random.IntN(4)), Until: now.Add(time.Duration(random.IntN(10_000_000)) * time.Microsecond)}
				// The window of an override that is longer than the rule's is counted from the key's next request on: here and there another one.
				c.WindowMS = adopted.Rule("acme", "r0").Window.Milliseconds()
				l.each(func(d *decide.Decider) error { return d.Apply(t.Context(), &c) })
				d.forget(events.Notice{Kind: c.Kind, Tenant: c.Tenant, Rule: c.Rule, Key: c.Key}, here(now))
				continue
			case 1:
				if random.IntN(3) == 0 {
					newest = randomPolicy(t, random, newest.Revision+1, now)
				}
			case 2: // of another gateway
				r := request()
				l.each(func(d *decide.Decider) error { ask(d, r, now); return nil })
				continue
			}
			r := request()
			if got, found := d.find(followed, &r, here(now)); found {
				local++
				if want := ask(l[1], r, now); want.Verdict != Deny || want.Rule == got.Rule && (want.Cost != got.Cost || (want.RetryAfterMS == 0) != (got.RetryAfterMS == 0)) {
					t.Fatalf("at %v %+v\nis denied as %+v\nand would be %+v", now.Sub(start), r, got, want)
				}
				continue
			}
			asked++
			sent := now
			now = now.Add(time.Duration(random.IntN(2000)) * time.Microsecond)
			got, want := ask(l[0], r, now), ask(l[1], r, now)
			if got.Verdict != want.Verdict || got.RetryAfterMS != want.RetryAfterMS {
				t.Fatalf("at %v %+v\nis decided as %+v\nand would be %+v", now.Sub(start), r, got, want)
			}
			answers = append(answers, coming{r, got, sent, now.Add(time.Duration(random.IntN(5000)) * time.Microsecond)})
		}
	})
	t.Logf("%d denied locally, %d asked", local, asked)
	if local < asked/50 {
		t.Errorf("%d of %d requests were denied locally: too few to tell", local, local+asked)
	}
}

// said is a denial by the built-in policy.
func said(user string, retryMS int64) *Decision {
	return &Decision{Verdict: Deny, Reason: events.ReasonRule, Rule: "per-minute", Key: user, Limit: 256, WindowMS: 60_000, RetryAfterMS: retryMS, Cost: 1}
}

// What may not be so for others, or not for long, is not remembered, or not for
// long.
func TestRemember(t *testing.T) {
	p, r, start := policy.Default(), Request{Tenant: "acme", User: "42"}, time.Now()
	for _, tt := range []struct {
		name   string
		change func(*Decision)
		after  time.Duration
		holds  bool
	}{
		{"a denial", func(*Decision) {}, 29 * time.Second, true},
		{"its wait is over", func(*Decision) {}, 30 * time.Second, false},
		{"a longer one", func(d *Decision) { d.RetryAfterMS = 3_600_000 }, 59 * time.Second, true},
		{"after a minute", func(d *Decision) { d.RetryAfterMS = 3_600_000 }, time.Minute, false},
		{"for ever", func(d *Decision) { d.RetryAfterMS = 0 }, 59 * time.Second, true},
		{"for ever, after a minute", func(d *Decision) { d.RetryAfterMS = 0 }, time.Minute, false},
		{"what rests on charges that may not be stored", func(d *Decision) { d.Degraded = true }, time.Second, false},
		{"what no rule said", func(d *Decision) { d.Reason = events.ReasonUnavailable }, time.Second, false},
		{"an admission", func(d *Decision) { d.Verdict = Allow }, time.Second, false},
		{"under another revision", func(d *Decision) { d.Policy++ }, time.Second, false},
	} {
		d, decision := newDenials(), said("42", 30_000)
		tt.change(decision)
		d.remember(p, &r, decision, start, start)
		if _, found := d.find(p, &r, start.Add(tt.after)); found != tt.holds {
			t.Errorf("%s: denied after %v: %v, want %v", tt.name, tt.after, found, tt.holds)
		}
	}
}

// Of several denials the one that takes longest is told.
func TestLongestDenial(t *testing.T) {
	p, err := policy.Parse([]byte("version: 1\ntenants: {acme: {rules: [{name: a, key: [user], limit: 1/day}, {name: b, key: [user], limit: 1/hour}]}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	r, now := Request{Tenant: "acme", User: "42"}, time.Now()
	for _, tt := range []struct {
		a, b int64 // the waits, in milliseconds; 0 is for ever
		want string
	}{{7_200_000, 3_600_000, "a"}, {3_600_000, 7_200_000, "b"}, {0, 3_600_000, "a"}, {3_600_000, 0, "b"}} {
		d := newDenials()
		for rule, wait := range map[string]int64{"a": tt.a, "b": tt.b} {
			denial := said("42", wait)
			denial.Rule = rule
			d.remember(p, &r, denial, now, now)
		}
		if got, found := d.find(p, &r, now.Add(time.Second)); !found || got.Rule != tt.want {
			t.Errorf("waits %+v: %+v", tt, got)
		}
	}
}

// What finds no place is asked about, and what was counted is not lost.
func TestDenialsAreBounded(t *testing.T) {
	p, d, now := policy.Default(), newDenials(), time.Now()
	name := func(i int) string { return fmt.Sprint("u", i) }
	for i := range maxDenials + 1 {
		d.remember(p, &Request{Tenant: "acme", User: name(i)}, said(name(i), 30_000), now, now)
	}
	deny := func(i int, r Request) bool {
		r.Tenant, r.User = "acme", name(i)
		_, found := d.find(p, &r, now.Add(time.Second))
		return found
	}
	if !deny(maxDenials-1, Request{}) || deny(maxDenials, Request{}) {
		t.Errorf("of %d denials another number is remembered than %d", maxDenials+1, maxDenials)
	}
	large := Request{Path: "/" + strings.Repeat("x", 1<<20-foldSize-100)}
	n := 0
	for n < 64 && deny(n, large) {
		n++
	}
	if n != 32 {
		t.Errorf("%d requests of a megabyte are kept, want 32", n)
	}
	if !deny(0, large) || !deny(0, Request{}) {
		t.Error("one more of a key has no place")
	}
	first := d.report(now.Add(time.Second), 10)
	if len(first) != 10 {
		t.Errorf("%d reports, want as many as there is room for", len(first))
	}
	total := int64(0)
	for _, r := range append(first, d.report(now.Add(time.Hour), maxDenials)...) {
		total += r.Count
	}
	if total != 35 || len(d.known) > 0 || len(d.of) > 0 || len(d.folds) > 0 || d.folded != 0 || d.some.Load() != 0 {
		t.Errorf("%d denials are reported, want 35; %d known, %d bytes kept", total, len(d.known), d.folded)
	}
}

// What was denied in the last second is reported by Close, also if it is more than
// the queue has places.
func TestCloseReportsAllDenied(t *testing.T) {
	t.Parallel()
	const users = spillSize + 2000
	nc := testenv.Connect(t, testenv.NATS(t))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	names := events.Names{Prefix: events.DefaultPrefix}
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: names.ReportsStream(), Subjects: []string{names.Reports(0)}})
	if err != nil {
		t.Fatal(err)
	}
	c, err := Connect(nc, Config{Name: "g", Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	for i := range users {
		now, user := time.Now(), fmt.Sprint("u", i)
		c.denials.remember(c.policy.Load(), &Request{Tenant: "acme", User: user}, said(user, 0), now, now)
		if d, err := c.Check(t.Context(), Request{Tenant: "acme", User: user}); err != nil || d.Reason != events.ReasonLocal {
			t.Fatalf("%+v, %v", d, err)
		}
	}
	if err := c.Close(); err != nil || c.Overflow() > 0 {
		t.Errorf("%v, %d are not recorded", err, c.Overflow())
	}
	if info, err := stream.Info(t.Context()); err != nil || info.State.Msgs != users {
		t.Errorf("%d reports, %v; want %d", info.State.Msgs, err, users)
	}
}

func BenchmarkLocalDenial(b *testing.B) {
	c := &Client{config: Config{Name: "g"}, denials: newDenials()}
	p := policy.Default()
	c.policy.Store(p)
	now := time.Now()
	c.denials.remember(p, &Request{Tenant: "acme", User: "42"}, said("42", 0), now, now)
	b.ReportAllocs()
	for b.Loop() {
		if d, err := c.Check(b.Context(), Request{Tenant: "acme", User: "42", Method: "GET", Path: "/api/order/history/"}); err != nil || d.Reason != events.ReasonLocal {
			c.denials.remember(p, &Request{Tenant: "acme", User: "42"}, said("42", 0), time.Now(), time.Now())
		}
	}
}
