package main_test

import (
	"regexp"
	"testing"

	"github.com/weirhq/weir/internal/limiter/limitertest"
	"github.com/weirhq/weir/internal/testenv"
)

// What an operator does to a key, and what they are told.
func TestControls(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	limitertest.Start(t, testenv.Connect(t, url))
	const rule, until = "--rule=per-minute", `\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC`
	for _, tt := range []struct {
		args []string
		fail bool
		want string // a regular expression
	}{
		{[]string{"check", "--user=42", "--cost=200"}, false, `^allow by rule per-minute: key "42", 56 of 256 left in 1m0s\n$`},
		{[]string{"check", "--user=42", "--cost=100", "--explain"}, false, `^Would be decided: deny by rule per-minute: key "42", 56 of 256 left in 1m0s; would pass in [\d.]+s\nNothing was charged.\n\n` +
			`RULE        SAYS  KEY  USED +COST  FREES +NOTE\nper-minute  deny  42   200 of 256 in 1m  100 +in [\d.]+s +would pass in [\d.]+s\n$`},
		{[]string{"check", "--user=42", "--method=POST", "--explain"}, false, `\nper-minute  - +exempt: methods\n$`},
		{[]string{"check", "--user=42", "--explain", "--json"}, false, `^{"decision":{"verdict":"allow",.*"rules":\[{"rule":"per-minute","charge":{"key":"42","limit":256,.*}\]}\n$`},
		{[]string{"reset", rule, "--key=42", "--by=ann"}, false, `^Reset: key "42" of rule per-minute has all of its limit again.\n$`},
		{[]string{"check", "--user=42"}, false, `255 of 256 left`},
		{[]string{"override", rule, "--key=42", "--limit=3000/min", "--until=24h", "--by=ann"}, false, `^Override: key "42" of rule per-minute has 3000 in 1m until ` + until + `\.\n$`},
		{[]string{"override", "set", rule, "--key=7", "--limit=0", "--until=2092-01-01T00:00:00Z"}, true, `until: want a time from 2000 to 2091, found "2092-01-01T00:00:00Z"`},
		{[]string{"override", rule, "--key=7", "--limit=0", "--until=soon"}, true, `--until: want a time such as 2026-12-31T00:00:00Z, or a while such as 90m or 24h, found "soon"`},
		{[]string{"override", "list"}, false, `^RULE        KEY  LIMIT       UNTIL +BY   SINCE\nper-minute  42   3000 in 1m  ` + until + `  ann  ` + until + `\n$`},
		{[]string{"check", "--user=42", "--explain"}, false, `override by hand until ` + until},
		{[]string{"override", "lift", rule, "--key=42"}, false, `^Lifted: key "42" of rule per-minute has the limit of the policy again.\n$`},
		{[]string{"override", "list"}, false, `^No override by hand is in force.\n$`},
		{[]string{"reset", "--rule=x", "--key=42"}, true, `rule: want a rule of the tenant's: per-minute, found "x"`},
		{[]string{"reset", "--key=42", "--json", "--by=ann"}, false, `^\[{"kind":"reset","id":"[^"]+","tenant":"acme","rule":"per-minute","key":"42",.*"by":"ann",.*}\]\n$`},
	} {
		out, err := weir(t, append(tt.args, "--nats="+url, "--tenant=acme")...)
		if (err != nil) != tt.fail || !regexp.MustCompile(tt.want).MatchString(out) {
			t.Errorf("%v: %v\n%s\nwant %s", tt.args, err, out, tt.want)
		}
	}
}
