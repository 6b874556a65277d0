package backtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weirhq/weir/internal/decide"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/window"
)

// Decide decides all requests in the order of their times, equal ones in the
// order of reading, and reports it with at most top keys a rule. Without any
// request it is an error. The backtest is used up.
func (b *Backtest) Decide(ctx context.Context, top int) (*Report, error) {
	slices.SortFunc(b.arrivals, func(x, y arrival) int {
		return cmp.Or(cmp.Compare(x.at, y.at), cmp.Compare(x.place, y.place))
	})
	report := &Report{
		Tenant:   b.tenant,
		BadLines: b.badLines,
		Rules:    []Rule{},
		Bad:      append([]BadLine{}, b.bad...),
	}
	if err := b.decide(ctx, report, top); err != nil {
		return nil, err
	}
	if report.Requests == 0 {
		return nil, b.nothing()
	}
	next := make([]uint32, len(b.arrivals))
	for i, r := range b.rules {
		if err := b.demand(ctx, i, next); err != nil {
			return nil, err
		}
		sum := r.report(b.tenant, top)
		if b.history != nil {
			sum.RuleChanges = r.changes(top)
		}
		report.Rules = append(report.Rules, sum)
	}
	return report, nil
}

// ErrEmpty says that a history has no request.
var ErrEmpty = errors.New("no request was recorded")

// nothing says why there is no request.
func (b *Backtest) nothing() error {
	if b.history != nil {
		return ErrEmpty
	}
	if b.badLines == 0 {
		return errors.New("no request to decide: the logs are empty")
	}
	first := &b.bad[0]
	return fmt.Errorf("no request to decide: none of %d lines can be read, the first is %s:%d: %s",
		b.badLines, first.Log, first.Line, first.Error)
}

// counted tells whether what was asked at an instant is counted.
func (b *Backtest) counted(at int64) bool {
	return b.history == nil || at >= b.history.from.UnixMicro()
}

// decide decides every request and counts what becomes of it.
func (b *Backtest) decide(ctx context.Context, report *Report, top int) error {
	decider := decide.New(b.policy, window.NewMemory())
	var changes Changes
	for i, a := range b.arrivals {
		if i%checkEvery == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		g := &b.groups[a.group]
		if g.reset != nil {
			if err := decider.Apply(ctx, g.reset); err != nil {
				return err
			}
			continue
		}
		record := events.Record{Request: events.Request{Tenant: b.tenant, Time: instant(a.at)}}
		if !b.counted(a.at) {
			if err := take(ctx, decider, g, &record); err != nil {
				return err
			}
			continue
		}
		err := decideGroup(ctx, decider, g, &record, func(count int64) {
			report.count(&record, count)
			if b.history != nil {
				b.history.compare(g, &record, count, &changes)
			}
			for i, at := range g.places {
				b.rules[at.rule].keys[at.key].count(&record, i, i >= g.enforced, count, g.then.verdict)
			}
		})
		if err != nil {
			return err
		}
	}
	if b.history != nil {
		report.History = b.history.report(changes, top)
	}
	return nil
}

// maxFold bounds how many of a fold are decided one by one.
const maxFold = 1 << 16

// decideGroup decides the requests of an arrival, which came together, and calls
// each with how many became what. Once one of them charges nothing, the others
// become what it became; so do those beyond maxFold.
func decideGroup(ctx context.Context, d *decide.Decider, g *group, r *events.Record, each func(count int64)) error {
	request := r.Request
	for left := g.count; left > 0; {
		*r = events.Record{Request: request}
		m := policy.Matches{Charges: g.charges[:g.enforced], Shadow: g.charges[g.enforced:], Reason: g.reason}
		d.Matched(&m, r)
		if err := d.Decide(ctx, request.Time); err != nil {
			return err
		}
		count := int64(1)
		if left > 1 && (g.idle(r) || g.count-left >= maxFold) {
			count = left
		}
		each(count)
		left -= count
	}
	return nil
}

// take makes the charges of what was decided before the time that counts, whatever
// the policy would have decided: so a limiter takes over windows. In shadow it is
// decided, as nobody knows what was.
func take(ctx context.Context, d *decide.Decider, g *group, r *events.Record) error {
	shadow := *g
	shadow.charges, shadow.enforced = g.charges[g.enforced:], 0
	at := r.Request.Time
	if err := decideGroup(ctx, d, &shadow, r, func(int64) {}); err != nil {
		return err
	}
	denied := g.then.verdict == events.Deny
	taken := events.Record{
		Request:  events.Request{Tenant: r.Request.Tenant},
		Decision: events.Decision{Verdict: g.then.verdict, DecidedAt: at},
	}
	for i := range g.enforced {
		c := &g.charges[i]
		taken.Charges = append(taken.Charges, events.Charge{
			Rule: c.Rule.Name, Key: c.Key, Limit: c.Limit, WindowMS: c.Window.Milliseconds(), Buckets: c.Rule.Buckets,
			Cost: c.Cost, Charged: denied && c.Rule.CountDenied,
		})
	}
	if len(taken.Charges) == 0 {
		return nil
	}
	for range min(g.count, maxFold) {
		d.Replay(&taken)
	}
	return nil
}

// idle tells whether a decision has charged nothing.
func (g *group) idle(r *events.Record) bool {
	for i := range g.charges {
		denied := r.Decision.Verdict == events.Deny
		if i >= g.enforced {
			denied = len(r.Decision.Shadow) > 0
		}
		if !denied || g.charges[i].Rule.CountDenied {
			return false
		}
	}
	return true
}

// count counts what became of requests.
func (r *Report) count(record *events.Record, count int64) {
	if r.Requests == 0 {
		r.First = record.Request.Time
	}
	r.Requests += count
	r.Last = record.Request.Time
	switch {
	case record.Decision.Reason == events.ReasonExempt:
		r.Exempt += count
	case record.Decision.Reason == events.ReasonNoRule:
		r.NoRule += count
	case record.Decision.Verdict == events.Deny:
		r.Denied += count
	default:
		r.Admitted += count
	}
}

// count counts requests of the key, whose charge is the i-th of the record
// and may be one in shadow, and of which something was decided then, or nothing.
func (k *Key) count(r *events.Record, i int, shadow bool, count int64, then events.Verdict) {
	admitted := !shadow && r.Decision.Verdict == events.Allow || shadow && len(r.Decision.Shadow) == 0
	here := !admitted && (len(r.Charges) == 0 || r.Charges[i].Denied)
	if then != "" {
		if k.Changes == nil {
			k.Changes = new(Changes)
		}
		k.Changes.count(here && then == events.Allow, !shadow && admitted && then == events.Deny, count, r.Request.Time)
	}
	switch {
	case admitted:
		k.Admitted += count
		return
	case !here:
		k.DeniedByOthers += count
		return
	}
	if k.Denied == 0 {
		k.FirstDenied = r.Request.Time
	}
	k.Denied += count
	k.LastDenied = r.Request.Time
}

// demand finds the highest use of every key of a rule: the requests of a
// window are a list in next, which begins with the oldest.
func (b *Backtest) demand(ctx context.Context, place int, next []uint32) error {
	rule := b.rules[place]
	type window struct {
		units          int64 // asked for in the window that ends now
		oldest, newest uint32
		open           bool // it has a newest
	}
	windows := make([]window, len(rule.keys))
	for i, a := range b.arrivals {
		if i%checkEvery == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		c, key := b.groups[a.group].charge(place)
		if c == nil {
			continue
		}
		w, here := &windows[key], uint32(i)
		if w.open {
			next[w.newest] = here
		} else {
			w.oldest, w.open = here, true
		}
		w.newest = here
		w.units += b.groups[a.group].units(c)
		for past := a.at - c.Window.Microseconds(); b.arrivals[w.oldest].at <= past; w.oldest = next[w.oldest] {
			g := &b.groups[b.arrivals[w.oldest].group]
			left, _ := g.charge(place)
			w.units -= g.units(left)
		}
		if b.counted(a.at) {
			rule.keys[key].HighestUse = max(rule.keys[key].HighestUse, w.units)
		}
	}
	return nil
}

// charge returns what the group's requests are charged by one rule, nil if
// they are not.
func (g *group) charge(rule int) (c *policy.Charge, key uint32) {
	for i, at := range g.places {
		if at.rule == rule {
			return &g.charges[i], at.key
		}
	}
	return nil, 0
}

// units are what the group's requests ask of a charge, cut where it makes no
// difference.
func (g *group) units(c *policy.Charge) int64 { return units(c.Cost, g.count) }

func units(cost, count int64) int64 {
	if cost > policy.MaxLimit/count {
		return policy.MaxLimit
	}
	return cost * count
}

// report sums up what became of the rule's keys, and puts them in order.
func (r *rule) report(tenant string, top int) Rule {
	r.keys = slices.DeleteFunc(r.keys, func(k Key) bool { return k.Admitted+k.Denied+k.DeniedByOthers == 0 }) // of before
	sum := Rule{
		Tenant: tenant, Rule: r.Name, Shadow: r.Shadow, Limit: r.Limit, WindowMS: r.Window.Milliseconds(), Keys: int64(len(r.keys)),
	}
	for i := range r.keys {
		k := &r.keys[i]
		sum.Admitted += k.Admitted
		sum.Denied += k.Denied
		sum.DeniedByOthers += k.DeniedByOthers
		sum.LimitForAll = max(sum.LimitForAll, k.HighestUse)
		if k.Denied > 0 {
			sum.KeysDenied++
		}
	}
	slices.SortFunc(r.keys, func(x, y Key) int {
		return cmp.Or(cmp.Compare(y.Denied, x.Denied), strings.Compare(x.Key, y.Key))
	})
	sum.Top = append([]Key{}, r.keys[:min(top, len(r.keys))]...)
	return sum
}

func instant(us int64) time.Time { return time.UnixMicro(us).UTC() }
