package backtest

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
)

// history is what a backtest of a running system's records has besides.
type history struct {
	past
	from  time.Time   // what was admitted before fills the windows, and is not counted
	rules []*wasRule  // that denied
	live  policy.Live // overrides by hand in force
}

// then is what was decided of a request when it was asked.
type then struct {
	verdict events.Verdict // empty if it was not decided
	rule    int            // that denied it, in history.rules; like the next, of denied ones
	key     uint32         // in wasRule.keys
}

// wasRule is a rule that denied requests, and the keys that it denied.
type wasRule struct {
	name  string
	keys  []WasKey
	known map[string]uint32
}

// NewHistory returns a backtest of a policy over what was recorded of a tenant's
// requests; of the only one there is, if it is not named. Those asked before from
// are not counted: of them the windows hold what was admitted, as if the policy had
// come into force then.
func NewHistory(p *policy.Policy, tenant string, from time.Time) (*Backtest, error) {
	if tenant != "" {
		b, err := New(p, tenant)
		if err == nil {
			b.history = &history{past: newPast(tenant), from: from}
		}
		return b, err
	}
	return &Backtest{policy: p, places: map[*policy.Rule]int{}, known: map[string]uint32{},
		history: &history{past: newPast(""), from: from}}, nil
}

// Record adds what a record tells. Records come in the order in which they were
// made. A denied request has asked, as those have that a gateway denied itself:
// all of a fold when the first of them did. What was done by hand is heeded, as
// it would have been done under the other policy too: a reset, and an override of
// a rule that the policy has. Reports that came late are left out, and so is what
// was let through without a decision if it got one after all. The record's
// memory is not kept.
func (b *Backtest) Record(r *events.Record) error {
	if err := b.room(); err != nil {
		return err
	}
	h := b.history
	if c := r.Control; c != nil {
		b.control(c)
		return nil
	}
	at, count, err := h.asked(r)
	if err != nil || count == 0 {
		return err
	}
	if b.tenant == "" {
		b.bind(h.tenant)
	}
	b.matches.Live = h.live
	b.arrive(at, b.group(&r.Request, at, count, &r.Decision))
	return nil
}

// control heeds what was done by hand.
func (b *Backtest) control(c *events.Control) {
	h := b.history
	if h.tenant != "" && c.Tenant != h.tenant {
		return
	}
	kept := *c
	kept.Tenant, kept.Rule, kept.Key = strings.Clone(c.Tenant), strings.Clone(c.Rule), strings.Clone(c.Key)
	key := policy.LiveKey{Tenant: kept.Tenant, Rule: kept.Rule, Key: kept.Key}
	switch c.Kind {
	case events.ControlReset:
		b.arrive(c.At, b.append(group{reset: &kept}))
	case events.ControlOverride:
		if h.live == nil {
			h.live = policy.Live{}
		}
		h.live[key] = policy.LiveOverride{Limit: c.Limit, Window: time.Duration(c.WindowMS) * time.Millisecond, Until: c.Until}
	case events.ControlLift:
		delete(h.live, key)
	}
}

// then returns what was decided of a request.
func (b *Backtest) then(d *events.Decision) then {
	if d == nil || d.Verdict != events.Deny {
		return then{verdict: verdict(d)}
	}
	h := b.history
	t := then{verdict: events.Deny, rule: slices.IndexFunc(h.rules, func(r *wasRule) bool { return r.name == d.Rule })}
	if t.rule < 0 {
		t.rule = len(h.rules)
		h.rules = append(h.rules, &wasRule{name: strings.Clone(d.Rule), known: map[string]uint32{}})
	}
	r := h.rules[t.rule]
	place, ok := r.known[d.Key]
	if !ok {
		key := strings.Clone(d.Key)
		place = uint32(len(r.keys))
		r.keys = append(r.keys, WasKey{Key: key})
		r.known[key] = place
	}
	t.key = place
	return t
}

func verdict(d *events.Decision) events.Verdict {
	if d == nil {
		return ""
	}
	if d.Verdict == events.Deny {
		return events.Deny
	}
	return events.Allow // a constant: what was decoded shares a block's memory
}

// compare counts what has changed of requests since they were asked.
func (h *history) compare(g *group, r *events.Record, count int64, sum *Changes) {
	denied, was := r.Decision.Verdict == events.Deny, g.then.verdict == events.Deny
	sum.count(denied && !was, !denied && was, count, r.Request.Time)
	if !was {
		return
	}
	k := &h.rules[g.then.rule].keys[g.then.key]
	k.Denied += count
	if !denied {
		k.NewlyAdmitted += count
	}
}

func (c *Changes) count(denied, admitted bool, count int64, at time.Time) {
	switch {
	case denied:
		if c.NewlyDenied += count; c.FirstNewlyDenied.IsZero() {
			c.FirstNewlyDenied = at
		}
		c.LastNewlyDenied = at
	case admitted:
		c.NewlyAdmitted += count
	default:
		c.Same += count
	}
}

// report tells what was denied, by the rules that did it.
func (h *history) report(sum Changes, top int) *History {
	report := &History{Changes: sum, Late: h.late, Twice: h.twice, Then: []Was{}}
	for _, r := range h.rules {
		was := Was{Rule: r.name}
		for _, k := range r.keys {
			was.Denied += k.Denied
			was.NewlyAdmitted += k.NewlyAdmitted
			if k.Denied > 0 {
				was.Keys++
			}
			if k.NewlyAdmitted > 0 {
				was.KeysNewlyAdmitted++
			}
		}
		if was.Denied == 0 {
			continue // all before the time asked for
		}
		slices.SortFunc(r.keys, func(x, y WasKey) int {
			return cmp.Or(cmp.Compare(y.NewlyAdmitted, x.NewlyAdmitted), cmp.Compare(y.Denied, x.Denied), strings.Compare(x.Key, y.Key))
		})
		was.Top = append([]WasKey{}, r.keys[:min(int64(top), was.Keys)]...)
		report.Then = append(report.Then, was)
	}
	slices.SortFunc(report.Then, func(x, y Was) int {
		return cmp.Or(cmp.Compare(y.Denied, x.Denied), strings.Compare(x.Rule, y.Rule))
	})
	return report
}

// changes sums up what the rule changes, and lists the keys for which it changes
// most.
func (r *rule) changes(top int) *RuleChanges {
	sum := &RuleChanges{Changed: []Key{}}
	var changed []*Key
	for i := range r.keys {
		k := &r.keys[i]
		if k.Changes == nil {
			continue
		}
		c := k.Changes
		sum.Same += c.Same
		sum.NewlyDenied += c.NewlyDenied
		sum.NewlyAdmitted += c.NewlyAdmitted
		if c.NewlyDenied > 0 {
			sum.KeysNewlyDenied++
			if sum.FirstKey == "" || c.FirstNewlyDenied.Before(sum.FirstNewlyDenied) {
				sum.FirstKey, sum.FirstNewlyDenied = k.Key, c.FirstNewlyDenied
			}
			if c.LastNewlyDenied.After(sum.LastNewlyDenied) {
				sum.LastNewlyDenied = c.LastNewlyDenied
			}
		}
		if c.NewlyAdmitted > 0 {
			sum.KeysNewlyAdmitted++
		}
		if c.NewlyDenied+c.NewlyAdmitted > 0 {
			changed = append(changed, k)
		}
	}
	sum.KeysChanged = int64(len(changed))
	slices.SortFunc(changed, func(x, y *Key) int {
		a, b := x.Changes, y.Changes
		return cmp.Or(cmp.Compare(b.NewlyDenied, a.NewlyDenied), cmp.Compare(b.NewlyAdmitted, a.NewlyAdmitted), strings.Compare(x.Key, y.Key))
	})
	for _, k := range changed[:min(top, len(changed))] {
		sum.Changed = append(sum.Changed, *k)
	}
	return sum
}
