package decide

import (
	"context"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/window"
)

// Replay makes the charges that a record of the journal says were made, or does
// what was done by hand, so that windows in memory are again what they were.
// Others know it already.
func (d *Decider) Replay(r *events.Record) {
	memory, ok := d.windows.(*window.Memory)
	if r.Control != nil {
		d.keep(r.Control)
		if ok && r.Control.Kind == events.ControlReset {
			_ = memory.Reset(context.Background(), d.name(r.Control)) // memory does not fail
		}
		return
	}
	if !ok || r.Refused != nil {
		return
	}
	allowed := r.Decision.Verdict == events.Allow
	if len(r.Charges) == 0 {
		if dec := &r.Decision; allowed && dec.Rule != "" {
			d.replay(r, &events.Charge{Rule: dec.Rule, Key: dec.Key, Cost: dec.Cost, WindowMS: dec.WindowMS})
		}
		return
	}
	shadowed := false
	for i := range r.Charges {
		shadowed = shadowed || r.Charges[i].Mode == events.ModeShadow && r.Charges[i].Denied
	}
	for i := range r.Charges {
		c := &r.Charges[i]
		if c.Charged || c.Mode != events.ModeShadow && allowed || c.Mode == events.ModeShadow && !shadowed {
			d.replay(r, c)
		}
	}
}

// replay makes one charge. It is kept for as long as the rule's windows of
// today are, too.
func (d *Decider) replay(r *events.Record, c *events.Charge) {
	var keep time.Duration
	if today := d.policy.Rule(r.Request.Tenant, c.Rule); today != nil {
		keep = today.LongestWindow()
	} else {
		d.stranger(c.Rule)
	}
	if by, ok := d.live[policy.LiveKey{Tenant: r.Request.Tenant, Rule: c.Rule, Key: c.Key}]; ok {
		keep = max(keep, by.Window)
	}
	d.keys = appendKey(d.keys[:0], r.Request.Tenant, c.Rule, c.Key)
	d.windows.(*window.Memory).Admit(r.Decision.DecidedAt, window.Charge{
		Key: d.keys, Cost: c.Cost, Limit: c.Limit, Window: milliseconds(c.WindowMS),
		Keep: keep, Buckets: c.Buckets, CountDenied: c.Charged,
	})
}
