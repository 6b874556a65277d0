package limiter_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/limiter"
	"github.com/weirhq/weir/internal/limiter/limitertest"
	"github.com/weirhq/weir/internal/revision"
	"github.com/weirhq/weir/internal/testenv"
)

// command sends a command and returns what was done, or what its refusal says.
func command(t *testing.T, nc *nats.Conn, c events.Command) ([]events.Control, string) {
	t.Helper()
	text, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	m, err := nc.Request(names.Command(0, "acme"), text, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if m.Header.Get(micro.ErrorCodeHeader) != "" {
		var details struct{ Detail string }
		if err := json.Unmarshal(m.Data, &details); err != nil {
			t.Fatal(err)
		}
		return nil, details.Detail
	}
	var answer events.CommandAnswer
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		t.Fatal(err)
	}
	return answer.Controls, ""
}

// mustCommand is command for one that concerns one key.
func mustCommand(t *testing.T, nc *nats.Conn, c events.Command) events.Control {
	t.Helper()
	list, refused := command(t, nc, c)
	if refused != "" || len(list) != 1 {
		t.Fatalf("%+v: %+v, %s", c, list, refused)
	}
	return list[0]
}

func follow(t *testing.T, nc *nats.Conn, subject string) *nats.Subscription {
	t.Helper()
	sub, err := nc.SubscribeSync(subject)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return sub
}

// next returns the next message's text.
func next(t *testing.T, sub *nats.Subscription) string {
	t.Helper()
	m, err := sub.NextMsg(5 * time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return string(m.Data)
}

const twoLimits = `
version: 1
tenants:
  acme:
    rules:
      - {name: r, limit: 2/min, key: [user]}
      - {name: pairs, limit: 100/min, key: [user, method]}
`

// Resets and overrides hold at once, are told of, and survive a restart, also
// when they were made longer ago than anything else in the journal matters.
func TestControls(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	p, err := revision.Apply(t.Context(), js, names, []byte(twoLimits))
	if err != nil {
		t.Fatal(err)
	}
	c := newClock()
	change := func(config *limiter.Config) { config.Policy, config.Clock = p, c.Now }
	notices := follow(t, nc, names.Notices())
	run := start(t, nc, change)
	if got := next(t, notices); got != `{"kind":"policy","revision":1}` {
		t.Errorf("notice %s", got)
	}
	check := func(want events.Verdict, limit int64) {
		t.Helper()
		if d := ask(t, nc, "acme", `{"user":"42"}`); d.Verdict != want || d.Limit != limit {
			t.Errorf("%+v, want %s under %d", d, want, limit)
		}
	}
	check(events.Allow, 2)
	check(events.Allow, 2)
	check(events.Deny, 2)
	reset := mustCommand(t, nc, events.Command{ID: "1", Kind: events.ControlReset, Rule: "r", Key: []string{"42"}, By: "ann"})
	if want := (events.Control{Kind: events.ControlReset, ID: "1", Tenant: "acme", Rule: "r", Key: "42", By: "ann", Policy: 1, At: c.Now(), Block: 4}); reset != want {
		t.Errorf("done %+v, want %+v", reset, want)
	}
	if got := next(t, notices); got != `{"kind":"reset","tenant":"acme","rule":"r","key":"42"}` {
		t.Errorf("notice %s", got)
	}
	check(events.Allow, 2)
	check(events.Allow, 2)
	check(events.Deny, 2)
	until := c.Now().Add(3 * time.Hour)
	override := events.Command{ID: "2", Kind: events.ControlOverride, Rule: "r", Key: []string{"42"}, Limit: "4/min", Until: until, By: "ann"}
	first := mustCommand(t, nc, override)
	check(events.Allow, 4)
	check(events.Allow, 4)
	check(events.Deny, 4)
	if again := mustCommand(t, nc, override); again != first {
		t.Errorf("the same command again: %+v, want %+v", again, first)
	}
	for range 2 { // told again with each answer
		if got := next(t, notices); got != `{"kind":"override","tenant":"acme","rule":"r","key":"42"}` {
			t.Errorf("notice %s", got)
		}
	}
	restart := func() {
		t.Helper()
		if err := run.stop(); err != nil {
			t.Fatal(err)
		}
		run = start(t, nc, change)
		next(t, notices)
	}
	restart()
	check(events.Deny, 4)
	if again := mustCommand(t, nc, override); again != first {
		t.Errorf("after a restart: %+v, want %+v", again, first)
	}
	next(t, notices)
	c.Add(time.Hour)
	ask(t, nc, "acme", `{"user":"7"}`)
	restart()
	if list, _ := command(t, nc, events.Command{Kind: events.CommandList}); len(list) != 1 || list[0] != first {
		t.Errorf("in force an hour later: %+v, want %+v", list, first)
	}
	check(events.Allow, 4)
	c.Add(until.Sub(c.Now()) - time.Microsecond)
	check(events.Allow, 4)
	c.Add(time.Microsecond)
	check(events.Allow, 2)
	if list, _ := command(t, nc, events.Command{Kind: events.CommandList}); len(list) != 0 {
		t.Errorf("in force when it has ended: %+v", list)
	}
	if _, err := revision.Apply(t.Context(), js, names, []byte(twoLimits+"\n# another")); err != nil {
		t.Fatal(err)
	}
	if got := next(t, notices); got != `{"kind":"policy","revision":2}` {
		t.Errorf("notice %s", got)
	}
	controls := 0
	for _, r := range limitertest.Records(t, nc) {
		if r.Control != nil {
			controls++
		}
	}
	if controls != 2 {
		t.Errorf("%d controls in the journal, want 2", controls)
	}
}

// An override is lifted, also across a restart; one key of all rules is reset.
func TestLiftAndResetOfAllRules(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	change := func(config *limiter.Config) {
		config.Policy = mustParse(t, strings.ReplaceAll(twoLimits, "[user, method]", "[ip]"))
	}
	run := start(t, nc, change)
	mustCommand(t, nc, events.Command{ID: "1", Kind: events.ControlOverride, Rule: "r", Key: []string{"42"}, Limit: "0", Until: time.Now().Add(time.Hour), By: "ann"})
	if d := ask(t, nc, "acme", `{"user":"42"}`); d.Verdict != events.Deny || d.Limit != 0 || d.RetryAfterMS == 0 {
		t.Errorf("banned by hand: %+v", d)
	}
	mustCommand(t, nc, events.Command{ID: "2", Kind: events.ControlLift, Rule: "r", Key: []string{"42"}, By: "bob"})
	if d := ask(t, nc, "acme", `{"user":"42"}`); d.Verdict != events.Allow || d.Limit != 2 {
		t.Errorf("lifted: %+v", d)
	}
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	start(t, nc, change)
	if d := ask(t, nc, "acme", `{"user":"42"}`); d.Verdict != events.Allow || d.Remaining != 0 {
		t.Errorf("after a restart: %+v", d)
	}
	ask(t, nc, "acme", `{"ip":"192.0.2.7"}`)
	list, refused := command(t, nc, events.Command{ID: "3", Kind: events.ControlReset, Key: []string{"192.0.2.7"}, By: "ann"})
	if refused != "" || len(list) != 2 || list[0].Rule != "r" || list[1].Rule != "pairs" {
		t.Errorf("reset of all rules: %+v, %s", list, refused)
	}
	if d := ask(t, nc, "acme", `{"ip":"192.0.2.7"}`); d.Remaining != 99 {
		t.Errorf("after the reset: %+v", d)
	}
}

func TestCommandsAreToldWhy(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	c := newClock()
	start(t, nc, func(config *limiter.Config) { config.Policy, config.Clock = mustParse(t, twoLimits), c.Now })
	hour := c.Now().Add(time.Hour)
	for _, tt := range []struct {
		command events.Command
		want    string
	}{
		{events.Command{Kind: events.ControlReset, Rule: "x", Key: []string{"42"}}, `rule: want a rule of the tenant's: r, pairs, found "x"`},
		{events.Command{Kind: events.ControlReset, Rule: "pairs", Key: []string{"42"}}, `key: want a value for each of user, method, as rule pairs counts by them, found "42"`},
		{events.Command{Kind: events.ControlReset, Key: []string{"1", "2", "3"}}, `key: want values of a rule's key; the tenant has the rules r, pairs, found "1, 2, 3"`},
		{events.Command{Kind: events.ControlLift, Rule: "r", Key: []string{"42"}}, `key: want a key of rule r that has an override in force, found "42"`},
		{events.Command{Kind: events.ControlOverride, Rule: "r", Key: []string{"42"}, Limit: "3000/mon", Until: hour},
			`limit: want units per time, such as 3000/min or 100 per 30s, or 0; unlimited is for the policy file, found "3000/mon"`},
		{events.Command{Kind: events.ControlOverride, Rule: "r", Key: []string{"42"}, Limit: "unlimited", Until: hour},
			`limit: want units per time, such as 3000/min or 100 per 30s, or 0; unlimited is for the policy file, found "unlimited"`},
		{events.Command{Kind: events.ControlOverride, Rule: "r", Key: []string{"42"}, Limit: "9 per 8d", Until: hour},
			`limit: want a window of at most 167h55m0s, as long as the journal keeps what was charged, found "9 per 8d"`},
		{events.Command{Kind: events.ControlOverride, Rule: "r", Key: []string{"42"}, Limit: "3000/min", Until: c.Now()},
			fmt.Sprintf(`until: want a time after %s and up to %s, as long as the journal keeps it; what lasts longer belongs into the policy file, found %q`,
				c.Now().Format(time.RFC3339), c.Now().Add(168*time.Hour-5*time.Minute).Format(time.RFC3339), c.Now().Format(time.RFC3339))},
	} {
		tt.command.ID, tt.command.By = "1", "ann"
		if list, refused := command(t, nc, tt.command); refused != tt.want {
			t.Errorf("%+v: %+v\n got %s\nwant %s", tt.command, list, refused, tt.want)
		}
	}
	reset := events.Command{ID: "1", Kind: events.ControlReset, Rule: "r", Key: []string{"42"}, By: "ann"}
	if list, refused := command(t, nc, reset); refused != "" || len(list) != 1 {
		t.Errorf("%+v, %s", list, refused)
	}
	reset.Kind, reset.Key = events.ControlLift, []string{"7"}
	if list, refused := command(t, nc, reset); !strings.HasPrefix(refused, "id: want another one: this was a command of kind reset for rule r") {
		t.Errorf("another command of the same id: %+v, %s", list, refused)
	}
	m, err := nc.Request("weir.command.7.acme", []byte(`{"kind":"list"}`), 50*time.Millisecond)
	if err == nil {
		t.Errorf("another shard's command is answered: %s", m.Data)
	}
	if n := len(limitertest.Records(t, nc)); n != 1 {
		t.Errorf("%d records, want that of the command that was done", n)
	}
}

// Nobody is told of what is not in the journal yet, although decisions heed it.
func TestControlsAreToldOfWhenStored(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	start(t, nc, func(c *limiter.Config) {
		c.Policy, c.JournalMax, c.DegradeAfter = mustParse(t, twoLimits), 2000, 200*time.Millisecond
	})
	ask(t, nc, "acme", fmt.Sprintf(`{"user":"7","path":%q}`, strings.Repeat("/x", 600)))
	notices, answers := follow(t, nc, names.Notice("acme")), follow(t, nc, "answers")
	text := `{"id":"1","kind":"override","rule":"r","key":["42"],"limit":"5/min","by":"` + strings.Repeat("ann ", 250) + `","until":"` + time.Now().Add(time.Hour).Format(time.RFC3339) + `"}`
	for range 2 { // the second time while the first waits
		if err := nc.PublishRequest(names.Command(0, "acme"), "answers", []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if d := ask(t, nc, "acme", `{"user":"42"}`); !d.Degraded || d.Limit != 5 {
		t.Fatalf("decision %+v, want one that is degraded and heeds the override", d)
	}
	for _, sub := range []*nats.Subscription{notices, answers} {
		if n, _, err := sub.Pending(); err != nil || n != 0 {
			t.Errorf("%d messages on %s before the journal has it, %v", n, sub.Subject, err)
		}
	}
	makeRoom(t, nc)
	for range 2 {
		if a, b := next(t, answers), next(t, notices); !strings.HasPrefix(a, `{"controls":[{"kind":"override",`) || !strings.HasPrefix(b, `{"kind":"override",`) {
			t.Errorf("answer %s, notice %s", a, b)
		}
	}
	controls := 0
	for _, r := range limitertest.Records(t, nc) {
		if r.Control != nil {
			controls++
		}
	}
	if controls != 1 {
		t.Errorf("%d controls in the journal, want 1", controls)
	}
}

func TestExplain(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	start(t, nc, func(config *limiter.Config) { config.Policy = mustParse(t, twoLimits) })
	ask(t, nc, "acme", `{"user":"42"}`)
	explain := func(payload string) *nats.Msg {
		t.Helper()
		m, err := nc.Request(names.Explain(0, "acme", "g"), []byte(payload), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	for range 3 {
		var x events.Explanation
		if err := json.Unmarshal(explain(`{"id":"x","user":"42","cost":2}`).Data, &x); err != nil {
			t.Fatal(err)
		}
		if x.Decision.Verdict != events.Deny || x.Decision.ID != "x" || len(x.Rules) != 2 || x.Rules[0].Charge.Used != 1 || x.Rules[0].Charge.Passes ||
			x.Rules[1].Why != "key: the request has no method" {
			t.Errorf("%+v", x)
		}
	}
	if d := ask(t, nc, "acme", `{"id":"x","user":"42"}`); d.Verdict != events.Allow || d.Remaining != 0 {
		t.Errorf("after explains: %+v", d)
	}
	if m := explain(`{"cost":-1}`); m.Header.Get(micro.ErrorCodeHeader) != "400" || !strings.Contains(string(m.Data), "cost: want") {
		t.Errorf("%v %s", m.Header, m.Data)
	}
	if n := len(limitertest.Records(t, nc)); n != 2 {
		t.Errorf("%d records, want those of the checks", n)
	}
}
