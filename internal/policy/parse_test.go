package policy_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/window"
)

func parse(tb testing.TB, text string) *policy.Policy {
	tb.Helper()
	p, err := policy.Parse([]byte(text))
	if err != nil {
		tb.Fatalf("%v\nin\n%s", err, text)
	}
	if err := validate(tb, text); err != nil { // whatever parses
		tb.Errorf("%v\nin\n%s", err, text)
	}
	return p
}

// withRule puts the lines of one rule into a policy of its own.
func withRule(lines ...string) string {
	return "version: 1\ntenants:\n  acme:\n    rules:\n      - " + strings.Join(lines, "\n        ") + "\n"
}

const goodRule = "name: r\n        key: [user]\n        "

func TestDefault(t *testing.T) {
	p := policy.Default()
	rules := p.Rules("anybody")
	if len(rules) != 1 || rules[0].Name != "per-minute" || rules[0].Limit != 256 ||
		rules[0].Window != time.Minute || rules[0].Key[0].Name != "identity" {
		t.Fatalf("rules %+v", rules)
	}
	if p.OnError != events.Allow || p.Timeout != 50*time.Millisecond || p.Revision != 0 {
		t.Errorf("%v, %v, revision %d", p.OnError, p.Timeout, p.Revision)
	}
	if p.LongestWindow() != time.Minute {
		t.Errorf("longest window %v", p.LongestWindow())
	}
	if !strings.Contains(policy.DefaultSource(), "256/min") {
		t.Error("the source is not the policy's")
	}
}

func TestWindowsCanBeKept(t *testing.T) {
	if policy.MaxWindow > window.MaxWindow {
		t.Errorf("a policy may name a window of %v, stores keep %v", policy.MaxWindow, window.MaxWindow)
	}
}

func TestLimits(t *testing.T) {
	for text, want := range map[string]struct {
		limit  int64
		window time.Duration
	}{
		"256/min":          {256, time.Minute},
		"10/s":             {10, time.Second},
		"10/sec":           {10, time.Second},
		"10 / second":      {10, time.Second},
		"100 per 30s":      {100, 30 * time.Second},
		"5/5m":             {5, 5 * time.Minute},
		"5 per minute":     {5, time.Minute},
		"5000/hour":        {5000, time.Hour},
		"5000/2h":          {5000, 2 * time.Hour},
		"1000000/day":      {1_000_000, 24 * time.Hour},
		"1/25d":            {1, 25 * 24 * time.Hour},
		"1000000000000/1s": {policy.MaxLimit, time.Second},
	} {
		r := parse(t, withRule(goodRule+"limit: "+text)).Rule("acme", "r")
		if r.Limit != want.limit || r.Window != want.window {
			t.Errorf("%q is %d per %v, want %d per %v", text, r.Limit, r.Window, want.limit, want.window)
		}
	}
}

func TestNoLimits(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "'0'": 0, "0/min": 0, "unlimited": policy.Unlimited} {
		if r := parse(t, withRule(goodRule+"limit: "+text)).Rule("acme", "r"); r.Limit != want || r.Window < time.Second {
			t.Errorf("%s is %d per %v", text, r.Limit, r.Window)
		}
	}
}

func TestFaults(t *testing.T) {
	const limit = "limit: 1/s"
	for name, test := range map[string]struct{ text, want string }{
		"empty":              {"", "line 1, column 1: want a policy that begins with version: 1, found nothing"},
		"a comment":          {"# nothing", "line 1, column 1: want a policy that begins with version: 1"},
		"a text":             {"hello", `line 1, column 1: the policy: want a map, found "hello"`},
		"two documents":      {"version: 1\n---\nversion: 1\n", `want one document, found "2 documents"`},
		"not UTF-8":          {"\xff", "want UTF-8 without NUL"},
		"a NUL":              {"version: \"\x00\"", "want UTF-8 without NUL"},
		"too large":          {strings.Repeat("# 4567\n", 1<<16), `want at most 262144 bytes, found "458752 bytes"`},
		"broken YAML":        {"version: 1\ntenants: [\n", "line 2, column 10: sequence end token ']' not found"},
		"a bare asterisk":    {"version: 1\ntenants:\n  *: {}\n", "line 3, column "},
		"a field twice":      {"version: 1\nversion: 1\n", `line 2, column 1: mapping key "version" already defined`},
		"no version":         {"tenants: {}\n", "line 1, column 1: version: want this field in the policy"},
		"version 2":          {"version: 2\ntenants: {}\n", `line 1, column 10: version: want 1, found "2"`},
		"no tenants":         {"version: 1\n", "line 1, column 1: tenants: want this field in the policy"},
		"unknown field":      {"version: 1\ntenant: {}\ntenants: {}\n", `line 2, column 1: the policy: want one of version, defaults, tenants, found "tenant"`},
		"bad on_error":       {"version: 1\ndefaults: {on_error: maybe}\ntenants: {}\n", `line 2, column 22: on_error: want allow or deny, found "maybe"`},
		"bad timeout":        {"version: 1\ndefaults:\n  timeout: 2h\ntenants: {}\n", `line 3, column 12: timeout: want a duration from 1ms to 1m, such as 50ms, found "2h"`},
		"timeout no unit":    {"version: 1\ndefaults: {timeout: 50}\ntenants: {}\n", "timeout: want a duration from 1ms"},
		"bad tenant":         {"version: 1\ntenants:\n  a.b: {rules: []}\n", `line 3, column 3: tenant: want 1 to 64 characters`},
		"tenant twice":       {"version: 1\ntenants:\n  1: {rules: []}\n  '1': {rules: []}\n", "line 4, column 3: "},
		"no rules":           {"version: 1\ntenants:\n  a: {}\n", "line 3, column 6: rules: want this field in a tenant's section"},
		"rules no list":      {"version: 1\ntenants:\n  a: {rules: {}}\n", "rules: want a list of at most 100 rules"},
		"rule no map":        {"version: 1\ntenants:\n  a: {rules: [x]}\n", `a rule: want a map, found "x"`},
		"no name":            {withRule(limit, "key: [user]"), "line 5, column 9: name: want this field in a rule"},
		"no limit":           {withRule("name: r", "key: [user]"), "line 5, column 9: limit: want this field in a rule"},
		"no key":             {withRule("name: r", limit), "line 5, column 9: key: want this field in a rule"},
		"bad name":           {withRule("name: a b", limit, "key: [user]"), `line 5, column 15: name: want 1 to 64 characters of A-Z a-z 0-9 _ . -, found "a b"`},
		"long name":          {withRule("name: "+strings.Repeat("a", 65), limit, "key: [user]"), "name: want 1 to 64"},
		"bad limit":          {withRule(goodRule + "limit: many"), `limit: want units per time, such as 256/min, 10/s, 100 per 30s, 5000/hour or 1000000/day, or 0, or unlimited, found "many"`},
		"negative limit":     {withRule(goodRule + "limit: -1/s"), "limit: want units per time"},
		"bad unit":           {withRule(goodRule + "limit: 1/week"), "limit: want units per time"},
		"limit too large":    {withRule(goodRule + "limit: 1000000000001/s"), "limit: want a limit of at most 1000000000000"},
		"limit overflows":    {withRule(goodRule + "limit: 99999999999999999999/s"), "limit: want a limit of at most"},
		"window too long":    {withRule(goodRule + "limit: 1/26d"), "limit: want a window from 1s to 25d"},
		"window overflows":   {withRule(goodRule + "limit: 1/99999999999999999999s"), "limit: want a window from 1s to 25d"},
		"window 0":           {withRule(goodRule + "limit: 1/0s"), "limit: want a window from 1s to 25d"},
		"limit list":         {withRule(goodRule + "limit: [1/s]"), `limit: want units per time, such as 256/min, 10/s, 100 per 30s, 5000/hour or 1000000/day, or 0, or unlimited, found "a list"`},
		"key no list":        {withRule("name: r", limit, "key: user"), "line 7, column 14: key: want a list such as [a, b] of 1 to 8 entries"},
		"key empty":          {withRule("name: r", limit, "key: []"), `key: want a list such as [a, b] of 1 to 8 entries, found "a list"`},
		"unknown attribute":  {withRule("name: r", limit, "key: [user, email]"), `line 7, column 21: key: want user, api_key, ip, identity`},
		"attribute twice":    {withRule("name: r", limit, "key: [user, user]"), "key: want each attribute once"},
		"ip/0":               {withRule("name: r", limit, "key: [ip/0]"), "key: want user,"},
		"ip/129":             {withRule("name: r", limit, "key: [ip/129]"), "key: want user,"},
		"ip/024":             {withRule("name: r", limit, "key: [ip/024]"), "key: want user,"},
		"attrs":              {withRule("name: r", limit, "key: [attrs.]"), "key: want user,"},
		"attrs..x":           {withRule("name: r", limit, "key: [attrs..x]"), "key: want user,"},
		"null in key":        {withRule("name: r", limit, "key: [~]"), "key: want a text, found nothing"},
		"empty match":        {withRule(goodRule+limit, "match: {}"), "line 8, column 16: match: want at least one of methods, paths, routes, hosts, gateways"},
		"empty methods":      {withRule(goodRule+limit, "match: {methods: []}"), "methods: want a list"},
		"method glob":        {withRule(goodRule+limit, "match: {methods: ['*']}"), `methods: want a method such as GET, found "*"`},
		"unknown match":      {withRule(goodRule+limit, "exempt: {path: [/x]}"), `exempt: want one of methods, paths, routes, hosts, gateways, found "path"`},
		"path without slash": {withRule(goodRule+limit, "match: {paths: [api/**]}"), "paths: want a path or glob such as /api/**"},
		"path with braces":   {withRule(goodRule+limit, "match: {paths: ['/{a,b}']}"), "paths: want a path or glob such as /api/**"},
		"broken glob":        {withRule(goodRule+limit, "match: {paths: ['/[a']}"), "paths: want a text or a glob such as /api/**"},
		"an alias":           {"version: 1\ntenants: &x {a: {rules: []}}\n", "line 2, column 10: tenants: want a map"},
		"brackets":           {"version: 1\ntenants: " + strings.Repeat("[", 200_000), "line 2, column 26: want lists and maps nested at most 16 deep"},
		"dashes":             {strings.Repeat("- ", 100_000), "want lists and maps nested at most 16 deep"},
		"braces":             {strings.Repeat("{a: ", 60_000), "want lists and maps nested at most 16 deep"},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := policy.Parse([]byte(test.text))
			if err == nil || p != nil {
				t.Fatalf("accepted\n%s", test.text)
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v\nwant %s", err, test.want)
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one fault: %v", err)
			}
		})
	}
}

func TestAllFaultsAtOnceInTheirOrder(t *testing.T) {
	_, err := policy.Parse([]byte(`version: 3
defaults: { timeout: soon }
tenants:
  acme:
    rules:
      - name: a
        limit: lots
        key: [shoe_size]
      - name: a
        limit: 1/s
        key: [user]
        mode: shadowy
`))
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		t.Fatalf("%T: %v", err, err)
	}
	var at []int
	for _, e := range joined.Unwrap() {
		fault, ok := errors.AsType[*policy.Fault](e)
		if !ok {
			t.Fatalf("%T: %v", e, e)
		}
		if _, ok := errors.AsType[*events.FieldError](e); !ok {
			t.Errorf("%v does not say what is wanted", e)
		}
		at = append(at, fault.Line)
	}
	want := []int{1, 2, 7, 8, 9, 12}
	if len(at) != len(want) {
		t.Fatalf("faults in lines %v, want %v: %v", at, want, err)
	}
	for i := range want {
		if at[i] != want[i] {
			t.Fatalf("faults in lines %v, want %v", at, want)
		}
	}
}
