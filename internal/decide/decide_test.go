package decide_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/internal/decide"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/window"
)

const threeRules = `
version: 1
tenants:
  "*":
    rules:
      - {name: burst, limit: 3 per 10s, key: [user]}
      - {name: steady, limit: 5/min, key: [user, method]}
      - {name: heavy, limit: 10/min, key: [ip], exempt: {methods: [HEAD]}}
`

// everyMode has a rule of every kind that there is.
const everyMode = `
version: 1
tenants:
  "*":
    rules:
      - {name: burst, limit: 3 per 10s, key: [user], count_denied: true}
      - {name: steady, limit: 5/min, key: [user, method], cost: request.cost * 2}
      - {name: buckets, limit: 6/min, key: [user], algorithm: buckets, count_denied: true}
      - {name: shadow, limit: 2 per 5s, key: [user], mode: shadow}
      - {name: shadows, limit: 4 per 20s, key: [user], mode: shadow, count_denied: true}
      - name: overridden
        limit: 4/min
        key: [user]
        when: request.method != "PUT"
        count_denied: true
        overrides:
          - {key: ["1"], limit: 2 per 5s, until: 2026-11-23T12:00:30Z}
          - {key: ["1"], limit: 9/min, until: 2026-11-23T12:01:00Z}
          - {key: ["2"], limit: 0, until: 2026-11-23T12:00:20Z}
          - {key: ["2"], limit: unlimited, until: 2026-11-23T12:00:40Z}
`

func mustParse(t testing.TB, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	p.Revision = 7
	return p
}

var start = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func check(d *decide.Decider, at time.Duration, r events.Request) events.Record {
	r.Tenant, r.Gateway = "acme", "g"
	record := events.Record{Request: r}
	d.Check(&record)
	decideAt(d, at)
	return record
}

// decideAt decides the batch; memory does not fail.
func decideAt(d *decide.Decider, at time.Duration) {
	if err := d.Decide(context.Background(), start.Add(at)); err != nil {
		panic(err)
	}
}

// The decision names the rule with the least left, of a denial the one that
// takes longest; the record lists all that matched.
func TestTheRuleThatBinds(t *testing.T) {
	t.Parallel()
	d := decide.New(mustParse(t, threeRules), window.NewMemory())
	get := events.Request{ID: "1", User: "42", Method: "GET"}
	for i := range 3 {
		r := check(d, 0, get)
		dec := r.Decision
		if dec.Verdict != events.Allow || dec.Rule != "burst" || dec.Remaining != int64(2-i) || dec.Key != "42" || dec.Policy != 7 {
			t.Fatalf("request %d: %+v", i+1, dec)
		}
		want := []events.Charge{
			{Rule: "burst", Key: "42", Limit: 3, WindowMS: 10_000, Cost: 1, Remaining: int64(2 - i)},
			{Rule: "steady", Key: `["42","GET"]`, Limit: 5, WindowMS: 60_000, Cost: 1, Remaining: int64(4 - i)},
		}
		if !slices.Equal(r.Charges, want) {
			t.Fatalf("request %d charges %+v, want %+v", i+1, r.Charges, want)
		}
	}
	r := check(d, 500*time.Microsecond, get)
	if dec := r.Decision; dec.Verdict != events.Deny || dec.Rule != "burst" || dec.RetryAfterMS != 10_000 || dec.ResetMS != 10_000 {
		t.Errorf("the fourth: %+v", dec)
	}
	if !r.Charges[0].Denied || r.Charges[1].Denied || r.Charges[1].Remaining != 2 {
		t.Errorf("the fourth charges %+v; want burst alone without room, and nothing charged", r.Charges)
	}
	check(d, 10*time.Second, get)
	check(d, 10*time.Second, get) // five in the minute
	if dec := check(d, 11*time.Second, get).Decision; dec.Rule != "steady" || dec.RetryAfterMS != 49_000 || dec.Violated != nil {
		t.Errorf("steady without room: %+v", dec)
	}
	two := get
	two.Cost = 2
	if dec := check(d, 11*time.Second, two).Decision; dec.Rule != "steady" || !slices.Equal(dec.Violated, []string{"burst", "steady"}) {
		t.Errorf("both without room: %+v, want both named, and steady, which takes longer, as the one that binds", dec)
	}
	heavy := events.Request{User: "7", Method: "GET", Cost: 4}
	if dec := check(d, 11*time.Second, heavy).Decision; dec.Verdict != events.Deny || dec.RetryAfterMS != 0 || dec.Rule != "burst" {
		t.Errorf("more than the limit: %+v, want a denial without retry_after_ms", dec)
	}
	if dec := check(d, 11*time.Second, events.Request{}).Decision; dec.Verdict != events.Allow || dec.Reason != events.ReasonNoRule || dec.Rule != "" {
		t.Errorf("nothing to count by: %+v", dec)
	}
}

// A record replayed charges what it charged, so a decider that has replayed
// all records decides like the one that made them.
func TestReplayIsTheSame(t *testing.T) {
	t.Parallel()
	policies := map[string]*policy.Policy{"three rules": mustParse(t, threeRules), "every mode": mustParse(t, everyMode)}
	rapid.Check(t, func(t *rapid.T) {
		p := policies[rapid.SampledFrom([]string{"three rules", "every mode"}).Draw(t, "policy")]
		first := decide.New(p, window.NewMemory())
		var records []events.Record
		var at time.Duration
		step := func(d *decide.Decider, n int) events.Record {
			at += time.Duration(rapid.IntRange(0, 8_000).Draw(t, "wait")) * time.Millisecond
			r := events.Record{Request: events.Request{
				ID: fmt.Sprint(n), Tenant: "acme", Gateway: "g", Time: start.Add(at),
				User:   rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "user"),
				Method: rapid.SampledFrom([]string{"GET", "PUT", "HEAD"}).Draw(t, "method"),
				Cost:   rapid.Int64Range(0, 4).Draw(t, "cost"),
			}}
			if rapid.Bool().Draw(t, "is report") {
				r.Request.Verdict = rapid.SampledFrom([]events.Verdict{"", events.Allow, events.Deny}).Draw(t, "verdict")
				d.Report(&r, rapid.Bool().Draw(t, "charged"))
			} else {
				d.Check(&r)
			}
			decideAt(d, at)
			return r
		}
		n := rapid.IntRange(1, 60).Draw(t, "requests")
		for i := range n {
			records = append(records, step(first, i))
		}
		second := decide.New(p, window.NewMemory())
		for i := range records {
			second.Replay(&records[i])
		}
		for i := range 20 {
			was := at
			r := step(first, n+i)
			again := events.Record{Request: r.Request}
			if r.Request.Verdict != "" {
				second.Replay(&r) // whether it was charged already is the limiter's to say
				continue
			}
			second.Check(&again)
			decideAt(second, at)
			if a, b := events.AppendRecord(nil, &again), events.AppendRecord(nil, &r); string(a) != string(b) {
				t.Fatalf("after %v, at %v: replayed\n%s, first\n%s", was, at, a, b)
			}
		}
	})
}

func TestReports(t *testing.T) {
	t.Parallel()
	p := mustParse(t, `{version: 1, tenants: {"*": {rules: [{name: one, limit: 10/min, key: [user]}, {name: two, limit: 4/s, key: [user]}]}}}`)
	for _, c := range []struct {
		name      string
		request   events.Request
		charged   bool
		verdict   events.Verdict
		reason    events.Reason
		cost      int64 // of rule one
		remaining int64 // of rule one, afterwards
	}{
		{"undecided", events.Request{Cost: 3}, false, events.Allow, events.ReasonRule, 3, 7},
		{"undecided, without room", events.Request{Cost: 5}, false, events.Deny, events.ReasonRule, 5, 10},
		{"late", events.Request{Time: start.Add(-time.Minute - time.Microsecond)}, false, events.Allow, events.ReasonLate, 0, 10},
		{"old, but not for rule one", events.Request{Time: start.Add(-time.Minute)}, false, events.Allow, events.ReasonRule, 1, 9},
		{"denied by its gateway", events.Request{Verdict: events.Deny}, false, events.Deny, events.ReasonLocal, 0, 10},
		{"let through", events.Request{Verdict: events.Allow, Cost: 3}, false, events.Allow, events.ReasonTimeout, 3, 7},
		{"let through, with room in part", events.Request{Verdict: events.Allow, Cost: 12}, false, events.Allow, events.ReasonTimeout, 10, 0},
		{"let through, charged before", events.Request{Verdict: events.Allow}, true, events.Allow, events.ReasonTimeout, 0, 10},
		{"denied for want of a decision", events.Request{Verdict: events.Deny, Reason: events.ReasonTimeout}, false, events.Deny, events.ReasonTimeout, 0, 10},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := decide.New(p, window.NewMemory())
			r := events.Record{Request: c.request}
			r.Request.Tenant, r.Request.User = "acme", "42"
			d.Report(&r, c.charged)
			decideAt(d, 0)
			if r.Decision.Verdict != c.verdict || r.Decision.Reason != c.reason {
				t.Errorf("decision %+v, want %s for %s", r.Decision, c.verdict, c.reason)
			}
			if len(r.Charges) > 0 && r.Charges[0].Cost != c.cost {
				t.Errorf("charges %+v, want %d by rule one", r.Charges, c.cost)
			}
			if len(r.Charges) == 0 && c.cost != 0 {
				t.Errorf("no charges, want %d by rule one", c.cost)
			}
			peek := check(d, 0, events.Request{User: "42", Peek: true})
			if got := peek.Charges[0].Remaining; got != c.remaining {
				t.Errorf("afterwards %d are left, want %d", got, c.remaining)
			}
		})
	}
}

func BenchmarkCheck(b *testing.B) {
	for _, keys := range []int{1, 10_000} {
		b.Run(fmt.Sprint(keys, " keys"), func(b *testing.B) {
			users := make([]string, keys)
			for i := range users {
				users[i] = fmt.Sprint("user-", i)
			}
			benchmark(b, decide.New(policy.Default(), window.NewMemory()), time.Microsecond, func(i int) string { return users[i%keys] })
		})
	}
}

// benchmark measures decisions in blocks of 64.
func benchmark(b *testing.B, d *decide.Decider, apart time.Duration, user func(i int) string) {
	var block [64]events.Record
	now, i := start, 0
	b.ReportAllocs()
	for b.Loop() {
		r := &block[i%len(block)]
		*r = events.Record{Request: events.Request{ID: "1", Tenant: "acme", Gateway: "g", User: user(i), Method: "GET", Path: "/api/order/history/"}}
		d.Check(r)
		if i++; i%len(block) == 0 {
			now = now.Add(apart)
			_ = d.Decide(b.Context(), now)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "decisions/s")
}
