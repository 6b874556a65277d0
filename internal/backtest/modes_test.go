package backtest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/events"
)

// What a rule makes of a request may depend on when it comes: requests that
// differ in nothing else are still told apart, and a request is decided as what
// it is, not as another that was charged the same at its time.
func TestRulesThatDependOnTheTime(t *testing.T) {
	p := parse(t,
		`{ name: early, limit: 1/min, key: [user], when: 'request.time < timestamp("`+noon.Add(10*time.Second).Format(time.RFC3339)+`") || request.method == "PUT"' }`,
		`{ name: path, limit: 2/min, key: [path], overrides: [{ key: [/x], limit: 0, until: `+noon.Add(20*time.Second).Format(time.RFC3339)+` }] }`)
	at := func(seconds int, method, path string) events.Request {
		return events.Request{Time: noon.Add(time.Duration(seconds) * time.Second), User: "ann", Method: method, Path: path}
	}
	r := decide(t, p, []events.Request{
		at(0, "GET", "/y"),  // both have room
		at(1, "PUT", "/y"),  // early has none
		at(11, "GET", "/y"), // early does not apply
		at(12, "PUT", "/y"), // early applies, both are full
		at(19, "GET", "/x"), // banned
		at(20, "GET", "/x"), // no more
	})
	early, path := r.Rules[0], r.Rules[1]
	if r.Admitted != 3 || r.Denied != 3 || early.Admitted != 1 || early.Denied != 2 || early.DeniedByOthers != 0 ||
		path.Admitted != 3 || path.Denied != 2 || path.DeniedByOthers != 1 {
		t.Errorf("%+v", r)
	}
}

func TestShadowRules(t *testing.T) {
	p := parse(t, `{ name: real, limit: 2/min, key: [user] }`, `{ name: idea, limit: 1/min, key: [user], mode: shadow }`,
		`{ name: other, limit: 9/min, key: [user], mode: shadow }`, `{ name: free, limit: unlimited, key: [user] }`, `{ name: ban, limit: 0, key: [host] }`)
	r := decide(t, p, []events.Request{{Time: noon, User: "ann"}, {Time: noon, User: "ann"}, {Time: noon, User: "ann"}, {Time: noon, User: "bob"}})
	enforced, idea, other := r.Rules[0], r.Rules[1], r.Rules[2]
	if r.Admitted != 3 || r.Denied != 1 || enforced.Admitted != 3 || enforced.Denied != 1 || enforced.Shadow ||
		idea.Admitted != 2 || idea.Denied != 2 || !idea.Shadow || idea.LimitForAll != 3 || idea.Top[0].Key != "ann" ||
		other.Admitted != 2 || other.Denied != 0 || other.DeniedByOthers != 2 {
		t.Errorf("%+v", r)
	}
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"idea (shadow)", "unlimited", "Rule idea would have denied 1 key"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}
