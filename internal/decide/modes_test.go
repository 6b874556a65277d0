package decide_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/internal/decide"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/window"
)

func withRules(rules ...string) string {
	return "version: 1\ntenants:\n  \"*\":\n    rules:\n      - {" + strings.Join(rules, "}\n      - {") + "}\n"
}

func TestShadowNeverDenies(t *testing.T) {
	t.Parallel()
	d := decide.New(mustParse(t, withRules(
		"name: tight, limit: 1/min, key: [user], mode: shadow", "name: real, limit: 2/min, key: [user]", "name: wide, limit: 9/min, key: [user], mode: shadow")), window.NewMemory())
	for i, want := range []struct {
		verdict events.Verdict
		shadow  []string
		wide    int64 // left in the shadow rule that denies nothing
	}{{events.Allow, nil, 8}, {events.Allow, []string{"tight"}, 8}, {events.Deny, []string{"tight"}, 8}} {
		r := check(d, 0, events.Request{User: "42"})
		dec := r.Decision
		if dec.Verdict != want.verdict || !slices.Equal(dec.Shadow, want.shadow) || dec.Rule != "real" || dec.Reason != events.ReasonRule {
			t.Errorf("request %d: %+v", i+1, dec)
		}
		if len(r.Charges) != 3 || r.Charges[0].Rule != "real" || r.Charges[0].Mode != "" || r.Charges[1].Mode != events.ModeShadow ||
			r.Charges[1].Denied != (i > 0) || r.Charges[2].Remaining != want.wide {
			t.Errorf("request %d: %+v", i+1, r.Charges)
		}
	}
	// The shadow rules go on as if there were no other: denied for real is not denied for them.
	r := check(d, time.Minute, events.Request{User: "42"})
	if r.Decision.Verdict != events.Allow || r.Decision.Shadow != nil {
		t.Errorf("a minute later: %+v", r)
	}
	d = decide.New(mustParse(t, withRules("name: real, limit: 0, key: [user]", "name: s, limit: 2/min, key: [user], mode: shadow")), window.NewMemory())
	for i := range 3 {
		if r := check(d, 0, events.Request{User: "42"}); r.Decision.Verdict != events.Deny || (len(r.Decision.Shadow) == 1) != (i == 2) {
			t.Errorf("banned, request %d: %+v", i+1, r.Decision)
		}
	}
	d = decide.New(mustParse(t, withRules("name: s, limit: 1/min, key: [user], mode: shadow")), window.NewMemory())
	for range 2 {
		r = check(d, 0, events.Request{User: "42"})
	}
	if dec := r.Decision; dec.Verdict != events.Allow || dec.Reason != events.ReasonNoRule || dec.Rule != "" || len(dec.Shadow) != 1 ||
		dec.Cost != 1 || len(r.Charges) != 1 || r.Charges[0].RetryAfterMS != 60_000 {
		t.Errorf("a shadow rule alone: %+v", r)
	}
}

// Whatever shadow rules are beside, the enforced ones decide as without them,
// and the shadow ones as a policy of their own would.
func TestShadowIsAPolicyOfItsOwn(t *testing.T) {
	t.Parallel()
	enforced := []string{"name: a, limit: 3 per 10s, key: [user]", "name: b, limit: 7/min, key: [method], count_denied: true"}
	shadow := []string{"name: c, limit: 2 per 10s, key: [user]", "name: d, limit: 9/min, key: [method]", "name: e, limit: 20/min, key: [ip]"}
	both := slices.Clone(enforced)
	for _, rule := range shadow {
		both = append(both, rule+", mode: shadow")
	}
	together, alone, other := mustParse(t, withRules(both...)), mustParse(t, withRules(enforced...)), mustParse(t, withRules(shadow...))
	rapid.Check(t, func(t *rapid.T) {
		x, y, z := decide.New(together, window.NewMemory()), decide.New(alone, window.NewMemory()), decide.New(other, window.NewMemory())
		var at time.Duration
		for range rapid.IntRange(1, 60).Draw(t, "requests") {
			at += time.Duration(rapid.IntRange(0, 8_000).Draw(t, "wait")) * time.Millisecond
			r := events.Request{
				User:   rapid.SampledFrom([]string{"", "1", "2"}).Draw(t, "user"),
				Method: rapid.SampledFrom([]string{"GET", "PUT"}).Draw(t, "method"),
				Cost:   rapid.Int64Range(0, 4).Draw(t, "cost"),
			}
			got, plain, shadowed := check(x, at, r), check(y, at, r), check(z, at, r)
			var names []string
			for _, c := range charges(&shadowed) {
				if c.Denied {
					names = append(names, c.Rule)
				}
			}
			if !slices.Equal(got.Decision.Shadow, names) {
				t.Fatalf("at %v: shadow %v, want %v", at, got.Decision.Shadow, names)
			}
			got.Decision.Shadow = nil
			if a, b := events.AppendDecision(nil, &got.Decision), events.AppendDecision(nil, &plain.Decision); string(a) != string(b) {
				t.Fatalf("at %v:\n%s, without shadow rules\n%s", at, a, b)
			}
		}
	})
}

// charges returns a record's charges, also of the one rule that its decision
// tells of.
func charges(r *events.Record) []events.Charge {
	if d := &r.Decision; len(r.Charges) == 0 && d.Rule != "" {
		return []events.Charge{{Rule: d.Rule, Denied: d.Verdict == events.Deny}}
	}
	return r.Charges
}

func TestDeniedRequestsCount(t *testing.T) {
	t.Parallel()
	d := decide.New(mustParse(t, withRules("name: r, limit: 2/min, key: [user], count_denied: true")), window.NewMemory())
	get := events.Request{User: "42"}
	for i := range 2 {
		if r := check(d, time.Duration(i)*time.Second, get); r.Decision.Verdict != events.Allow || r.Charges != nil {
			t.Fatalf("%+v", r)
		}
	}
	for i := range 100 {
		at := time.Duration(10+i) * time.Second // it never pauses
		r := check(d, at, get)
		if r.Decision.Verdict != events.Deny || len(r.Charges) != 1 || !r.Charges[0].Charged || !r.Charges[0].Denied || r.Charges[0].Cost != 1 {
			t.Fatalf("at %v: %+v", at, r)
		}
		if want := int64(59_000); i > 0 && r.Decision.RetryAfterMS != want {
			t.Fatalf("at %v: retry after %d ms, want %d: the denial before has a second of its minute behind it", at, r.Decision.RetryAfterMS, want)
		}
	}
	if r := check(d, 109*time.Second+59*time.Second-time.Microsecond, events.Request{User: "42", Peek: true}); r.Decision.Remaining != 0 {
		t.Errorf("1 µs early: %+v", r.Decision)
	}
	if r := check(d, 109*time.Second+59*time.Second, get); r.Decision.Verdict != events.Allow {
		t.Errorf("after the wait: %+v", r.Decision)
	}

	// Only the rules that say so are charged, and also when it is another that denies.
	d = decide.New(mustParse(t, withRules("name: free, limit: 5/min, key: [user]", "name: counts, limit: 3 per 2m, key: [user], count_denied: true", "name: denies, limit: 1/min, key: [user]")), window.NewMemory())
	check(d, 0, get)
	r := check(d, time.Second, get)
	if r.Decision.Rule != "denies" || r.Charges[0].Charged || r.Charges[0].Remaining != 4 || !r.Charges[1].Charged || r.Charges[1].Denied ||
		r.Charges[1].Remaining != 1 || r.Charges[2].Charged || r.Decision.RetryAfterMS != 59_000 {
		t.Errorf("%+v", r)
	}
	// The third fills the rule that counts: what has to be waited for is longer than the denial's own time.
	if r = check(d, 2*time.Second, get); r.Decision.Rule != "denies" || r.Decision.RetryAfterMS != 118_000 {
		t.Errorf("%+v", r)
	}
	if r := check(d, 119_999*time.Millisecond, events.Request{User: "42", Peek: true}); r.Charges[1].Remaining != 0 {
		t.Errorf("a millisecond early: %+v", r)
	}
	if r := check(d, 120*time.Second, get); r.Decision.Verdict != events.Allow {
		t.Errorf("after the wait: %+v", r)
	}
}

func TestBansAndOverrides(t *testing.T) {
	t.Parallel()
	d := decide.New(mustParse(t, withRules(
		`name: r, limit: 2/min, key: [user], count_denied: true, overrides: [{key: [banned], limit: 0}, {key: [paused], limit: 0, until: 2026-11-23T12:00:30Z},
          {key: [small], limit: 1/s, until: 2026-11-23T12:00:30Z}, {key: [brief], limit: 1/min, until: 2026-11-23T12:00:30Z}, {key: [free], limit: unlimited}, {key: [large], limit: 5/s}]`)), window.NewMemory())
	for _, c := range []struct {
		user    string
		at      time.Duration
		r       events.Request
		verdict events.Verdict
		reason  events.Reason
		limit   int64
		retryMS int64
	}{
		{"banned", 0, events.Request{}, events.Deny, events.ReasonRule, 0, 0},
		{"banned", 0, events.Request{Peek: true}, events.Deny, events.ReasonRule, 0, 0},
		{"paused", 0, events.Request{}, events.Deny, events.ReasonRule, 0, 30_000},
		{"small", 0, events.Request{Cost: 2}, events.Deny, events.ReasonRule, 1, 30_000},
		{"small", 0, events.Request{}, events.Deny, events.ReasonRule, 1, 1000}, // the denial counted
		{"free", 0, events.Request{Cost: 1000}, events.Allow, events.ReasonExempt, 0, 0},
		{"large", 0, events.Request{Cost: 5}, events.Allow, events.ReasonRule, 5, 0},
		{"x", 0, events.Request{Cost: 3}, events.Deny, events.ReasonRule, 2, 0},
		{"brief", 0, events.Request{}, events.Allow, events.ReasonRule, 1, 0},
		{"brief", 10 * time.Second, events.Request{}, events.Deny, events.ReasonRule, 1, 20_000}, // the override ends before its minute
		{"paused", 29_999 * time.Millisecond, events.Request{}, events.Deny, events.ReasonRule, 0, 1},
		{"paused", 30 * time.Second, events.Request{}, events.Allow, events.ReasonRule, 2, 0},
		{"small", 30 * time.Second, events.Request{}, events.Allow, events.ReasonRule, 2, 0},
		{"small", 30 * time.Second, events.Request{}, events.Deny, events.ReasonRule, 2, 60_000}, // what was used under the override is known
	} {
		c.r.User = c.user
		r := check(d, c.at, c.r)
		if dec := r.Decision; dec.Verdict != c.verdict || dec.Reason != c.reason || dec.Limit != c.limit || dec.RetryAfterMS != c.retryMS {
			t.Errorf("%s at %v: %+v", c.user, c.at, dec)
		}
	}
}

// In buckets an admission leaves with the last of its part of the window, and
// the record says that it was one in buckets.
func TestBuckets(t *testing.T) {
	t.Parallel()
	d := decide.New(mustParse(t, withRules("name: r, limit: 1/min, key: [user], algorithm: buckets")), window.NewMemory())
	get := events.Request{User: "42"}
	r := check(d, 0, get)
	if r.Decision.Verdict != events.Allow || len(r.Charges) != 1 || r.Charges[0].Buckets != policy.Buckets {
		t.Errorf("%+v", r)
	}
	left := time.Minute + time.Second - time.Microsecond // a part is a second
	if r := check(d, time.Minute, get); r.Decision.RetryAfterMS != 1000 {
		t.Errorf("after a minute: %+v", r)
	}
	if r := check(d, left-time.Microsecond, get); r.Decision.Verdict != events.Deny {
		t.Errorf("before it leaves: %+v", r)
	}
	if r := check(d, left, get); r.Decision.Verdict != events.Allow {
		t.Errorf("when it has left: %+v", r)
	}
}

// A report that a gateway made up its mind about concerns no shadow rule and
// counts as no denial.
func TestReportsOfWhatGatewaysDid(t *testing.T) {
	t.Parallel()
	d := decide.New(mustParse(t, withRules("name: r, limit: 1/min, key: [user], count_denied: true", "name: s, limit: 1/min, key: [user], mode: shadow")), window.NewMemory())
	for _, verdict := range []events.Verdict{events.Allow, events.Allow, events.Deny} {
		r := events.Record{Request: events.Request{Tenant: "acme", User: "42", Verdict: verdict}}
		d.Report(&r, false)
		if decideAt(d, 0); len(r.Charges) > 0 || len(r.Decision.Shadow) > 0 {
			t.Errorf("%+v", r)
		}
	}
	local := events.Record{Request: events.Request{Tenant: "acme", User: "42", Verdict: events.Deny, Reason: events.ReasonLocal, Rule: "r"}}
	d.Report(&local, false)
	decideAt(d, 0)
	want := events.Decision{Verdict: events.Deny, Reason: events.ReasonLocal, Rule: "r", Key: "42", Limit: 1, WindowMS: 60_000, Policy: 7, DecidedAt: start}
	if !reflect.DeepEqual(local.Decision, want) || len(local.Charges) > 0 {
		t.Errorf("%+v, want the rule named and nothing charged", local)
	}
	r := events.Record{Request: events.Request{Tenant: "acme", User: "42", Time: start.Add(-time.Minute - 1)}}
	d.Report(&r, false)
	if decideAt(d, 0); r.Decision.Reason != events.ReasonLate || len(r.Charges) > 0 {
		t.Errorf("%+v", r)
	}
	r = check(d, 0, events.Request{User: "42"})
	if r.Decision.RetryAfterMS != 60_000 || r.Decision.Shadow != nil {
		t.Errorf("%+v", r)
	}
}

func BenchmarkModes(b *testing.B) {
	for _, text := range []string{threeRules, everyMode} {
		p := mustParse(b, text)
		b.Run(fmt.Sprint(len(p.Rules("acme")), " rules"), func(b *testing.B) {
			benchmark(b, decide.New(p, window.NewMemory()), time.Second, func(int) string { return "42" })
		})
	}
}
