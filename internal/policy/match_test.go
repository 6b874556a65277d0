package policy_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

func request() events.Request {
	return events.Request{
		Tenant: "acme", Gateway: "edge-1", User: "42", APIKey: "00ff00ff00ff00ff",
		IP: netip.MustParseAddr("192.0.2.77"), Method: "get", Host: "API.example.com",
		Path: "/api/v1/users/7", Route: "/api/v1/users/{id}",
		Attrs: `{"plan":"gold","n": 12.50 ,"on":true,"none":null,"a":{"b":{"c":"deep \"<&>\" \u00e9"},"list":[1,{"b":2}]},"plan2":"","x":"first","x":"last"}`,
	}
}

// keyOf returns the key that a request gets from a rule that counts by attributes.
func keyOf(t *testing.T, attributes string, r *events.Request) (string, bool) {
	t.Helper()
	p := parse(t, withRule("name: r", "limit: 1/s", "key: ["+attributes+"]"))
	var m policy.Matches
	p.Match(r, now, &m)
	if len(m.Charges) == 0 {
		if m.Reason != events.ReasonNoRule {
			t.Errorf("%s: reason %s without a charge", attributes, m.Reason)
		}
		return "", false
	}
	return m.Charges[0].Key, true
}

func TestKeys(t *testing.T) {
	for attributes, want := range map[string]string{
		"user": "42", "api_key": "00ff00ff00ff00ff", "ip": "192.0.2.77", "identity": "42",
		"gateway": "edge-1", "method": "GET", "host": "api.example.com",
		"route": "/api/v1/users/{id}", "path": "/api/v1/users/7",
		"ip/24": "192.0.2.0/24", "ip/1": "128.0.0.0/1", "ip/32": "192.0.2.77/32", "ip/33": "192.0.2.77",
		"attrs.plan": "gold", "attrs.n": "12.50", "attrs.on": "true", "attrs.a.b.c": `deep "<&>" é`, "attrs.x": "last",
		"user, method":      `["42","GET"]`,
		"attrs.a.b.c, user": `["deep \"<&>\" é","42"]`,
	} {
		r := request()
		if got, ok := keyOf(t, attributes, &r); !ok || got != want {
			t.Errorf("%s: %q, want %q", attributes, got, want)
		}
	}
}

func TestKeysOfIPv6(t *testing.T) {
	r := request()
	r.IP = netip.MustParseAddr("2001:db8:1:2:3:4:5:6")
	for attributes, want := range map[string]string{
		"ip": "2001:db8:1:2:3:4:5:6", "ip/24": "2001:db8:1:2::/64", "ip/48": "2001:db8:1::/48", "ip/128": "2001:db8:1:2:3:4:5:6/128",
	} {
		if got, _ := keyOf(t, attributes, &r); got != want {
			t.Errorf("%s: %q, want %q", attributes, got, want)
		}
	}
	r.IP = netip.MustParseAddr("::ffff:192.0.2.77")
	if got, _ := keyOf(t, "ip/24", &r); got != "192.0.2.0/24" {
		t.Errorf("an IPv4 address in IPv6 counts by %q", got)
	}
}

func TestRuleWithoutItsKeyDoesNotApply(t *testing.T) {
	empty := events.Request{Tenant: "acme"}
	full := request()
	for _, attributes := range []string{"user", "api_key", "ip", "ip/24", "identity", "gateway", "method", "host", "route", "path", "attrs.plan"} {
		if key, ok := keyOf(t, attributes, &empty); ok {
			t.Errorf("%s: %q of an empty request", attributes, key)
		}
		if key, ok := keyOf(t, attributes+", attrs.missing", &full); ok {
			t.Errorf("%s and one that is missing: %q", attributes, key)
		}
	}
	for _, attributes := range []string{"attrs.none", "attrs.a", "attrs.a.list", "attrs.a.b.c.d", "attrs.plan2", "attrs.b", "attrs.plan.x"} {
		if key, ok := keyOf(t, attributes, &full); ok {
			t.Errorf("%s: %q", attributes, key)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, test := range []struct {
		match string
		fits  bool
	}{
		{"methods: [GET]", true}, {"methods: [post, Get]", true}, {"methods: [POST]", false},
		{"paths: ['/api/**']", true}, {"paths: ['/api/*']", false}, {"paths: ['/api/*/users/?']", true},
		{"paths: ['/api/**/7']", true}, {"paths: [/api/v1/users/7]", true}, {"paths: [/api/v1/users]", false},
		{"paths: ['**']", true}, {"paths: [/x, '/**/users/[0-9]']", true}, {`paths: ['/api/v1/users/\7']`, true},
		{"routes: ['/api/v1/users/{id}']", true}, {"routes: ['/api/v1/*/{id}']", true}, {"routes: ['/api/v1/users/{x,id}']", false},
		{"hosts: [api.EXAMPLE.com]", true}, {"hosts: ['*.Example.com']", true}, {"hosts: ['API.*.com']", true}, {"hosts: [example.com]", false},
		{"gateways: [edge-1]", true}, {"gateways: ['edge-*']", true}, {"gateways: ['Edge-*']", false},
		{"methods: [GET], paths: ['/api/**'], hosts: ['*']", true}, {"methods: [GET], paths: [/other]", false},
	} {
		r := request()
		var m policy.Matches
		parse(t, withRule(goodRule+"limit: 1/s", "match: {"+test.match+"}")).Match(&r, now, &m)
		if fits := len(m.Charges) == 1; fits != test.fits {
			t.Errorf("match %s: %v, want %v", test.match, fits, test.fits)
		}
		parse(t, withRule(goodRule+"limit: 1/s", "exempt: {"+test.match+"}")).Match(&r, now, &m)
		if exempt := m.Reason == events.ReasonExempt; exempt != test.fits || exempt == (len(m.Charges) == 1) {
			t.Errorf("exempt %s: reason %s with %d charges", test.match, m.Reason, len(m.Charges))
		}
	}
	nothing := events.Request{Tenant: "acme", User: "42"}
	for _, match := range []string{"paths: ['**']", "routes: ['*']", "hosts: ['*']", "gateways: ['*']"} {
		var m policy.Matches
		parse(t, withRule(goodRule+"limit: 1/s", "match: {"+match+"}")).Match(&nothing, now, &m)
		if len(m.Charges) != 0 {
			t.Errorf("%s fits a request without one", match)
		}
	}
}

func TestReasonsAndSections(t *testing.T) {
	p := parse(t, `
version: 1
defaults: { on_error: deny, timeout: 20ms }
tenants:
  "*":
    rules:
      - { name: all, limit: 10/s, key: [identity], exempt: { methods: [POST] } }
      - { name: by-key, limit: 5/hour, key: [api_key], exempt: { methods: [POST, PUT] } }
  free:
    rules: []
  acme:
    rules:
      - { name: writes, limit: 3/min, key: [user, route], match: { methods: [POST] } }
`)
	if p.OnError != events.Deny || p.Timeout != 20*time.Millisecond || p.LongestWindow() != time.Hour {
		t.Errorf("%v, %v, %v", p.OnError, p.Timeout, p.LongestWindow())
	}
	for _, test := range []struct {
		r       events.Request
		reason  events.Reason
		charges string
	}{
		{events.Request{Tenant: "x", User: "u", Method: "GET"}, events.ReasonRule, "all=u*1"},
		{events.Request{Tenant: "x", User: "u", APIKey: "k", Cost: 7}, events.ReasonRule, "all=u*7 by-key=k*7"},
		{events.Request{Tenant: "x", User: "u", APIKey: "k", Peek: true}, events.ReasonRule, "all=u*0 by-key=k*0"},
		{events.Request{Tenant: "x", User: "u", APIKey: "k", Method: "PUT"}, events.ReasonRule, "all=u*1"},
		{events.Request{Tenant: "x", User: "u", APIKey: "k", Method: "POST"}, events.ReasonExempt, ""},
		{events.Request{Tenant: "x", Method: "POST"}, events.ReasonExempt, ""},
		{events.Request{Tenant: "x", Method: "PUT"}, events.ReasonExempt, ""},
		{events.Request{Tenant: "x", Method: "GET"}, events.ReasonNoRule, ""},
		{events.Request{Tenant: "free", User: "u"}, events.ReasonNoRule, ""},
		{events.Request{Tenant: "acme", User: "u", Method: "GET"}, events.ReasonNoRule, ""},
		{events.Request{Tenant: "acme", User: "u", Method: "POST", Route: "/r"}, events.ReasonRule, `writes=["u","/r"]*1`},
	} {
		var m policy.Matches
		p.Match(&test.r, now, &m)
		var got []string
		for _, c := range m.Charges {
			got = append(got, fmt.Sprintf("%s=%s*%d", c.Rule.Name, c.Key, c.Cost))
		}
		if m.Reason != test.reason || strings.Join(got, " ") != test.charges {
			t.Errorf("%+v:\n got %s %v\nwant %s %s", test.r, m.Reason, got, test.reason, test.charges)
		}
	}
	if p.Rule("acme", "writes") == nil || p.Rule("acme", "all") != nil || p.Rule("x", "all") == nil {
		t.Error("rules are not found in the tenant's section alone")
	}
}

func TestNilPolicy(t *testing.T) {
	var p *policy.Policy
	r := request()
	m := policy.Matches{Charges: make([]policy.Charge, 3)}
	p.Match(&r, now, &m)
	if len(m.Charges) != 0 || m.Reason != events.ReasonNoRule || p.LongestWindow() != 0 || p.Rule("a", "b") != nil {
		t.Errorf("%+v", m)
	}
}

func TestMatchAllocatesNothing(t *testing.T) {
	for _, rule := range []string{"key: [user]", "key: [identity]", "key: [api_key]", "key: [path]", "key: [attrs.plan]",
		"key: [user]\n        match: { paths: ['/api/**/users/*'], routes: ['/**/{id}'], gateways: ['edge-?'] }"} {
		p := parse(t, withRule("name: r", "limit: 1/s", rule))
		r := request()
		r.Method = "GET"
		var m policy.Matches
		match := func() { p.Match(&r, now, &m) }
		match()
		if len(m.Charges) != 1 {
			t.Fatalf("%s: no charge", rule)
		}
		if n := testing.AllocsPerRun(100, match); n != 0 {
			t.Errorf("%s: %v allocations, want none", rule, n)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(policy.DefaultSource(), "/api/x", `{"a":{"b":1}}`)
	f.Add(withRule("name: r", "limit: 1/s", "key: [attrs.a.b, ip/24]", "match: {paths: ['/a/**/[b-c]?'], hosts: ['*.x']}"), "/a/b", `{"a":{"b":"x\"`)
	f.Add("a: &x 1\nb: *x\n<<: {c: !!map [}", "", "{")
	f.Add(withRule("name: r", "limit: 1/s", "key: [attrs.a.b, ip]", "when: |\n          request.attrs.a.b.exists(x, x == 1) &&\n          request.attrs.n > 2.5", "cost: request.attrs.n * 2",
		"mode: shadow", "overrides: [{key: [x, '::1'], limit: 0, until: 2027-01-01T00:00:00Z}]"), "/a/b", `{"a":{"b":[1,"x",{}]},"n":3}`)
	f.Add("? [a]\n: |\n  b\n", "", "")
	f.Fuzz(func(t *testing.T, text, path, attrs string) {
		slow := time.AfterFunc(5*time.Second, func() { panic(fmt.Sprintf("stuck in %q", text)) })
		p, err := policy.Parse([]byte(text))
		policy.Lint([]byte(text))
		slow.Stop()
		if (p == nil) == (err == nil) {
			t.Fatalf("policy %v, error %v", p, err)
		}
		if err != nil {
			if err.Error() == "" {
				t.Error("an error that says nothing")
			}
			return
		}
		r := request()
		r.Path, r.Route, r.Host, r.Attrs = path, path, path, attrs
		var m policy.Matches
		for _, tenant := range []string{"acme", "*", ""} {
			r.Tenant = tenant
			p.Match(&r, now, &m)
			if (len(m.Charges) > 0) != (m.Reason == events.ReasonRule) {
				t.Errorf("%d charges, reason %s", len(m.Charges), m.Reason)
			}
			for _, c := range append(m.Charges, m.Shadow...) {
				if c.Limit < 0 || c.Limit > policy.MaxLimit || c.Window < time.Second || c.Window > policy.MaxWindow || c.Key == "" ||
					c.Cost < 0 || c.Cost > events.MaxCost || c.Window > c.Rule.LongestWindow() {
					t.Errorf("charge %+v of rule %+v", c, c.Rule)
				}
			}
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	const when = `, when: 'request.attrs.plan != "internal"'`
	for _, bench := range []struct {
		name      string
		rules     int
		condition string // of the first rule
	}{{"1 rule", 1, ""}, {"1 rule, 1 condition", 1, when}, {"20 rules", 20, ""}, {"20 rules, 1 condition", 20, when}} {
		b.Run(bench.name, func(b *testing.B) {
			text := strings.Builder{}
			text.WriteString("version: 1\ntenants:\n  acme:\n    rules:\n")
			for i := range bench.rules { // one of five matches
				fmt.Fprintf(&text, "      - { name: r%d, limit: 10/s, key: [user], match: { methods: [GET], paths: ['/api/v%d/**/*'] }%s }\n", i, i%5+1, bench.condition)
				bench.condition = ""
			}
			p := parse(b, text.String())
			r := request()
			r.Method = "GET"
			var m policy.Matches
			b.ReportAllocs()
			for b.Loop() {
				p.Match(&r, now, &m)
			}
			b.ReportMetric(float64(len(m.Charges)), "charges/op")
		})
	}
}
