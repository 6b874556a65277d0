package policy_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/bmatcuk/doublestar/v4"
	"pgregory.net/rapid"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
)

func section(rules ...string) string {
	return "version: 1\ntenants:\n  acme:\n    rules:\n      - {" + strings.Join(rules, "}\n      - {") + "}\n"
}

// A warning names a rule that does nothing; Parse takes it all the same.
func TestWarnings(t *testing.T) {
	const r, s = "name: r, limit: 10/min, key: [user]", "name: s, key: [user], "
	for name, test := range map[string]struct{ text, want string }{
		"fine":                      {section(r, s+"limit: 100/hour"), ""},
		"another key":               {section(r, "name: s, limit: 20/min, key: [ip]"), ""},
		"looser":                    {section(r, s+"limit: 20/min"), "line 6, column 39: warning: limit: rule s never denies first, as rule r counts"},
		"looser above":              {section(s+"limit: 20/min", r), "line 6, column 26: warning: limit: rule s never denies first, as rule r counts"},
		"equal":                     {section(r, s+"limit: 10/min"), "rule s never denies first"},
		"looser in a longer one":    {section(r, s+"limit: 600/hour"), "rule s never denies first"},
		"tighter in a longer one":   {section(r, s+"limit: 599/hour"), ""},
		"looser in part of a time":  {section("name: r, limit: 10 per 40s, key: [user]", s+"limit: 19/min"), ""},
		"under a ban":               {section("name: r, limit: 0, key: [user]", s+"limit: 19/min"), "rule s never denies first"},
		"other requests":            {section(r, s+"limit: 20/min, match: {methods: [GET]}"), ""},
		"other exemptions":          {section(r, s+"limit: 20/min, exempt: {methods: [GET]}"), ""},
		"another condition":         {section(r, s+"limit: 20/min, when: request.cost > 1"), ""},
		"the same condition":        {section(r+", when: request.cost > 1", s+"limit: 20/min, when: request.cost > 1"), "rule s never"},
		"another cost":              {section(r, s+"limit: 20/min, cost: 2"), ""},
		"in shadow":                 {section(r, s+"limit: 20/min, mode: shadow"), ""},
		"counts denied":             {section(r, s+"limit: 20/min, count_denied: true"), ""},
		"in buckets":                {section(r, s+"limit: 20/min, algorithm: buckets"), ""},
		"the same key, turned":      {section("name: r, limit: 10/min, key: [user, route]", "name: s, key: [route, user], limit: 20/min"), "rule s never denies first"},
		"dear":                      {section(r + ", cost: 11"), "line 5, column 53: warning: cost: every request costs more than the limit, so the rule denies all of them; want 10 or less, or the limit 0"},
		"as dear as can be":         {section(r + ", cost: 10"), ""},
		"on error":                  {section(r, s+"limit: 20/min, on_error: deny"), ""},
		"overridden":                {section(r+", overrides: [{key: [x], limit: 20/min}]", s+"limit: 15/min"), ""},
		"never":                     {section(r + ", when: false"), "line 5, column 53: warning: when: no request meets this condition"},
		"never, for all its words":  {section(r + ", when: 'request.user == \"x\" && 1 > 2'"), "when: no request meets"},
		"never, as it fails":        {section(r + ", when: 1 / 0 > 1"), "when: no request meets"},
		"always":                    {section(r + ", when: true || request.cost > 1"), ""},
		"charges nothing":           {section(r + ", cost: 0"), "line 5, column 53: warning: cost: the rule charges nothing"},
		"bans at no cost":           {section("name: r, limit: 0, key: [user], cost: 0"), ""},
		"an override bans":          {section(r + ", cost: 0, overrides: [{key: [x], limit: 0}]"), ""},
		"exempts all":               {section(r + ", match: {methods: [GET]}, exempt: {methods: [get, POST]}"), "line 5, column 80: warning: exempt: it takes in all"},
		"exempts some":              {section(r + ", match: {methods: [GET, PUT]}, exempt: {methods: [get, POST]}"), ""},
		"exempts some paths":        {section(r + ", match: {methods: [GET]}, exempt: {methods: [get], paths: [/x]}"), ""},
		"exempts all paths":         {section(r + ", match: {paths: ['/x/a*', /x, /x/y/z]}, exempt: {paths: ['/x/**']}"), "exempt: it takes in all"},
		"exempts other paths":       {section(r + ", match: {paths: ['/xa/*']}, exempt: {paths: ['/x/**']}"), ""},
		"exempts by all":            {section(r + ", match: {hosts: ['*.b'], paths: ['/*/b']}, exempt: {hosts: ['**'], paths: ['/*/b']}"), "exempt: it takes in all"},
		"exempts all of none":       {section(r + ", exempt: {hosts: ['**']}"), ""},
		"override covered":          {section(r + ", overrides: [{key: [x], limit: 5/min}, {key: [x], limit: 6/min}]"), "line 5, column 85: warning: overrides: an override before it takes in this key"},
		"override covered for now":  {section(r + ", overrides: [{key: [x], limit: 5/min, until: 2027-01-01T00:00:00Z}, {key: [x], limit: 6/min}]"), ""},
		"override covered by time":  {section(r + ", overrides: [{key: [x], limit: 5/min, until: 2027-01-01T00:00:00Z}, {key: [x], limit: 6/min, until: 2026-01-01T00:00:00Z}]"), "overrides: an override before"},
		"override of all covered":   {section("name: r, limit: 1/s, key: [user, path], overrides: [{key: [x], limit: 5/s}, {key: [x, /], limit: 6/s}]"), "overrides: an override before"},
		"override of one first":     {section("name: r, limit: 1/s, key: [user, path], overrides: [{key: [x, /], limit: 5/s}, {key: [x], limit: 6/s}]"), ""},
		"override in a shorter one": {section(r + ", overrides: [{key: [x], limit: 5/s}]"), ""},
	} {
		t.Run(name, func(t *testing.T) {
			parse(t, test.text)
			faults := policy.Lint([]byte(test.text))
			switch {
			case test.want == "" && len(faults) > 0:
				t.Errorf("%v in\n%s", faults, test.text)
			case test.want == "":
			case len(faults) != 1 || faults[0].Severity != policy.Warning || !strings.Contains(faults[0].Error(), test.want):
				t.Errorf("%v\nwant %s in\n%s", faults, test.want, test.text)
			}
		})
	}
}

func TestLintNamesErrorsAndWarnings(t *testing.T) {
	faults := policy.Lint([]byte(section("name: r, limit: 1/s, key: [user], when: false, cost: -1", "name: s, limit: 1/s, key: [user], when: false")))
	if len(faults) != 2 || faults[0].Severity != policy.Error || faults[0].Line != 5 || faults[1].Severity != policy.Warning || faults[1].Line != 6 {
		t.Errorf("%v", faults)
	}
	if faults := policy.Lint([]byte("version: 1\n")); len(faults) != 1 {
		t.Errorf("%v", faults)
	}
}

// Where YAML puts an expression, its faults are named in the file's own lines
// and columns.
func TestFaultsOfExpressionsAreInTheirPlace(t *testing.T) {
	const undeclared = "when: undeclared reference to 'user' (in container ''); want request and a field of it"
	for _, test := range []struct{ lines, want string }{
		{"when: user == 1", "line 8, column 15: " + undeclared},
		{"when:    1 == 1 && user", "line 8, column 28: " + undeclared},
		{"when: '\"it''s\" == user'", "line 8, column 27: " + undeclared},
		{`when: "\"it\u0027s\" == user"`, "line 8, column 33: " + undeclared},
		{"when: '\"é\" == user'", "line 8, column 23: " + undeclared},
		{"when: |\n          1 == 1 &&\n            user == 2", "line 10, column 13: " + undeclared},
		{"when: >-\n          1 == 1 &&\n          user == 2", "line 9, column 11: " + undeclared},
		{"when: '1 == 1 &&\n          user == 2'", "line 8, column 15: " + undeclared},
		{"when: request.plan == 1", "line 8, column 22: when: undefined field 'plan'; want one of id, tenant,"},
		{"when: request.cost == request.user", "line 8, column 28: when: found no matching overload for '_==_' applied to '(int, string)'"},
		{"when: request.cost", "line 8, column 15: when: want a condition, which is true or false, found int"},
		{"when: request.cost >", "line 8, column 29: when: Syntax error"},
		{"when: []", `line 8, column 15: when: want a condition, which is true or false, in CEL, found "a list"`},
		{"when: now == request.time", "column 15: when: undeclared reference to 'now'"},
		{"when: " + strings.Repeat("1 == 1 && ", 210) + "true", "when: want at most 2048 characters"},
		{"when: request.path.matches('(')", "when: "},
		{"cost: request.user", "line 8, column 15: cost: want a number of units, found string"},
		{"cost: -1", "line 8, column 15: cost: want units from 0 to 4294967296, found \"-1\""},
		{"cost: 4294967297", "cost: want units from 0"},
		{"cost: 1 / 0", "cost: want units from 0"},
		{"mode: shadowy", `mode: want enforce or shadow, found "shadowy"`},
		{"algorithm: exactly", `algorithm: want exact or buckets, found "exactly"`},
		{"count_denied: yes", `count_denied: want true or false, found "yes"`},
		{"on_error: wait", `on_error: want allow or deny, found "wait"`},
		{"overrides: {}", "overrides: want a list of at most 1000 overrides"},
		{"overrides: [{}]", "line 8, column 21: key: want this field in an override"},
		{"overrides: [{key: [x], limit: 1/x}]", "line 8, column 39: limit: want units per time"},
		{"overrides: [{key: [x, y], limit: 1/s}]", "key: want a list such as [a, b] of 1 to 1 entries"},
		{"overrides: [{key: [x], limit: 1/s, until: tomorrow}]", `line 8, column 51: until: want a time such as 2026-12-31T00:00:00Z (RFC 3339), found "tomorrow"`},
		{"overrides: [{key: [x], limit: 1/s, since: x}]", `an override: want one of key, limit, until, found "since"`},
	} {
		_, err := policy.Parse([]byte(withRule(goodRule+"limit: 1/s", test.lines)))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s\n%v\nwant %s", test.lines, err, test.want)
		}
	}
	for attribute, value := range map[string]string{"ip": "x", "ip/24": "192.0.2.1/24", "api_key": "secret", "gateway": "a.b"} {
		_, err := policy.Parse([]byte(section("name: r, limit: 1/s, key: [" + attribute + "], overrides: [{key: [" + value + "], limit: 1/s}]")))
		if want := "key: want a value that " + attribute + " can have"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s %s: %v", attribute, value, err)
		}
	}
}

// Globs fit what doublestar's do: the shorter ways to it change nothing.
func TestGlobsAreThoseOfDoublestar(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		piece := rapid.SampledFrom([]string{"/", "/", "a", "b", "*", "**", "/**", "?", "[ab]", `\a`})
		pattern := "/" + strings.Join(rapid.SliceOfN(piece, 0, 6).Draw(t, "pattern"), "")
		path := "/" + strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"/", "a", "b", "ab"}), 0, 6).Draw(t, "path"), "")
		text := withRule(goodRule+"limit: 1/s", "match: {paths: ['"+pattern+"']}")
		p, err := policy.Parse([]byte(text))
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		r := events.Request{Tenant: "acme", User: "42", Path: path}
		var m policy.Matches
		p.Match(&r, now, &m)
		if want, _ := doublestar.Match(pattern, path); (len(m.Charges) == 1) != want {
			t.Fatalf("%s and %s: %d charges, doublestar says %v", pattern, path, len(m.Charges), want)
		}
	})
}

func TestOverrides(t *testing.T) {
	p := parse(t, `
version: 1
tenants:
  acme:
    rules:
      - name: two
        limit: 30 per 10s
        key: [user, path]
        overrides:
          - { key: [batch, /x], limit: 0, until: 2026-12-01T00:00:00Z }
          - { key: [batch], limit: 3000/min, until: 2026-12-31T00:00:00+01:00 }
          - { key: [batch, /x], limit: 7/hour }
          - { key: [friend], limit: unlimited }
          - { key: [always], limit: 1/s }
          - { key: [always, /x], limit: 1/day }
      - { name: host, limit: unlimited, key: [host], overrides: [{ key: [EXAMPLE.com], limit: 5/s }] }
      - { name: net, limit: 0, key: [ip/24], match: { paths: [/net] }, overrides: [{ key: [10.0.0.7], limit: 5/s }, { key: [10.1.0.0/24], limit: 6/s }] }
`)
	if p.LongestWindow() != 24*time.Hour || p.Rule("acme", "two").LongestWindow() != 24*time.Hour {
		t.Errorf("longest window %v", p.LongestWindow())
	}
	day := func(d int) time.Time { return time.Date(2026, 12, d, 0, 0, 0, 0, time.UTC) }
	end := time.Date(2026, 12, 30, 23, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		user, path, host, ip string
		at                   time.Time
		want                 string
	}{
		{"x", "/x", "", "", now, "two:30/10s"},
		{"batch", "/x", "", "", now, "two:0/1s keep 1h0m0s until 2026-12-01T00:00:00Z"},
		{"batch", "/y", "", "", now, "two:3000/1m0s until 2026-12-30T23:00:00Z"},
		{"batch", "/x", "", "", day(1), "two:3000/1m0s keep 1h0m0s until 2026-12-30T23:00:00Z"},
		{"batch", "/x", "", "", end.Add(-time.Microsecond), "two:3000/1m0s keep 1h0m0s until 2026-12-30T23:00:00Z"},
		{"batch", "/x", "", "", end, "two:7/1h0m0s"},
		{"batch", "/y", "", "", end, "two:30/10s"},
		{"friend", "/y", "", "", now, "exempt"},
		{"always", "/x", "", "", now, "two:1/1s"},
		{"friend", "/y", "Example.COM", "", now, "host:5/1s"},
		{"", "/y", "example.org", "", now, "exempt"},
		{"", "/net", "", "10.0.0.9", now, "net:5/1s"},
		{"", "/net", "", "10.1.0.9", now, "net:6/1s"},
		{"", "/net", "", "10.2.0.9", now, "net:0/1s"},
	} {
		r := events.Request{Tenant: "acme", User: test.user, Path: test.path, Host: test.host}
		if test.ip != "" {
			r.IP = netip.MustParseAddr(test.ip)
		}
		var m policy.Matches
		p.Match(&r, test.at, &m)
		got := string(m.Reason)
		for _, c := range m.Charges {
			if got = fmt.Sprintf("%s:%d/%v", c.Rule.Name, c.Limit, c.Window); c.Keep != c.Window {
				got += " keep " + c.Keep.String()
			}
			if !c.Until.IsZero() {
				got += " until " + c.Until.UTC().Format(time.RFC3339)
			}
		}
		if got != test.want || len(m.Charges) > 1 {
			t.Errorf("%+v: %s, want %s", test, got, test.want)
		}
	}
	peek := events.Request{Tenant: "acme", Path: "/net", Peek: true, IP: netip.MustParseAddr("10.2.0.9")}
	var m policy.Matches
	if p.Match(&peek, now, &m); m.Charges[0].Cost != 1 {
		t.Errorf("a ban asks a peek for %d units, want 1", m.Charges[0].Cost)
	}
}

func TestModes(t *testing.T) {
	p := parse(t, `
version: 1
tenants:
  acme:
    rules:
      - { name: a, limit: 1/s, key: [user], mode: shadow, algorithm: exact, count_denied: true, on_error: allow }
      - { name: b, limit: 1/s, key: [ip], mode: enforce, algorithm: buckets, exempt: { methods: [PUT] } }
      - { name: c, limit: 1/s, key: [host], mode: shadow, exempt: { methods: [PUT] } }
defaults: { on_error: deny }
`)
	a, b := p.Rule("acme", "a"), p.Rule("acme", "b")
	if !a.Shadow || !a.CountDenied || a.OnError != events.Allow || b.Shadow || b.CountDenied || b.OnError != "" || a.Buckets != 0 || b.Buckets != policy.Buckets || p.LongestWindow() <= time.Second {
		t.Errorf("%+v\n%+v", a, b)
	}
	for _, test := range []struct {
		r       events.Request
		reason  events.Reason
		charges int
		shadow  int
	}{
		{events.Request{User: "u", Host: "h"}, events.ReasonNoRule, 0, 2},
		{events.Request{User: "u", IP: request().IP, Host: "h"}, events.ReasonRule, 1, 2},
		{events.Request{User: "u", IP: request().IP, Host: "h", Method: "PUT"}, events.ReasonExempt, 0, 1},
		{events.Request{Host: "h", Method: "PUT"}, events.ReasonExempt, 0, 0},
		{events.Request{}, events.ReasonNoRule, 0, 0},
	} {
		test.r.Tenant = "acme"
		var m policy.Matches
		p.Match(&test.r, now, &m)
		if m.Reason != test.reason || len(m.Charges) != test.charges || len(m.Shadow) != test.shadow {
			t.Errorf("%+v: %+v", test, m)
		}
	}
}

// Of the enforced rules that charge a request one that denies is enough; what
// has no word of its own, or no rule at all, takes the one it is given.
func TestOnError(t *testing.T) {
	p := parse(t, `
version: 1
tenants:
  acme:
    rules:
      - { name: silent, limit: 1/s, key: [user] }
      - { name: allows, limit: 1/s, key: [ip], on_error: allow }
      - { name: denies, limit: 1/s, key: [host], on_error: deny }
      - { name: exempts, limit: 1/s, key: [user], on_error: deny, match: { methods: [PUT] }, exempt: { methods: [PUT] } }
      - { name: shadow, limit: 1/s, key: [path], on_error: deny, mode: shadow }
`)
	const allow, deny = events.Allow, events.Deny
	ip := request().IP
	for _, test := range []struct {
		r           events.Request
		allow, deny events.Verdict // when that is what it is given
	}{
		{events.Request{}, allow, deny},
		{events.Request{Path: "/"}, allow, deny},
		{events.Request{User: "u", Path: "/"}, allow, deny},
		{events.Request{IP: ip}, allow, allow},
		{events.Request{User: "u", IP: ip}, allow, deny},
		{events.Request{Host: "h"}, deny, deny},
		{events.Request{User: "u", IP: ip, Host: "h"}, deny, deny},
		{events.Request{Method: "PUT"}, allow, allow},
		{events.Request{Method: "PUT", User: "u"}, allow, deny}, // exempt from one of the two that match
		{events.Request{Method: "PUT", IP: ip}, allow, allow},
	} {
		test.r.Tenant = "acme"
		var m policy.Matches
		p.Match(&test.r, now, &m)
		if a, d := m.OnError(allow), m.OnError(deny); a != test.allow || d != test.deny {
			t.Errorf("%+v: %s and %s, want %s and %s", test.r, a, d, test.allow, test.deny)
		}
	}
}

// What a shadow rule exempts, or does not limit, is exempt in shadow only.
func TestShadowExemptsNobody(t *testing.T) {
	p := parse(t, section("name: a, limit: 1/s, key: [user], mode: shadow, exempt: {methods: [PUT]}", "name: b, limit: unlimited, key: [user], mode: shadow"))
	var m policy.Matches
	r := events.Request{Tenant: "acme", User: "u", Method: "PUT"}
	if p.Match(&r, now, &m); m.Reason != events.ReasonNoRule || len(m.Charges)+len(m.Shadow) > 0 {
		t.Errorf("%+v", m)
	}
}
