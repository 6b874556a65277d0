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

// What is decided by rules of every kind is as promised, with shadow rules and
// denials that count judged too.
func TestEveryMode(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC().Truncate(time.Microsecond)
	p, err := policy.Parse(fmt.Appendf(nil, `
version: 1
tenants:
  acme:
    rules:
      - {name: counts, limit: 6 per 2s, key: [user], count_denied: true}
      - {name: costs, limit: 9/s, key: [method], cost: request.cost * 2}
      - {name: buckets, limit: 7 per 2s, key: [user], algorithm: buckets, cost: 1}
      - {name: shadow, limit: 3/s, key: [user], mode: shadow}
      - {name: shadow-counts, limit: 8 per 3s, key: [user], mode: shadow, count_denied: true}
      - name: overridden
        limit: 4 per 2s
        key: [user]
        overrides:
          - {key: [u1], limit: 5/s, until: %[1]s}
          - {key: [u2], limit: 0, until: %[1]s}
          - {key: [u3], limit: unlimited}
`, now.Add(30*time.Second).Format(time.RFC3339)))
	if err != nil {
		t.Fatal(err)
	}
	d, rng := decide.New(p, window.NewMemory()), rand.New(rand.NewPCG(3, 4))
	e := newEnv(t)
	var denied, shadowed, forced int
	var block []events.Record
	for n := range 3000 {
		now = now.Add(time.Duration(rng.IntN(8)) * 50 * time.Millisecond)
		r := events.Record{Request: events.Request{
			ID: fmt.Sprint("m", n), Tenant: "acme", Gateway: "g", User: fmt.Sprint("u", rng.IntN(4)), Method: fmt.Sprint("M", rng.IntN(9)), Cost: rng.Int64N(4),
		}}
		d.Check(&r)
		if err := d.Decide(t.Context(), now); err != nil {
			t.Fatal(err)
		}
		if r.Decision.Verdict == events.Deny {
			denied++
		}
		shadowed += len(r.Decision.Shadow)
		for _, c := range r.Charges {
			if c.Charged {
				forced++
			}
		}
		if block = append(block, r); len(block) == 30 {
			e.append(block...)
			block = block[:0]
		}
	}
	if denied == 0 || denied == 3000 || shadowed == 0 || forced == 0 {
		t.Fatalf("%d denied, %d in shadow, %d counted", denied, shadowed, forced)
	}
	r := e.audit(time.Minute)
	if s := r.Shards[0]; !r.OK() || s.Rules != 6 || s.Admitted < 1000 || s.Denied < 1000 || s.Unjudged > s.Admitted/10 {
		t.Errorf("%s%+v", r.String(), s)
	}
}

func TestWrongModesAreNamed(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC().Truncate(time.Second)
	charge := func(mode string, limit int64, denied, charged bool) events.Charge {
		return events.Charge{Rule: fmt.Sprintf("%s%d", mode, limit), Key: "u", Limit: limit, WindowMS: 1000, Cost: 1, Denied: denied, Charged: charged, Mode: mode}
	}
	n := 0
	record := func(v events.Verdict, shadow []string, charges ...events.Charge) events.Record {
		n++
		r := decided(fmt.Sprint("w", n), "u", now.Add(time.Duration(n)*time.Microsecond), v == events.Allow)
		r.Charges, r.Decision.Shadow = charges, shadow
		return r
	}
	renamed := func(c events.Charge, rule string, buckets int) events.Charge {
		c.Rule, c.Buckets = rule, buckets
		return c
	}
	late := func(r events.Record, at time.Duration) events.Record {
		r.Decision.DecidedAt = now.Add(at)
		return r
	}
	const s = events.ModeShadow
	for _, tt := range []struct {
		name    string
		records []events.Record
		faults  []string
	}{
		{"as it should be", []events.Record{
			record(events.Allow, nil, charge("", 1, false, false), charge(s, 2, false, false)),
			record(events.Deny, nil, charge("", 1, true, true), charge(s, 2, false, false)),
			record(events.Deny, []string{"shadow2"}, charge("", 1, true, true), charge(s, 2, true, false)),
		}, nil},
		{"wrong in shadow", []events.Record{
			record(events.Allow, nil, charge("", 9, false, false), charge(s, 1, false, false)),
			record(events.Allow, nil, charge("", 9, false, false), charge(s, 1, false, false)),                                            // over
			record(events.Allow, []string{"shadow5"}, charge("", 9, false, false), charge(s, 5, true, false)),                             // room
			record(events.Allow, []string{"shadow6"}, charge("", 9, false, false), charge(s, 1, true, false)),                             // another rule
			record(events.Allow, []string{"shadow1"}, charge("", 9, false, false), charge(s, 1, true, false), charge(s, 3, false, false)), // charges nothing
			record(events.Allow, nil, charge("", 9, false, false), charge(s, 3, false, false)),                                            // so this is the first
			record(events.Allow, nil, charge("", 9, false, false), charge(s, 3, false, false)),                                            //
			record(events.Allow, []string{"shadow3"}, charge("", 9, false, false), charge(s, 3, true, false)),                             // room for one
			record(events.Allow, nil, charge("", 9, false, false), charge(s, 3, false, true)),                                             // not denied
		}, []string{
			"record 1: in shadow: admitted over the limit: rule shadow1", "record 2: in shadow: denied although there was room: rule shadow5",
			"record 3: shadow rules that would have denied: want [shadow1], found [shadow6]", "record 7: in shadow: denied although there was room: rule shadow3",
			"record 8: in shadow: charged as denied, and admitted: rule shadow3",
		}},
		{"of denials the newest count", []events.Record{
			record(events.Allow, nil, renamed(charge("", 1, false, false), "r", 0), charge(s, 9, false, false)),
			record(events.Deny, nil, renamed(charge("", 1, true, true), "r", 0), charge(s, 9, false, false)),
			record(events.Deny, nil, renamed(charge("", 1, true, true), "r", 0), charge(s, 9, false, false)),
			record(events.Allow, nil, renamed(charge("", 3, false, false), "r", 0), charge(s, 9, false, false)), // the limit is raised
			record(events.Allow, nil, renamed(charge("", 3, false, false), "r", 0), charge(s, 9, false, false)),
			record(events.Allow, nil, renamed(charge("", 3, false, false), "r", 0), charge(s, 9, false, false)), // one too many
		}, []string{"record 5: admitted over the limit: rule r"}},
		{"buckets", []events.Record{
			late(record(events.Allow, nil, renamed(charge("", 1, false, false), "r", 10)), 0),
			late(record(events.Deny, nil, renamed(charge("", 1, true, false), "r", 10)), length+100*time.Millisecond-2*time.Microsecond),
			late(record(events.Deny, nil, renamed(charge("", 1, true, false), "r", 10)), length+100*time.Millisecond-time.Microsecond), // it has left
		}, []string{"record 2: denied although there was room"}},
		{"no more buckets", []events.Record{
			late(record(events.Allow, nil, renamed(charge("", 2, false, false), "r", 10)), 0),
			late(record(events.Allow, nil, renamed(charge("", 2, false, false), "r", 0)), 10*time.Millisecond),
			late(record(events.Allow, nil, renamed(charge("", 2, false, false), "r", 0)), length+50*time.Millisecond),
		}, nil},
		{"denials count as they say", []events.Record{
			record(events.Allow, nil, charge("", 2, false, false)),
			record(events.Deny, nil, charge("", 2, false, true), charge("", 0, true, false)),
			record(events.Allow, nil, charge("", 2, false, false)), // over, as the denial counts
			record(events.Deny, nil, charge("", 3, false, false), charge("", 0, true, false)),
			record(events.Deny, nil, charge("", 3, true, false)), // room, as the denial does not count
		}, []string{"record 2: admitted over the limit: rule 2", "record 4: denied although there was room: rule 3"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			e.append(tt.records...)
			e.finds(time.Minute, tt.faults...)
		})
	}
}
