package decide_test

import (
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/internal/decide"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/window"
)

// control makes what is done by hand to a key of rule r.
func control(kind events.ControlKind, at time.Duration, key string) *events.Control {
	return &events.Control{Kind: kind, ID: "c", Tenant: "acme", Rule: "r", Key: key, By: "ann", At: start.Add(at)}
}

func override(at time.Duration, key string, limit int64, window, until time.Duration) *events.Control {
	c := control(events.ControlOverride, at, key)
	c.Limit, c.WindowMS, c.Until = limit, window.Milliseconds(), start.Add(until)
	return c
}

func mustApply(tb testing.TB, d *decide.Decider, c *events.Control) {
	tb.Helper()
	if err := d.Apply(tb.Context(), c); err != nil {
		tb.Fatal(err)
	}
}

func mustExplain(tb testing.TB, d *decide.Decider, at time.Duration, r events.Request) events.Explanation {
	tb.Helper()
	r.Tenant = "acme"
	x, err := d.Explain(tb.Context(), start.Add(at), &r)
	if err != nil {
		tb.Fatal(err)
	}
	return x
}

func TestResetFreesAtOnce(t *testing.T) {
	t.Parallel()
	d := decide.New(mustParse(t, withRules("name: r, limit: 2/min, key: [user]", "name: other, limit: 9/min, key: [user]")), window.NewMemory())
	for range 3 {
		check(d, 0, events.Request{User: "42"})
		check(d, 0, events.Request{User: "7"})
	}
	mustApply(t, d, control(events.ControlReset, 0, "42"))
	if r := check(d, 0, events.Request{User: "42"}); r.Decision.Verdict != events.Allow || r.Charges[0].Remaining != 1 || r.Charges[1].Remaining != 6 {
		t.Errorf("after the reset: %+v", r)
	}
	if r := check(d, 0, events.Request{User: "7"}); r.Decision.Verdict != events.Deny {
		t.Errorf("another key: %+v", r.Decision)
	}
}

// An override applies up to the very instant that it ends, before those of the
// policy, and what was used under it counts afterwards.
func TestOverrideByHand(t *testing.T) {
	t.Parallel()
	d := decide.New(mustParse(t, withRules(
		"name: r, limit: 2/min, key: [user], overrides: [{key: [banned], limit: 0}, {key: [free], limit: unlimited}]")), window.NewMemory())
	for _, user := range []string{"42", "banned", "free"} {
		mustApply(t, d, override(0, user, 4, time.Hour, 30*time.Second))
		for i, want := range []events.Verdict{events.Allow, events.Allow, events.Allow, events.Allow, events.Deny} {
			r := check(d, 30*time.Second-time.Microsecond, events.Request{User: user})
			if r.Decision.Verdict != want || r.Decision.Limit != 4 || r.Decision.WindowMS != time.Hour.Milliseconds() || r.Decision.Cost != 1 {
				t.Fatalf("%s, request %d: %+v", user, i+1, r.Decision)
			}
		}
	}
	for user, want := range map[string]events.Decision{
		"42":     {Verdict: events.Deny, Limit: 2, RetryAfterMS: 60_000},
		"banned": {Verdict: events.Deny},
		"free":   {Verdict: events.Allow},
	} {
		got := check(d, 30*time.Second, events.Request{User: user}).Decision
		if got.Verdict != want.Verdict || got.Limit != want.Limit || got.RetryAfterMS != want.RetryAfterMS {
			t.Errorf("%s when it ends: %+v", user, got)
		}
	}
	mustApply(t, d, override(0, "42", 0, time.Second, time.Hour))
	if got := check(d, 40*time.Second, events.Request{User: "42", Peek: true}).Decision; got.Verdict != events.Deny || got.RetryAfterMS != (time.Hour-40*time.Second).Milliseconds() {
		t.Errorf("banned by hand: %+v", got)
	}
	mustApply(t, d, control(events.ControlLift, 0, "42"))
	if got := check(d, 2*time.Minute, events.Request{User: "42"}).Decision; got.Verdict != events.Allow || got.Limit != 2 {
		t.Errorf("lifted: %+v", got)
	}
	if list := d.Overrides(start.Add(2 * time.Minute)); len(list) != 0 {
		t.Errorf("in force: %+v", list)
	}
}

// What is in force can be taken to another decider, and is the same there.
func TestOverridesTravel(t *testing.T) {
	t.Parallel()
	p := mustParse(t, withRules("name: r, limit: 2/min, key: [user]"))
	d := decide.New(p, window.NewMemory())
	mustApply(t, d, override(2, "42", 4, time.Hour, time.Minute))
	mustApply(t, d, override(1, "7", 5, time.Hour, time.Hour))
	mustApply(t, d, override(3, "8", 5, time.Hour, time.Second))
	list := d.Overrides(start.Add(time.Second))
	if len(list) != 2 || list[0].Key != "7" || list[1].Key != "42" {
		t.Fatalf("in force: %+v", list)
	}
	other := decide.New(p, window.NewMemory())
	for i := range list {
		mustApply(t, other, &list[i])
	}
	if got := other.Overrides(start.Add(time.Second)); !reflect.DeepEqual(got, list) {
		t.Errorf("in force in the other: %+v\nwant %+v", got, list)
	}
	if got := check(other, time.Second, events.Request{User: "42"}).Decision; got.Limit != 4 {
		t.Errorf("decided by the other: %+v", got)
	}
}

// What the journal holds of resets and overrides is again what it was.
func TestReplayOfControls(t *testing.T) {
	t.Parallel()
	p := mustParse(t, withRules("name: r, limit: 3 per 10s, key: [user]", "name: o, limit: 5 per 10s, key: [user]"))
	rapid.Check(t, func(rt *rapid.T) {
		d := decide.New(p, window.NewMemory())
		var at time.Duration
		var lines []string
		for range rapid.IntRange(1, 40).Draw(rt, "records") {
			at += time.Duration(rapid.IntRange(0, 3_000).Draw(rt, "wait")) * time.Millisecond
			user := rapid.SampledFrom([]string{"1", "2"}).Draw(rt, "user")
			r := events.Record{}
			switch rapid.IntRange(0, 9).Draw(rt, "kind") {
			case 0:
				r.Control = control(events.ControlReset, at, user)
			case 1:
				r.Control = override(at, user, rapid.Int64Range(0, 6).Draw(rt, "limit"), 10*time.Second, at+12*time.Second)
			case 2:
				r.Control = control(events.ControlLift, at, user)
			default:
				r = check(d, at, events.Request{User: user})
			}
			if r.Control != nil {
				mustApply(t, d, r.Control)
			}
			lines = append(lines, string(events.AppendRecord(nil, &r)))
		}
		again := decide.New(p, window.NewMemory())
		for _, line := range lines {
			var r events.Record
			if err := events.DecodeRecord(line, &r); err != nil {
				rt.Fatal(err)
			}
			again.Replay(&r)
		}
		for _, user := range []string{"1", "2"} {
			for range 8 {
				if a, b := check(d, at, events.Request{User: user}), check(again, at, events.Request{User: user}); !reflect.DeepEqual(a, b) {
					rt.Fatalf("decided %+v\nafter replay %+v", a, b)
				}
			}
		}
		if a, b := d.Overrides(start.Add(at)), again.Overrides(start.Add(at)); len(a) != len(b) {
			rt.Fatalf("in force %+v\nafter replay %+v", a, b)
		}
	})
}

func TestExplain(t *testing.T) {
	t.Parallel()
	windows := window.NewMemory()
	d := decide.New(mustParse(t, withRules(
		"name: r, limit: 3/min, key: [user]", "name: posts, limit: 9/min, key: [user], match: {methods: [POST]}",
		"name: s, limit: 1/min, key: [user], mode: shadow", "name: b, limit: 100/min, key: [method], algorithm: buckets")), windows)
	mustApply(t, d, override(0, "42", 5, time.Minute, time.Hour))
	check(d, 0, events.Request{User: "42", Method: "GET", Cost: 4})
	x := mustExplain(t, d, 10*time.Second, events.Request{ID: "x", User: "42", Method: "GET", Cost: 2})
	want := []events.ExplainedRule{
		{Rule: "r", Charge: &events.ExplainedCharge{Key: "42", Limit: 5, WindowMS: 60_000, Cost: 2, Used: 4, Remaining: 1, ResetMS: 50_000, RetryAfterMS: 50_000,
			Override: events.OverrideCommand, Until: start.Add(time.Hour)}},
		{Rule: "posts", Why: `methods: want POST, found "GET"`},
		{Rule: "s", Mode: events.ModeShadow, Charge: &events.ExplainedCharge{Key: "42", Limit: 1, WindowMS: 60_000, Cost: 2, Remaining: 1}},
		{Rule: "b", Charge: &events.ExplainedCharge{Key: "GET", Limit: 100, WindowMS: 60_000, Buckets: 60, Cost: 2, Used: 4, Remaining: 96, ResetMS: 51_000, Passes: true}},
	}
	if !reflect.DeepEqual(x.Rules, want) {
		for i := range x.Rules {
			t.Errorf("%+v %+v", x.Rules[i], x.Rules[i].Charge)
		}
	}
	if dec := x.Decision; dec.ID != "x" || dec.Verdict != events.Deny || dec.Reason != events.ReasonRule || dec.Rule != "r" || dec.RetryAfterMS != 50_000 || !slices.Equal(dec.Shadow, []string{"s"}) {
		t.Errorf("%+v", dec)
	}
	if n := windows.Len(); n != 2 { // s has had no room
		t.Errorf("%d keys", n)
	}
	for i := range 1000 {
		mustExplain(t, d, 10*time.Second, events.Request{User: fmt.Sprint("peeked ", i), Method: "GET"})
	}
	if n := windows.Len(); n != 2 {
		t.Errorf("%d keys after many explains, want no more", n)
	}
}

// Whatever came before, an explain charges nothing and says what a check at the
// same instant then decides.
func TestExplainIsWhatCheckDecides(t *testing.T) {
	t.Parallel()
	const rules = 6
	p := mustParse(t, withRules("name: r, limit: 3 per 10s, key: [user]", "name: b, limit: 7/min, key: [method], algorithm: buckets",
		"name: c, limit: 9/min, key: [user], count_denied: true", "name: s, limit: 2 per 10s, key: [user], mode: shadow",
		"name: sc, limit: 4 per 10s, key: [method], mode: shadow, count_denied: true, cost: request.cost * 2",
		"name: o, limit: 5/min, key: [user], exempt: {methods: [PUT]}, overrides: [{key: [\"1\"], limit: 0}, {key: [\"2\"], limit: unlimited}]"))
	rapid.Check(t, func(rt *rapid.T) {
		d, plain := decide.New(p, window.NewMemory()), decide.New(p, window.NewMemory())
		var at time.Duration
		for range rapid.IntRange(1, 60).Draw(rt, "requests") {
			at += time.Duration(rapid.IntRange(0, 8_000).Draw(rt, "wait")) * time.Millisecond
			key := rapid.SampledFrom([]string{"1", "2", "3"}).Draw(rt, "key")
			switch rapid.IntRange(0, 9).Draw(rt, "by hand") {
			case 0:
				mustApply(t, d, control(events.ControlReset, at, key))
				mustApply(t, plain, control(events.ControlReset, at, key))
			case 1:
				c := override(at, key, rapid.Int64Range(0, 9).Draw(rt, "limit"), time.Duration(rapid.IntRange(1, 20).Draw(rt, "window"))*time.Second, at+7*time.Second)
				mustApply(t, d, c)
				mustApply(t, plain, c)
			}
			r := events.Request{
				User:   rapid.SampledFrom([]string{"", "1", "2", "3"}).Draw(rt, "user"),
				Method: rapid.SampledFrom([]string{"", "GET", "PUT"}).Draw(rt, "method"),
				Cost:   rapid.Int64Range(0, 4).Draw(rt, "cost"), Peek: rapid.Bool().Draw(rt, "peek"),
			}
			x := mustExplain(t, d, at, r)
			got, want := check(d, at, r), check(plain, at, r)
			if !reflect.DeepEqual(got, want) {
				rt.Fatalf("at %v: an explain has changed %+v\nto %+v", at, want, got)
			}
			dec := got.Decision
			if dec.Verdict == events.Deny { // which itself may count: only what was so before is told
				if x.Decision.Verdict != dec.Verdict || x.Decision.Reason != dec.Reason || !slices.Equal(x.Decision.Shadow, dec.Shadow) {
					rt.Fatalf("at %v: explained %+v\ndecided %+v", at, x.Decision, dec)
				}
			} else if !reflect.DeepEqual(x.Decision, dec) {
				rt.Fatalf("at %v: explained %+v\ndecided %+v", at, x.Decision, dec)
			}
			charged := 0
			for _, rule := range x.Rules {
				if (rule.Charge == nil) == (rule.Why == "") {
					rt.Fatalf("%+v", rule)
				}
				if rule.Charge != nil {
					charged++
				}
			}
			if len(x.Rules) != rules || charged != len(charges(&got)) {
				rt.Fatalf("at %v: %d rules explained, %d of them charged; the record has %d", at, len(x.Rules), charged, len(charges(&got)))
			}
		}
	})
}
