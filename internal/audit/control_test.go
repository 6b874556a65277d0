package audit_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/decide"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/window"
)

// Resets and overrides by hand are rows, and what is decided after them is as
// promised.
func TestControls(t *testing.T) {
	t.Parallel()
	p, err := policy.Parse([]byte("version: 1\ntenants:\n  acme:\n    rules:\n      - {name: r, limit: 5 per 2s, key: [user]}\n"))
	if err != nil {
		t.Fatal(err)
	}
	now, rng := time.Now().UTC().Truncate(time.Microsecond), rand.New(rand.NewPCG(5, 6))
	d, e := decide.New(p, window.NewMemory()), newEnv(t)
	var block []events.Record
	controls, overridden := 0, 0
	for n := range 3000 {
		now = now.Add(time.Duration(rng.IntN(8)) * 50 * time.Millisecond)
		user := fmt.Sprint("u", rng.IntN(3))
		r := events.Record{Request: events.Request{ID: fmt.Sprint("m", n), Tenant: "acme", Gateway: "g", User: user}}
		if rng.IntN(20) == 0 {
			c := events.Control{Kind: events.ControlReset, ID: r.Request.ID, Tenant: "acme", Rule: "r", Key: user, By: "ann", At: now}
			if rng.IntN(2) == 0 {
				c.Kind, c.Limit, c.WindowMS, c.Until = events.ControlOverride, rng.Int64N(20), 2000, now.Add(20*time.Second)
			} else if rng.IntN(2) == 0 {
				c.Kind = events.ControlLift
			}
			r = events.Record{Control: &c}
			controls++
			if err := d.Apply(t.Context(), &c); err != nil {
				t.Fatal(err)
			}
		} else {
			d.Check(&r)
			if err := d.Decide(t.Context(), now); err != nil {
				t.Fatal(err)
			}
			if r.Decision.Limit != 5 {
				overridden++
			}
		}
		if block = append(block, r); len(block) == 30 {
			e.append(block...)
			block = block[:0]
		}
	}
	report := e.audit(time.Minute)
	if s := report.Shards[0]; !report.OK() || s.Rows != 3000 || s.Admitted+s.Denied != int64(3000-controls) || controls < 50 || overridden < 500 {
		t.Errorf("%d controls, %d decided by an override\n%s", controls, overridden, report.String())
	}
}

// A limit that is not that of the override is a fault, as is a denial for want
// of what a reset has freed, and a row that says something else.
func TestControlsThatWereNotHeeded(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	now := time.Now().UTC().Truncate(time.Microsecond)
	override := events.Control{Kind: events.ControlOverride, ID: "1", Tenant: "acme", Rule: "per-second", Key: "42", Limit: 7, WindowMS: 1000, Until: now.Add(time.Minute), By: "ann", At: now}
	reset := events.Control{Kind: events.ControlReset, ID: "2", Tenant: "acme", Rule: "per-second", Key: "43", By: "ann", At: now}
	e.append(events.Record{Control: &override}, decided("a", "42", now, true),
		decided("b", "43", now, true), decided("c", "43", now, true), decided("d", "43", now, true), events.Record{Control: &reset}, decided("e", "43", now, false))
	e.finds(time.Minute, "decided by another limit than its override by hand: rule per-second, key \"42\"",
		"denied although there was room: rule per-second, key \"43\": 0 of 3 used")
	e.exec(`UPDATE requests SET user_id = 'bob' WHERE request_id = '1'`)
	e.finds(time.Minute, "decided by another limit", "denied although there was room", `is changed: user_id: want "ann", found "bob"`)
}
