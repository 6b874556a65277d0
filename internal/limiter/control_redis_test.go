package limiter_test

import (
	"testing"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/limiter"
	"github.com/weirhq/weir/internal/testenv"
)

// With shared windows a reset is done once: a limiter that starts and reads of
// it does not take back what was charged since.
func TestControlsOnRedis(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	redis := onRedis(t, testenv.Redis(t))
	change := func(c *limiter.Config) { redis(c); c.Policy = mustParse(t, twoLimits) }
	run := start(t, nc, change)
	ask(t, nc, "acme", `{"user":"7"}`) // the connections are there
	check := func(want events.Verdict, limit int64) {
		t.Helper()
		if d := ask(t, nc, "acme", `{"user":"42"}`); d.Verdict != want || d.Limit != limit || d.Reason != events.ReasonRule {
			t.Errorf("%+v, want %s under %d", d, want, limit)
		}
	}
	check(events.Allow, 2)
	check(events.Allow, 2)
	check(events.Deny, 2)
	mustCommand(t, nc, events.Command{ID: "1", Kind: events.ControlReset, Rule: "r", Key: []string{"42"}, By: "ann"})
	check(events.Allow, 2)
	check(events.Allow, 2)
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	start(t, nc, change)
	check(events.Deny, 2)
	mustCommand(t, nc, events.Command{ID: "2", Kind: events.ControlOverride, Rule: "r", Key: []string{"42"}, Limit: "3/min", Until: time.Now().Add(time.Hour), By: "ann"})
	check(events.Allow, 3)
	check(events.Deny, 3)
}
