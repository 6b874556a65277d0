package backtest_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/internal/backtest"
	decider "github.com/weirhq/weir/internal/decide"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/window"
)

// past are records as a limiter makes them, which decides under a policy.
type past struct {
	t       failer
	decider *decider.Decider
	records []events.Record
}

func newPast(t failer, p *policy.Policy) *past {
	return &past{t: t, decider: decider.New(p, window.NewMemory())}
}

func (p *past) decide(r events.Request, at time.Time, add func(*events.Record)) *events.Decision {
	r.ID, r.Tenant, r.Gateway = fmt.Sprint("r", len(p.records)), "acme", "g"
	rec := events.Record{Request: r}
	add(&rec)
	if err := p.decider.Decide(p.t.Context(), at); err != nil {
		p.t.Fatal(err)
	}
	p.records = append(p.records, rec)
	return &p.records[len(p.records)-1].Decision
}

func (p *past) check(r events.Request, at time.Time) *events.Decision {
	return p.decide(r, at, p.decider.Check)
}

func (p *past) report(r events.Request, at time.Time) *events.Decision {
	return p.decide(r, at, func(rec *events.Record) { p.decider.Report(rec, false) })
}

func (p *past) control(c events.Control) {
	c.Tenant = "acme"
	if err := p.decider.Apply(context.Background(), &c); err != nil {
		p.t.Fatal(err)
	}
	p.records = append(p.records, events.Record{Control: &c})
}

func history(t failer, p *policy.Policy, from time.Time, records []events.Record) *backtest.Report {
	t.Helper()
	b, err := backtest.NewHistory(p, "acme", from)
	if err != nil {
		t.Fatal(err)
	}
	for i := range records {
		if err := b.Record(&records[i]); err != nil {
			t.Fatal(err)
		}
	}
	r, err := b.Decide(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// drawPast are requests of a while, with what was done by hand between them and
// what their gateway denied itself.
func drawPast(t *rapid.T, p *policy.Policy) *past {
	past, at := newPast(t, p), noon
	for range rapid.IntRange(1, 80).Draw(t, "records") {
		at = at.Add(time.Duration(rapid.IntRange(0, 6).Draw(t, "later")) * 250 * time.Millisecond)
		user := rapid.SampledFrom([]string{"ann", "bob"}).Draw(t, "user")
		switch rapid.IntRange(0, 9).Draw(t, "what") {
		case 0:
			past.control(events.Control{Kind: events.ControlReset, Rule: "user", Key: user, At: at})
		case 1:
			past.control(events.Control{Kind: events.ControlOverride, Rule: "user", Key: user, At: at, Limit: rapid.Int64Range(0, 9).Draw(t, "limit"),
				WindowMS: 2000, Until: at.Add(3 * time.Second)})
		case 2:
			past.control(events.Control{Kind: events.ControlLift, Rule: "user", Key: user, At: at})
		default:
			r := events.Request{User: user, Path: "/x/1", Method: "GET", Cost: rapid.Int64Range(1, 2).Draw(t, "cost")}
			if d := past.check(r, at); d.Verdict == events.Deny && d.RetryAfterMS > 1 {
				r.Verdict, r.Reason, r.Rule, r.Time = events.Deny, events.ReasonLocal, d.Rule, at
				r.Count = rapid.Int64Range(1, 5).Draw(t, "count")
				past.report(r, at.Add(time.Duration(rapid.IntRange(0, 1).Draw(t, "waits"))*time.Second))
			}
		}
	}
	past.check(events.Request{User: "ann"}, at.Add(time.Second))
	return past
}

// The policy that decided changes nothing: all is decided as it was, what was done
// by hand included.
func TestTheSamePolicyChangesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawLimits(t).policy(t)
		from := noon.Add(time.Duration(rapid.IntRange(0, 6).Draw(t, "from")) * 500 * time.Millisecond)
		records := drawPast(t, p).records
		if last := records[len(records)-1].Decision.DecidedAt; last.Before(from) {
			from = last
		}
		r := history(t, p, from, records)
		if r.NewlyDenied+r.NewlyAdmitted != 0 || r.Same != r.Requests || len(r.Rules[0].Changed) != 0 {
			t.Fatalf("%+v", *r.History)
		}
	})
}

// What changes under another policy is what a limiter decides that has had it all
// along.
func TestChangesAgainstALimiter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		past := drawPast(t, drawLimits(t).policy(t))
		p := drawLimits(t).policy(t)
		other := newPast(t, p)
		var want backtest.Changes
		was, keys := map[string]int64{}, map[string]int64{}
		for _, rec := range past.records {
			if rec.Control != nil {
				other.control(*rec.Control)
				continue
			}
			at, count := rec.Decision.DecidedAt, max(rec.Request.Count, 1)
			if rec.Decision.Reason == events.ReasonLocal {
				at = rec.Request.Time
			}
			for range count {
				r := rec.Request
				r.Verdict, r.Reason, r.Rule, r.Count = "", "", "", 0
				d := other.check(r, at)
				if rec.Decision.Verdict == events.Deny {
					was[rec.Decision.Rule]++
				}
				switch d.Verdict {
				case rec.Decision.Verdict:
					want.Same++
				case events.Deny:
					want.NewlyDenied++
				default:
					want.NewlyAdmitted++
					keys[rec.Decision.Key]++
				}
			}
		}
		r := history(t, p, noon, past.records)
		got := r.Changes
		got.FirstNewlyDenied, got.LastNewlyDenied = time.Time{}, time.Time{}
		if got != want {
			t.Fatalf("got  %+v\nwant %+v", got, want)
		}
		for _, w := range r.Then {
			if w.Denied != was[w.Rule] {
				t.Fatalf("rule %s denied %d, want %d", w.Rule, w.Denied, was[w.Rule])
			}
			for _, k := range w.Top {
				keys[k.Key] -= k.NewlyAdmitted
			}
		}
		for key, n := range keys {
			if n != 0 {
				t.Fatalf("key %s is newly admitted %d times more", key, n)
			}
		}
	})
}

func TestHistory(t *testing.T) {
	strict := parse(t, "{ name: old, limit: 2 per 10s, key: [ip] }")
	loose := parse(t, "{ name: new, limit: 3 per 10s, key: [ip] }", "{ name: user, limit: 1 per 10s, key: [user] }",
		"{ name: idea, limit: 1/min, key: [ip], mode: shadow }")
	p := newPast(t, strict)
	one, two := events.Request{IP: client(1), User: "ann"}, events.Request{IP: client(2)}
	p.check(two, at(0))
	p.check(two, at(1))
	p.check(two, at(2)) // denied
	local := two
	local.Verdict, local.Reason, local.Rule, local.Count, local.Time = events.Deny, events.ReasonLocal, "old", 4, at(3)
	p.report(local, at(4))
	p.check(one, at(5))
	p.check(one, at(6))
	late := two
	late.Time = at(-100)
	p.report(late, at(7))
	timeout := two
	timeout.Verdict, timeout.Reason, timeout.Time = events.Allow, events.ReasonTimeout, at(8)
	p.report(timeout, at(9))
	p.records[len(p.records)-1].Request.ID = "r0" // decided after all
	p.records = append(p.records, events.Record{Refused: &events.Refusal{Subject: "s", At: at(9)}})

	r := history(t, loose, at(0), p.records)
	if r.Requests != 9 || r.Denied != 5 || r.Admitted != 4 || r.Late != 1 || r.Twice != 1 {
		t.Errorf("%+v", r)
	}
	if want := (backtest.Changes{Same: 7, NewlyDenied: 1, NewlyAdmitted: 1, FirstNewlyDenied: at(6), LastNewlyDenied: at(6)}); r.Changes != want {
		t.Errorf("got  %+v\nwant %+v", r.Changes, want)
	}
	if want := []backtest.Was{{Rule: "old", Denied: 5, NewlyAdmitted: 1, Keys: 1, KeysNewlyAdmitted: 1,
		Top: []backtest.WasKey{{Key: "10.0.0.2", Denied: 5, NewlyAdmitted: 1}}}}; !reflect.DeepEqual(r.Then, want) {
		t.Errorf("got  %+v\nwant %+v", r.Then, want)
	}
	byIP, byUser, idea := r.Rules[0], r.Rules[1], r.Rules[2]
	if byIP.NewlyDenied != 0 || byIP.NewlyAdmitted != 1 || byIP.Denied != 4 || byIP.DeniedByOthers != 1 || byIP.KeysChanged != 1 {
		t.Errorf("%+v, %+v", byIP, byIP.RuleChanges)
	}
	if byUser.NewlyDenied != 1 || byUser.FirstKey != "ann" || byUser.KeysNewlyDenied != 1 || byUser.Changed[0].Changes.FirstNewlyDenied != at(6) {
		t.Errorf("%+v, %+v", byUser, byUser.RuleChanges)
	}
	if idea.NewlyDenied != 2 || idea.NewlyAdmitted != 0 || idea.KeysNewlyDenied != 2 {
		t.Errorf("%+v, %+v", idea, idea.RuleChanges)
	}
	r.Source = "journal"
	want := `9 requests of tenant acme, 2026-03-01 12:00:00 to 2026-03-01 12:00:06 UTC
4 admitted, 5 denied (55.6%), 0 exempt, 0 without a rule; from the journal
1 newly denied (11.1%), 1 newly admitted (11.1%), 7 as they were decided
Left out: 1 report that came more than a window late

  RULE               LIMIT  REQUESTS  DENIED  SHARE  BY OTHERS  NEWLY DENIED  NEWLY ADMITTED  KEYS DENIED  LIMIT FOR ALL
  new            3 per 10s         9       4  44.4%          1             0               1       1 of 2      7 per 10s
  user           1 per 10s         2       1  50.0%          0             1               0       1 of 1      2 per 10s
  idea (shadow)      1/min         9       7  77.8%          0             2               0       2 of 2          7/min

Rule new admits more to 1 key:
  KEY       SAME  NEWLY DENIED  NEWLY ADMITTED  FIRST DENIED  LAST DENIED  HIGHEST USE
  10.0.0.2     6             0               1             -            -            7

Rule user newly denies 1 key, ann first at Mar  1 12:00:06:
  KEY  SAME  NEWLY DENIED  NEWLY ADMITTED     FIRST DENIED      LAST DENIED  HIGHEST USE
  ann     1             1               0  Mar  1 12:00:06  Mar  1 12:00:06            2

Rule idea would newly deny 2 keys, 10.0.0.2 first at Mar  1 12:00:01:
  KEY       SAME  NEWLY DENIED  NEWLY ADMITTED     FIRST DENIED      LAST DENIED  HIGHEST USE
  10.0.0.1     1             1               0  Mar  1 12:00:06  Mar  1 12:00:06            2
  10.0.0.2     6             1               0  Mar  1 12:00:01  Mar  1 12:00:01            7

What was denied then:
  RULE  DENIED THEN  STILL DENIED  NEWLY ADMITTED  KEYS ADMITTED MORE
  old             5             4               1              1 of 1
`
	if got := text(t, r); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

// What was admitted before the time asked for fills the windows and is not counted.
func TestHistoryBegins(t *testing.T) {
	p := parse(t, "{ name: r, limit: 2 per 10s, key: [user] }")
	past := newPast(t, p)
	for i := range 4 {
		past.check(events.Request{User: "ann"}, at(i))
	}
	past.check(events.Request{User: "bob"}, at(1))
	r := history(t, p, at(2), past.records[:4])
	if r.Requests != 2 || r.Denied != 2 || r.Same != 2 || r.First != at(2) || r.Rules[0].Keys != 1 || r.Rules[0].LimitForAll != 4 {
		t.Errorf("%+v", r)
	}
	b, err := backtest.NewHistory(p, "acme", at(100))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Record(&past.records[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Decide(t.Context(), 1); !errors.Is(err, backtest.ErrEmpty) {
		t.Errorf("got %v", err)
	}
}

// Windows begin also with what was denied if a rule counts that, and with what shadow
// rules would have admitted.
func TestHistoryBeginsWithMore(t *testing.T) {
	p := parse(t, "{ name: strict, limit: 2 per 10s, key: [user], count_denied: true }", "{ name: idea, limit: 3 per 20s, key: [user], mode: shadow }")
	past := newPast(t, p)
	for _, second := range []int{0, 1, 2, 9, 11} {
		past.check(events.Request{User: "ann"}, at(second))
	}
	r := history(t, p, at(11), past.records)
	if r.Same != 1 || r.Denied != 1 || r.Rules[0].Denied != 1 || r.Rules[1].Denied != 1 {
		t.Errorf("%+v", r)
	}
}

// What a gateway did counts when it did it, unless that was long before.
func TestWhenItWasAsked(t *testing.T) {
	p := newPast(t, policy.Default())
	r := events.Request{User: "ann", Verdict: events.Deny, Reason: events.ReasonLocal, Rule: "per-minute"}
	for _, ago := range []int{2, 60, 61} {
		r.Time = at(100 - ago)
		p.report(r, at(100))
	}
	if got := history(t, policy.Default(), at(0), p.records); got.First != at(40) || got.Last != at(100) {
		t.Errorf("%v to %v", got.First, got.Last)
	}
}

// Of a tenant that is not named there may be no other.
func TestHistoryOfTheOnlyTenant(t *testing.T) {
	p := policy.Default()
	past := newPast(t, p)
	past.check(events.Request{User: "ann"}, at(0))
	past.check(events.Request{User: "ann"}, at(0))
	b, err := backtest.NewHistory(p, "", at(0))
	if err != nil {
		t.Fatal(err)
	}
	past.records[1].Request.Tenant = "beta"
	if err := b.Record(&past.records[0]); err != nil {
		t.Fatal(err)
	}
	if err := b.Record(&past.records[1]); err == nil || !strings.Contains(err.Error(), "of one tenant, found those of acme and beta") {
		t.Errorf("got %v", err)
	}
	r, err := b.Decide(t.Context(), 1)
	if err != nil || r.Tenant != "acme" || r.Rules[0].Admitted != 1 {
		t.Errorf("%+v, %v", r, err)
	}
}

// A fold is not decided one by one for longer than it makes a difference.
func TestLargeFolds(t *testing.T) {
	p := newPast(t, parse(t, "{ name: r, limit: 2/s, key: [user] }"))
	r := events.Request{User: "ann", Verdict: events.Deny, Reason: events.ReasonLocal, Rule: "r", Count: events.MaxCount}
	p.report(r, at(0))
	for rules, denied := range map[string]int64{
		"{ name: r, limit: 5/s, key: [user] }":                     events.MaxCount - 5,
		"{ name: r, limit: 5/s, key: [user], count_denied: true }": events.MaxCount - 5,
		"{ name: r, limit: 0, key: [user] }":                       events.MaxCount,
	} {
		if got := history(t, parse(t, rules), at(0), p.records); got.Denied != denied || got.Requests != events.MaxCount {
			t.Errorf("%s: %+v", rules, got)
		}
	}
}
