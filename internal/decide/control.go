package decide

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
)

// Apply does what was done to a key by hand: what is decided from then on heeds
// it. The error is the windows'; then nothing is done.
func (d *Decider) Apply(ctx context.Context, c *events.Control) error {
	if c.Kind == events.ControlReset {
		return d.windows.Reset(ctx, d.name(c))
	}
	d.keep(c)
	return nil
}

// name returns the name of a control's window, until the next one is made.
func (d *Decider) name(c *events.Control) []byte {
	d.keys = appendKey(d.keys[:0], c.Tenant, c.Rule, c.Key)
	return d.keys
}

// keep puts an override in force, or ends one.
func (d *Decider) keep(c *events.Control) {
	key := policy.LiveKey{Tenant: c.Tenant, Rule: c.Rule, Key: c.Key}
	switch c.Kind {
	case events.ControlOverride:
		kept := *c // its memory may be a whole block's
		kept.ID, kept.By = strings.Clone(c.ID), strings.Clone(c.By)
		kept.Tenant, kept.Rule, kept.Key = strings.Clone(c.Tenant), strings.Clone(c.Rule), strings.Clone(c.Key)
		key = policy.LiveKey{Tenant: kept.Tenant, Rule: kept.Rule, Key: kept.Key}
		if d.live == nil {
			d.overrides, d.live = map[policy.LiveKey]events.Control{}, policy.Live{}
		}
		d.overrides[key] = kept
		d.live[key] = policy.LiveOverride{Limit: c.Limit, Window: milliseconds(c.WindowMS), Until: c.Until}
	case events.ControlLift:
		d.lift(key)
	}
}

func (d *Decider) lift(key policy.LiveKey) {
	delete(d.overrides, key)
	delete(d.live, key)
}

// Overrides returns those made by hand that are in force, the oldest first, and
// forgets the others. Applied to another decider they are in force there.
func (d *Decider) Overrides(now time.Time) []events.Control {
	var list []events.Control
	for key, c := range d.overrides {
		if now.Before(c.Until) {
			list = append(list, c)
		} else {
			d.lift(key)
		}
	}
	slices.SortFunc(list, func(a, b events.Control) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Key, b.Key))
	})
	return list
}

func milliseconds(n int64) time.Duration { return time.Duration(n) * time.Millisecond }
