package policy_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
)

// quoted writes a text as YAML.
func quoted(t testing.TB, text string) string {
	t.Helper()
	b, err := json.Marshal(text)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestConditions(t *testing.T) {
	for condition, want := range map[string]bool{
		`true`:                                                                   true,
		`request.id == ""`:                                                       true,
		`has(request.id)`:                                                        false,
		`request.tenant == "acme"`:                                               true,
		`request.gateway.startsWith("edge-")`:                                    true,
		`request.user == "42" && has(request.user)`:                              true,
		`request.api_key.size() == 16`:                                           true,
		`request.ip == "192.0.2.77"`:                                             true,
		`cidr("192.0.2.0/24").containsIP(request.ip)`:                            true,
		`cidr("10.0.0.0/8").containsIP(request.ip)`:                              false,
		`request.method == "GET"`:                                                true,
		`request.host == "api.example.com"`:                                      true,
		`request.path.matches("^/api/v[0-9]+/")`:                                 true,
		`request.route.endsWith("{id}")`:                                         true,
		`request.cost == 1`:                                                      true,
		`request.time < timestamp("2026-01-01T00:00:00Z")`:                       false, // it has no time
		`!(request.time < timestamp("2026-01-01T00:00:00Z"))`:                    false,
		`has(request.time)`:                                                      false,
		`request.attrs.plan == "gold"`:                                           true,
		`request.attrs["plan"] in ["gold", "silver"]`:                            true,
		`request.attrs.plan != "internal"`:                                       true,
		`request.attrs.missing != "internal"`:                                    false, // it cannot be evaluated
		`!(request.attrs.missing == "x")`:                                        false,
		`!has(request.attrs.missing)`:                                            true,
		`"plan" in request.attrs`:                                                true,
		`"nalp" in request.attrs`:                                                false,
		`request.attrs.missing == "x" || request.attrs.plan == "gold"`:           true,
		`request.attrs.n > 12`:                                                   true,
		`request.attrs.n == 12.5`:                                                true,
		`request.attrs.whole * 2 == 14`:                                          true,
		`request.attrs.whole > 6.5`:                                              true,
		`request.attrs.large == 9007199254740993`:                                true,
		`request.attrs.huge > 1e30`:                                              true,
		`request.attrs.on`:                                                       true,
		`request.attrs.plan`:                                                     false, // not a truth value
		`request.attrs.none == null`:                                             true,
		`request.attrs.a.b.c == 'deep "<&>" é'`:                                  true,
		`has(request.attrs.a.b.c) && !has(request.attrs.a.b.d)`:                  true,
		`request.attrs.a.list.size() == 2`:                                       true,
		`request.attrs.a.list[0] == 1`:                                           true,
		`request.attrs.a.list[2] == 1`:                                           false,
		`request.attrs.a.list.exists(x, x == 1)`:                                 true,
		`request.attrs.a == {"b": {"c": 'deep "<&>" é'}, "list": [1, {"b": 2}]}`: true,
		`request.attrs.a.list == [1, {"b": 2}]`:                                  true,
		`request.attrs.size() == 11`:                                             true,
		`request.attrs.exists(k, k == "plan2")`:                                  true,
		`request.attrs.x == "last"`:                                              true,
		`request.attrs.plan.x == 1`:                                              false,
		`request.attrs.a[1] == 1`:                                                false,
		`type(request.attrs) == map`:                                             true,
		`string(request.attrs.whole) == "7"`:                                     true,
		`[1, 2].all(a, [3, 4].all(b, a < b))`:                                    true,
		`1 / int(request.attrs.zero) > 0`:                                        false,
		`request == request`:                                                     false, // it is no value
	} {
		r := request()
		r.Attrs = strings.Replace(r.Attrs, "{", `{"whole":7,"zero":0,"large":9007199254740993,"huge":1e31,`, 1)
		p := parse(t, withRule(goodRule+"limit: 1/s", "when: "+quoted(t, condition)))
		var m policy.Matches
		p.Match(&r, now, &m)
		if holds := len(m.Charges) == 1; holds != want {
			t.Errorf("%s: %v, want %v", condition, holds, want)
		}
	}
}

func TestConditionsOverTime(t *testing.T) {
	p := parse(t, withRule(goodRule+"limit: 1/s", `when: has(request.time) && request.time.getHours("Asia/Kolkata") < 8`))
	for hour, want := range map[int]int{0: 1, 2: 1, 3: 0, 12: 0, 19: 1} { // half past five in Kolkata and on
		r := request()
		r.Time = time.Date(2026, 11, 23, hour, 0, 0, 0, time.UTC)
		var m policy.Matches
		if p.Match(&r, now, &m); len(m.Charges) != want {
			t.Errorf("at %d o'clock: %d charges, want %d", hour, len(m.Charges), want)
		}
	}
}

// However long the lists are, an evaluation ends soon; one without a loop is
// not bounded beyond what it reads.
func TestConditionsAreBounded(t *testing.T) {
	r := request()
	r.Attrs = `{"l":[` + strings.TrimSuffix(strings.Repeat("1,", 4000), ",") + `]}`
	for condition, want := range map[string]int{
		`request.attrs.l.all(a, a == 1)`:                                                            1,
		`request.attrs.l.all(a, request.attrs.l.all(b, a == b))`:                                    0,
		`request.attrs.l.all(a, request.attrs.l.all(b, request.attrs.l.all(c, a == b && b == c)))`:  0,
		`request.attrs.l.map(a, request.attrs.l).map(a, request.attrs.l).size() > 0`:                0,
		`[1,2,3,4,5,6,7,8].all(a, [1,2,3,4,5,6,7,8].all(b, request.attrs.l.all(c, a + b + c > 0)))`: 0,
	} {
		p := parse(t, withRule(goodRule+"limit: 1/s", "when: "+quoted(t, condition)))
		var m policy.Matches
		began := time.Now()
		p.Match(&r, now, &m)
		if took := time.Since(began); took > time.Second {
			t.Errorf("%s took %v", condition, took)
		}
		if len(m.Charges) != want {
			t.Errorf("%s: %d charges, want %d", condition, len(m.Charges), want)
		}
	}
	// Of constants alone: it is evaluated when it is read.
	digits := "[1,2,3,4,5,6,7,8,9]"
	deep := "true"
	for _, v := range "abcdefghi" {
		deep = digits + ".all(" + string(v) + ", " + deep + ")"
	}
	began := time.Now()
	p := parse(t, withRule(goodRule+"limit: 1/s", "when: "+quoted(t, deep)))
	var m policy.Matches
	p.Match(&r, now, &m)
	if took := time.Since(began); took > time.Second || len(m.Charges) != 0 {
		t.Errorf("%d charges after %v", len(m.Charges), took)
	}
}

func TestCosts(t *testing.T) {
	for _, test := range []struct {
		cost    string
		request events.Request
		want    int64
	}{
		{"3", events.Request{}, 3},
		{"0", events.Request{}, 0},
		{"2.5", events.Request{}, 3},
		{"'7'", events.Request{}, 7},
		{"4294967296", events.Request{}, events.MaxCost},
		{"request.cost * 2", events.Request{}, 2},
		{"request.cost * 2", events.Request{Cost: 21}, 42},
		{"request.cost * 2", events.Request{Peek: true}, 0},
		{"3", events.Request{Peek: true}, 0},
		{"request.cost - 10", events.Request{Cost: 4}, 0},
		{"request.cost * 1000", events.Request{Cost: events.MaxCost}, events.MaxCost},
		{"request.cost * 9223372036854775807", events.Request{Cost: 2}, 2}, // it overflows
		{"request.attrs.weight", events.Request{Cost: 5, Attrs: `{"weight":7}`}, 7},
		{"request.attrs.weight", events.Request{Cost: 5, Attrs: `{"weight":7.01}`}, 8},
		{"request.attrs.weight", events.Request{Cost: 5, Attrs: `{"weight":-7.01}`}, 0},
		{"request.attrs.weight", events.Request{Cost: 5, Attrs: `{"weight":1e300}`}, events.MaxCost},
		{"request.attrs.weight", events.Request{Cost: 5, Attrs: `{"weight":"7"}`}, 5},
		{"request.attrs.weight", events.Request{Cost: 5}, 5},
		{"'request.path.startsWith(\"/export\") ? 50 : 1'", events.Request{Path: "/export/x"}, 50},
		{"uint(request.cost) + 1u", events.Request{}, 2},
	} {
		test.request.Tenant, test.request.User = "acme", "42"
		var m policy.Matches
		parse(t, withRule(goodRule+"limit: 1/s", "cost: "+test.cost)).Match(&test.request, now, &m)
		if len(m.Charges) != 1 || m.Charges[0].Cost != test.want {
			t.Errorf("cost: %s of %+v: %+v, want %d", test.cost, test.request, m.Charges, test.want)
		}
	}
}

func TestAConditionAllocatesLittle(t *testing.T) {
	r := request()
	for condition, most := range map[string]float64{
		`request.cost > 0`:                 0,
		`request.user == "42"`:             1, // a string of CEL's
		`request.attrs.plan != "internal"`: 1,
		`request.path.startsWith("/api") && request.attrs.plan == "gold"`: 2,
	} {
		p := parse(t, withRule(goodRule+"limit: 1/s", "when: "+quoted(t, condition)))
		var m policy.Matches
		match := func() { p.Match(&r, now, &m) }
		match()
		if len(m.Charges) != 1 {
			t.Fatalf("%s does not hold", condition)
		}
		if n := testing.AllocsPerRun(100, match); n > most {
			t.Errorf("%s: %v allocations, want at most %v", condition, n, most)
		}
	}
}

// Nothing of one request is left for the next.
func TestMatchesAreUsedAgain(t *testing.T) {
	p := parse(t, withRule(goodRule+"limit: 1/s", "when: request.attrs.plan == 'gold'", "cost: request.cost + 1"))
	var m policy.Matches
	for i, test := range []struct {
		r    events.Request
		want int64
	}{{events.Request{Attrs: `{"plan":"gold"}`}, 2}, {events.Request{Attrs: `{"plan":"tin"}`}, -1}, {events.Request{}, -1}, {events.Request{Attrs: `{"plan":"gold"}`, Cost: 6}, 7}} {
		test.r.Tenant, test.r.User = "acme", "42"
		p.Match(&test.r, now, &m)
		got := int64(-1)
		if len(m.Charges) > 0 {
			got = m.Charges[0].Cost
		}
		if got != test.want {
			t.Errorf("request %d costs %d, want %d", i, got, test.want)
		}
	}
}
