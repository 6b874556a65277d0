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
	if len(b.arrivals) == 0 {
		return nil, b.nothing()
	}
	slices.SortFunc(b.arrivals, func(x, y arrival) int {
		return cmp.Or(cmp.Compare(x.at, y.at), cmp.Compare(x.place, y.place))
	})
	report := &Report{
		Tenant:   b.tenant,
		First:    instant(b.arrivals[0].at),
		Last:     instant(b.arrivals[len(b.arrivals)-1].at),
		Requests: int64(len(b.arrivals)),
		BadLines: b.badLines,
		Rules:    []Rule{},
		Bad:      append([]BadLine{}, b.bad...),
	}
	if err := b.decide(ctx, report); err != nil {
		return nil, err
	}
	next := make([]uint32, len(b.arrivals))
	for i, r := range b.rules {
		if err := b.demand(ctx, i, next); err != nil {
			return nil, err
		}
		report.Rules = append(report.Rules, r.report(b.tenant, top))
	}
	return report, nil
}

// nothing says why there is no request.
func (b *Backtest) nothing() error {
	if b.badLines == 0 {
		return errors.New("no request to decide: the logs are empty")
	}
	first := &b.bad[0]
	return fmt.Errorf("no request to decide: none of %d lines can be read, the first is %s:%d: %s",
		b.badLines, first.Log, first.Line, first.Error)
}

// decide decides every request and counts what becomes of it.
func (b *Backtest) decide(ctx context.Context, report *Report) error {
	decider := decide.New(b.policy, window.NewMemory())
	for i, a := range b.arrivals {
		if i%checkEvery == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		g := &b.groups[a.group]
		record := events.Record{Request: events.Request{Tenant: b.tenant, Time: instant(a.at)}}
		m := policy.Matches{Charges: g.charges[:g.enforced], Shadow: g.charges[g.enforced:], Reason: g.reason}
		decider.Matched(&m, &record)
		if err := decider.Decide(ctx, record.Request.Time); err != nil {
			return err
		}
		switch {
		case record.Decision.Reason == events.ReasonExempt:
			report.Exempt++
		case record.Decision.Reason == events.ReasonNoRule:
			report.NoRule++
		case record.Decision.Verdict == events.Deny:
			report.Denied++
		default:
			report.Admitted++
		}
		for i, at := range g.places {
			b.rules[at.rule].keys[at.key].count(&record, i, i >= g.enforced)
		}
	}
	return nil
}

// count counts a request of the key, whose charge is the i-th of the record
// and may be one in shadow.
func (k *Key) count(r *events.Record, i int, shadow bool) {
	switch {
	case shadow && len(r.Decision.Shadow) == 0, !shadow && r.Decision.Verdict == events.Allow:
		k.Admitted++
		return
	case len(r.Charges) > 0 && !r.Charges[i].Denied:
		k.DeniedByOthers++
		return
	}
	if k.Denied++; k.Denied == 1 {
		k.FirstDenied = r.Request.Time
	}
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
		w.units += c.Cost
		for past := a.at - c.Window.Microseconds(); b.arrivals[w.oldest].at <= past; w.oldest = next[w.oldest] {
			left, _ := b.groups[b.arrivals[w.oldest].group].charge(place)
			w.units -= left.Cost
		}
		rule.keys[key].HighestUse = max(rule.keys[key].HighestUse, w.units)
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

// report sums up what became of the rule's keys, and puts them in order.
func (r *rule) report(tenant string, top int) Rule {
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
