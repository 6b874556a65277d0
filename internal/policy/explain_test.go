package policy_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
)

// explained is a policy with a rule for everything that can keep one from
// charging a request.
const explained = `
version: 1
tenants:
  "*":
    rules:
      - { name: plain, limit: 10/min, key: [user] }
      - { name: writes, limit: 10/min, key: [user], match: { methods: [post, PUT], paths: ["/api/**"] } }
      - { name: routes, limit: 10/min, key: [user], match: { routes: ["/users/{id}", "/a", "/b", "/c", "/d", "/e"] } }
      - { name: hosts, limit: 10/min, key: [user], match: { hosts: ["*.example.com"], gateways: [edge-1] } }
      - { name: gold, limit: 10/min, key: [user], when: 'request.attrs.plan == "gold"' }
      - { name: free, limit: unlimited, key: [user], mode: shadow }
      - { name: reads, limit: 10/min, key: [user, ip/24], exempt: { methods: [GET], hosts: [b] } }
      - name: some
        limit: 10/min
        key: [user]
        overrides:
          - { key: [vip], limit: unlimited, until: 2026-11-23T13:00:00Z }
          - { key: [vip], limit: 20/min }
          - { key: [auditor], limit: unlimited }
`

func TestExplain(t *testing.T) {
	p := parse(t, explained)
	live := policy.Live{{Tenant: "acme", Rule: "plain", Key: "42"}: {Limit: 3000, Window: time.Hour, Until: now.Add(time.Minute)}}
	for _, tt := range []struct {
		request events.Request
		at      time.Time
		want    map[string]string // why, or else the limit, by rule
	}{
		{events.Request{Tenant: "acme", User: "42", Method: "get", Path: "/api/x"}, now, map[string]string{
			"plain":  "3000 in 1h0m0s by command until 12:01:00",
			"writes": `methods: want POST or PUT, found "GET"`,
			"routes": `routes: want /users/{id}, /a, /b, /c, /d or another of the list, found nothing`,
			"hosts":  `hosts: want *.example.com, found nothing`,
			"gold":   "when: cannot be evaluated: no such key: plan",
			"free":   "unlimited",
			"reads":  "key: the request has no ip/24",
			"some":   "10 in 1m0s",
		}},
		{events.Request{Tenant: "acme", User: "42", Method: "PUT", Path: "/", Host: "x.example.com", Gateway: "edge-2", Attrs: `{"plan":"iron"}`}, now.Add(time.Minute), map[string]string{
			"plain":  "10 in 1m0s",
			"writes": `paths: want /api/**, found "/"`,
			"hosts":  `gateways: want edge-1, found "edge-2"`,
			"gold":   "when: false",
		}},
		{events.Request{Tenant: "other", User: "vip", Method: "GET", Host: "b", IP: netip.MustParseAddr("192.0.2.7")}, now, map[string]string{
			"plain": "10 in 1m0s",
			"reads": "exempt: methods, hosts",
			"some":  "unlimited by an override until 2026-11-23T13:00:00Z",
		}},
		{events.Request{Tenant: "acme", User: "vip"}, now.Add(time.Hour), map[string]string{"some": "20 in 1m0s by policy"}},
		{events.Request{Tenant: "acme", User: "auditor"}, now, map[string]string{"some": "unlimited by an override"}},
		{events.Request{Tenant: "acme"}, now, map[string]string{"plain": "key: the request has no user"}},
	} {
		found := p.Explain(&tt.request, tt.at, live)
		if len(found) != len(p.Rules("acme")) {
			t.Errorf("%d findings of %d rules", len(found), len(p.Rules("acme")))
		}
		for _, f := range found {
			got := f.Why
			if got == "" {
				got = fmt.Sprint(f.Limit, " in ", f.Window)
				if f.Override != "" {
					got += " by " + f.Override
				}
				if !f.Until.IsZero() {
					got += " until " + f.Until.Format(time.TimeOnly)
				}
			}
			if want, ok := tt.want[f.Rule.Name]; ok && got != want {
				t.Errorf("%s of %+v:\n got %s\nwant %s", f.Rule.Name, tt.request, got, want)
			}
		}
	}
}

// Whatever the request, the findings that charge are what Match finds, and
// every other says why.
func TestExplainIsMatch(t *testing.T) {
	p := parse(t, explained)
	rapid.Check(t, func(t *rapid.T) {
		pick := func(name string, from ...string) string { return rapid.SampledFrom(from).Draw(t, name) }
		r := events.Request{
			Tenant: pick("tenant", "acme", "other"), User: pick("user", "", "42", "vip", "auditor"), Method: pick("method", "", "GET", "PUT"),
			Path: pick("path", "", "/api/x", "/"), Route: pick("route", "", "/users/{id}", "/b"), Host: pick("host", "", "a.EXAMPLE.com", "b"),
			Gateway: pick("gateway", "edge-1", "edge-2"), Attrs: pick("attrs", "", `{"plan":"gold"}`, `{"plan":"iron"}`, `{"plan":7}`),
			Peek: rapid.Bool().Draw(t, "peek"),
		}
		if rapid.Bool().Draw(t, "ip") {
			r.IP = netip.MustParseAddr("192.0.2.7")
		}
		live := policy.Live{}
		for range rapid.IntRange(0, 3).Draw(t, "overrides") {
			live[policy.LiveKey{Tenant: "acme", Rule: pick("rule", "plain", "some", "reads", "free"), Key: pick("key", "42", "vip", "auditor", `["42","192.0.2.0/24"]`)}] = policy.LiveOverride{
				Limit: rapid.SampledFrom([]int64{0, 5, 100}).Draw(t, "limit"), Window: time.Minute, Until: now.Add(time.Duration(rapid.IntRange(-1, 1).Draw(t, "until")))}
		}
		m := policy.Matches{Live: live}
		p.Match(&r, now, &m)
		var charges []policy.Charge
		for _, shadow := range []bool{false, true} {
			for _, f := range p.Explain(&r, now, live) {
				if f.Why == "" && f.Rule.Shadow == shadow {
					charges = append(charges, f.Charge)
				}
			}
		}
		if want := slices.Concat(m.Charges, m.Shadow); !slices.Equal(charges, want) {
			t.Fatalf("explained %+v\nmatched %+v", charges, want)
		}
		for _, c := range charges {
			o, ok := live[policy.LiveKey{Tenant: r.Tenant, Rule: c.Rule.Name, Key: c.Key}]
			if ok && now.Before(o.Until) && (c.Limit != o.Limit || c.Window != o.Window || !c.Until.Equal(o.Until) || c.Keep < o.Window || c.Limit == 0 && c.Cost == 0) {
				t.Fatalf("%+v under %+v", c, o)
			}
		}
	})
}

func TestKeyOf(t *testing.T) {
	p := parse(t, withRule("name: r", "limit: 1/s", "key: [method, ip/24]"))
	r := p.Rule("acme", "r")
	if key, err := r.KeyOf([]string{"get", "192.0.2.77"}); err != nil || key != `["GET","192.0.2.0/24"]` {
		t.Errorf("key %s, %v", key, err)
	}
	for _, tt := range []struct{ values, want string }{
		{"GET", `key: want a value for each of method, ip/24, as rule r counts by them, found "GET"`},
		{"GET,1,2", `key: want a value for each of method, ip/24, as rule r counts by them, found "GET, 1, 2"`},
		{"GET,x", `key[1]: want a value that ip/24 can have, found "x"`},
	} {
		if _, err := r.KeyOf(strings.Split(tt.values, ",")); err == nil || err.Error() != tt.want {
			t.Errorf("%s:\n got %v\nwant %s", tt.values, err, tt.want)
		}
	}
}

// An override by hand costs no memory where there is none, and little else.
func TestLiveAllocatesNothing(t *testing.T) {
	p := parse(t, withRule("name: r", "limit: 1/s", "key: [user]"))
	m := policy.Matches{Live: policy.Live{{Tenant: "acme", Rule: "r", Key: "42"}: {Limit: 7, Window: time.Second, Until: now.Add(1)}}}
	r := request()
	if n := testing.AllocsPerRun(100, func() { p.Match(&r, now, &m) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
	if m.Charges[0].Limit != 7 {
		t.Errorf("%+v", m.Charges[0])
	}
}
