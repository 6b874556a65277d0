package backtest_test

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/internal/backtest"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
)

// limits are those of the three rules of a policy: by user; by path and
// method below /x, without POST; and by an attribute.
type limits [3]struct {
	units  int64
	window time.Duration
}

var ruleNames = [3]string{"user", "path", "plan"}

func (l limits) policy(t failer) *policy.Policy {
	limit := func(i int) string { return fmt.Sprintf("%d per %ds", l[i].units, l[i].window/time.Second) }
	return parse(t,
		"{ name: user, limit: "+limit(0)+", key: [user] }",
		"{ name: path, limit: "+limit(1)+", key: [path, method], match: { paths: [\"/x/**\"] }, exempt: { methods: [POST] } }",
		"{ name: plan, limit: "+limit(2)+", key: [attrs.plan] }")
}

// plans tells which attrs name which plan.
var plans = map[string]string{"": "", `{"other":1,"plan":"free"}`: "free", `{"plan": "paid"}`: "paid"}

// keys returns what the rules count a request by, as the policy above has it.
func keys(r *events.Request) (keys [3]string) {
	keys[0] = r.User
	if strings.HasPrefix(r.Path, "/x/") && r.Method != "POST" {
		keys[1] = fmt.Sprintf("[%q,%q]", r.Path, strings.ToUpper(r.Method))
	}
	keys[2] = plans[r.Attrs]
	return keys
}

func drawLimits(t *rapid.T) (l limits) {
	for i := range l {
		l[i].units = rapid.Int64Range(1, 6).Draw(t, "limit")
		l[i].window = time.Duration(rapid.Int64Range(1, 5).Draw(t, "window")) * time.Second
	}
	return l
}

func drawRequests(t *rapid.T) []events.Request {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) events.Request {
		cost := rapid.Int64Range(0, 3).Draw(t, "cost")
		return events.Request{
			Time:   noon.Add(time.Duration(rapid.IntRange(0, 24).Draw(t, "time")) * 500 * time.Millisecond),
			User:   rapid.SampledFrom([]string{"", "ann", "bob"}).Draw(t, "user"),
			Method: rapid.SampledFrom([]string{"GET", "get", "POST"}).Draw(t, "method"),
			Path:   rapid.SampledFrom([]string{"/x/1", "/x/2", "/y"}).Draw(t, "path"),
			Attrs:  rapid.SampledFrom(slices.Sorted(maps.Keys(plans))).Draw(t, "attrs"),
			Cost:   cost,
			Peek:   cost == 0,
		}
	}), 1, 60).Draw(t, "requests")
}

func decide(t failer, p *policy.Policy, requests []events.Request) *backtest.Report {
	b := begin(t, p)
	for i := range requests {
		if err := b.Add(&requests[i]); err != nil {
			t.Fatal(err)
		}
	}
	report, err := b.Decide(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// claim is what a request asked of one key, and what it was charged.
type claim struct {
	at    time.Time
	asked int64
	given int64
}

func sum(claims []claim, after time.Time, of func(claim) int64) (units int64) {
	for _, c := range claims {
		if c.at.After(after) {
			units += of(c)
		}
	}
	return units
}

// oracle does it all again, slowly and for the three rules alone.
func oracle(l limits, requests []events.Request) *backtest.Report {
	requests = slices.Clone(requests)
	slices.SortStableFunc(requests, func(a, b events.Request) int { return a.Time.Compare(b.Time) })
	report := &backtest.Report{
		Tenant: "acme", Requests: int64(len(requests)), First: requests[0].Time, Last: requests[len(requests)-1].Time,
	}
	claims, found := [3]map[string][]claim{}, [3]map[string]*backtest.Key{}
	for i := range l {
		claims[i], found[i] = map[string][]claim{}, map[string]*backtest.Key{}
	}
	for _, r := range requests {
		keys, room, refused := keys(&r), [3]bool{}, 0
		for i, key := range keys {
			used := sum(claims[i][key], r.Time.Add(-l[i].window), func(c claim) int64 { return c.given })
			if room[i] = used+r.Cost <= l[i].units; !room[i] && key != "" {
				refused++
			}
		}
		switch {
		case keys == [3]string{} && strings.HasPrefix(r.Path, "/x/"):
			report.Exempt++
		case keys == [3]string{}:
			report.NoRule++
		case refused > 0:
			report.Denied++
		default:
			report.Admitted++
		}
		for i, key := range keys {
			if key == "" {
				continue
			}
			c := claim{at: r.Time, asked: r.Cost}
			if refused == 0 {
				c.given = r.Cost
			}
			claims[i][key] = append(claims[i][key], c)
			if found[i][key] == nil {
				found[i][key] = &backtest.Key{Key: key}
			}
			k := found[i][key]
			k.HighestUse = max(k.HighestUse, sum(claims[i][key], r.Time.Add(-l[i].window), func(c claim) int64 { return c.asked }))
			switch {
			case refused == 0:
				k.Admitted++
			case room[i]:
				k.DeniedByOthers++
			default:
				k.Denied++
				if k.FirstDenied.IsZero() {
					k.FirstDenied = r.Time
				}
				k.LastDenied = r.Time
			}
		}
	}
	for i, name := range ruleNames {
		rule := backtest.Rule{Tenant: "acme", Rule: name, Limit: l[i].units, WindowMS: l[i].window.Milliseconds(), Keys: int64(len(found[i]))}
		for _, k := range found[i] {
			rule.Top = append(rule.Top, *k)
			rule.Admitted += k.Admitted
			rule.Denied += k.Denied
			rule.DeniedByOthers += k.DeniedByOthers
			rule.LimitForAll = max(rule.LimitForAll, k.HighestUse)
			if k.Denied > 0 {
				rule.KeysDenied++
			}
		}
		slices.SortFunc(rule.Top, func(a, b backtest.Key) int {
			return cmp.Or(cmp.Compare(b.Denied, a.Denied), cmp.Compare(a.Key, b.Key))
		})
		report.Rules = append(report.Rules, rule)
	}
	return report
}

func TestAgainstOracle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, requests := drawLimits(t), drawRequests(t)
		got, want := fmt.Sprintf("%+v", decide(t, l.policy(t), requests)), fmt.Sprintf("%+v", oracle(l, requests))
		if got != want {
			t.Fatalf("got  %s\nwant %s", got, want)
		}
	})
}

// With the limits that are said to be enough nobody is denied; with one unit
// less of one of them somebody is, and by that rule.
func TestLimitForAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, requests := drawLimits(t), drawRequests(t)
		report := decide(t, l.policy(t), requests)
		for i := range l {
			l[i].units = max(1, report.Rules[i].LimitForAll)
		}
		if got := decide(t, l.policy(t), requests); got.Denied > 0 {
			t.Fatalf("%d denied: %+v", got.Denied, got)
		}
		for i := range l {
			if l[i].units == 1 {
				continue // a policy cannot say less
			}
			less := l
			less[i].units--
			if got := decide(t, less.policy(t), requests); got.Rules[i].Denied == 0 {
				t.Fatalf("%d of rule %s deny nobody: %+v", less[i].units, ruleNames[i], got)
			}
		}
	})
}
