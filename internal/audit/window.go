package audit

import (
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"time"

	"github.com/weirhq/weir/internal/events"
)

// Times here are microseconds since 1970, as records bear them.

// windowKey names one window.
type windowKey struct{ tenant, rule, key string }

// admission is what was charged at one moment.
type admission struct{ at, cost int64 }

// window is every admission that still counts.
type window struct {
	admissions []admission // the oldest first
	sum        int64
	length     int64
	buckets    int   // into which the length is cut; 0 is exact
	unsettled  int64 // until then what the limiter knew cannot be told: the rule's window has changed
}

// drop forgets what no longer counts at t. An admission exactly one window old
// is out.
func (w *window) drop(t int64) {
	n := 0
	for n < len(w.admissions) && w.admissions[n].at <= t-w.length {
		w.sum -= w.admissions[n].cost
		n++
	}
	w.admissions = w.admissions[n:]
}

// admit makes a charge. In buckets it counts as if it came at the last
// microsecond of its bucket.
func (w *window) admit(t, cost int64) {
	if cost == 0 {
		return
	}
	if n := int64(w.buckets); n > 0 {
		bucket := (w.length + n - 1) / n
		t = (t/bucket+1)*bucket - 1
	}
	w.sum += cost
	if n := len(w.admissions); n > 0 && w.admissions[n-1].at == t {
		w.admissions[n-1].cost += cost
		return
	}
	w.admissions = append(w.admissions, admission{t, cost})
}

// cut forgets the oldest units beyond most.
func (w *window) cut(most int64) {
	for w.sum > most {
		oldest := &w.admissions[0]
		units := min(oldest.cost, w.sum-most)
		oldest.cost -= units
		w.sum -= units
		if oldest.cost == 0 {
			w.admissions = w.admissions[1:]
		}
	}
}

const (
	// horizon and horizonBytes bound how long the limiter promises to remember
	// a request id: 2 minutes, or as long as 32 MiB of decisions go. Records
	// are longer than their decisions.
	horizon      = int64(2 * time.Minute / time.Microsecond)
	horizonBytes = 32 << 20

	// sweepEvery is how many records pass between two looks for windows that
	// have run empty.
	sweepEvery = 1 << 16
)

// oracle holds the decisions of a journal to promise 1 and the once of promise
// 3. It is written to be plainly right and shares no code with what decides.
type oracle struct {
	windows map[windowKey]*window
	by      map[windowKey]override // by hand
	rules   map[[2]string]bool     // tenant and rule of every decision
	trimmed bool                   // the journal began before the first record
	since   int64                  // admissions before are not known
	last    map[string]int64       // when each tenant was charged last
	records int64

	seed       maphash.Seed
	young, old map[uint64]charged // ids that were charged, of two generations
	bytes      int64              // of all records
	rotated    charged            // where the young generation began

	opened, admitted, denied, unjudged int64
}

// charged is when an id was charged, in time and in bytes of records.
type charged struct{ at, bytes int64 }

func newOracle() *oracle {
	return &oracle{
		windows: map[windowKey]*window{}, by: map[windowKey]override{}, rules: map[[2]string]bool{}, since: math.MinInt64, last: map[string]int64{},
		seed: maphash.MakeSeed(), young: map[uint64]charged{}, old: map[uint64]charged{},
	}
}

// judge takes the next record of the journal, of size bytes, and returns what
// is wrong with its decision.
func (o *oracle) judge(r *events.Record, size int) []string {
	if r.Control != nil {
		return o.control(r.Control, size)
	}
	d := &r.Decision
	t := d.DecidedAt.UnixMicro()
	o.pass(t, size)
	charges := r.Charges
	if len(charges) == 0 && d.Rule != "" {
		charges = []events.Charge{{Rule: d.Rule, Key: d.Key, Limit: d.Limit, WindowMS: d.WindowMS, Cost: d.Cost, Denied: d.Verdict == events.Deny}}
	}
	var enforced, shadow []events.Charge
	for _, c := range charges {
		if c.Mode == events.ModeShadow {
			shadow = append(shadow, c)
		} else {
			enforced = append(enforced, c)
		}
	}
	tenant := r.Request.Tenant
	var faults []string
	if len(charges) > 0 { // the windows' clock may be another one than the limiter's
		if before, ok := o.last[tenant]; ok && t < before {
			faults = append(faults, fmt.Sprintf("decided at %s, before a charge ahead of it, at %s", instant(t), instant(before)))
		} else if !ok {
			tenant = clone(tenant)
		}
		o.last[tenant] = max(o.last[tenant], t)
	}
	if d.Reason == events.ReasonRule {
		faults = append(faults, o.decision(d.Verdict, tenant, t, enforced)...)
	}
	if len(shadow) > 0 {
		for _, what := range o.decision(shadowVerdict(shadow), tenant, t, shadow) {
			faults = append(faults, "in shadow: "+what)
		}
		faults = append(faults, named(d.Shadow, shadow)...)
	}
	made := d.Verdict == events.Allow && (d.Reason == events.ReasonRule || d.Reason == events.ReasonTimeout)
	units := o.charge(tenant, t, enforced, made)
	o.charge(tenant, t, shadow, shadowVerdict(shadow) == events.Allow)
	if units > 0 && o.chargedBefore(tenant, r.Request.ID, t) {
		faults = append(faults, fmt.Sprintf("request id %q is charged twice within %v", r.Request.ID, time.Duration(horizon)*time.Microsecond))
	}
	return faults
}

// pass takes note of the next record, of size bytes, made at t.
func (o *oracle) pass(t int64, size int) {
	if o.records == 0 && o.trimmed {
		o.since = t
	}
	o.bytes += int64(size)
	if o.records++; o.records%sweepEvery == 0 {
		o.sweep(t)
	}
}

// override is another limit that a key has by hand.
type override struct{ limit, length, until int64 }

// control does what was done by hand: after a reset a key's window begins anew,
// and while an override lasts decisions bear its limit.
func (o *oracle) control(c *events.Control, size int) []string {
	o.pass(c.At.UnixMicro(), size)
	key := windowKey{clone(c.Tenant), clone(c.Rule), clone(c.Key)}
	switch c.Kind {
	case events.ControlReset:
		if w := o.windows[key]; w != nil {
			w.admissions, w.sum = nil, 0
		}
	case events.ControlOverride:
		o.by[key] = override{c.Limit, c.WindowMS * 1000, c.Until.UnixMicro()}
	case events.ControlLift:
		delete(o.by, key)
	default:
		return []string{fmt.Sprintf("want reset, override or lift, found %q", c.Kind)}
	}
	return nil
}

// skew is how far the clock of shared windows, which records bear, may be behind
// the one that ends an override.
const skew = int64(10 * time.Second / time.Microsecond)

// heeds tells whether a charge made at t has the limit that its key has by hand.
func (o *oracle) heeds(tenant string, t int64, c *events.Charge) bool {
	by, ok := o.by[windowKey{tenant, c.Rule, c.Key}]
	return !ok || t >= by.until-skew || c.Limit == by.limit && c.WindowMS*1000 == by.length
}

// shadowVerdict is what shadow rules would have decided by themselves.
func shadowVerdict(charges []events.Charge) events.Verdict {
	for _, c := range charges {
		if c.Denied {
			return events.Deny
		}
	}
	return events.Allow
}

// named holds the list of shadow rules that would have denied to their charges.
func named(list []string, charges []events.Charge) []string {
	var want []string
	for _, c := range charges {
		if c.Denied {
			want = append(want, c.Rule)
		}
	}
	if slices.Equal(list, want) {
		return nil
	}
	return []string{fmt.Sprintf("shadow rules that would have denied: want %v, found %v", want, list)}
}

// charge makes charges of one mode, and returns the units of those that were
// made because all of them were. Of a rule that counts denied requests no more
// than the limit is kept, the newest.
func (o *oracle) charge(tenant string, t int64, charges []events.Charge, made bool) (units int64) {
	for _, c := range charges {
		w := o.window(tenant, t, &c)
		switch {
		case made:
			w.admit(t, c.Cost)
			units += c.Cost
		case c.Charged:
			w.admit(t, c.Cost)
			w.cut(c.Limit)
		}
	}
	return units
}

// decision judges what the limiter decided by rules of one mode.
func (o *oracle) decision(v events.Verdict, tenant string, t int64, charges []events.Charge) []string {
	var faults []string
	due := false
	for _, c := range charges {
		w := o.window(tenant, t, &c)
		if rule := [2]string{tenant, c.Rule}; !o.rules[rule] {
			o.rules[[2]string{clone(tenant), clone(c.Rule)}] = true
		}
		state := fmt.Sprintf("rule %s, key %q: %d of %d used in the %v before %s, cost %d",
			c.Rule, c.Key, w.sum, c.Limit, time.Duration(c.WindowMS)*time.Millisecond, instant(t), c.Cost)
		over := w.sum+c.Cost > c.Limit
		if !o.heeds(tenant, t, &c) {
			faults = append(faults, "decided by another limit than its override by hand: "+state)
		}
		switch {
		case t < w.unsettled:
			o.unjudged++
			due = true
		case v == events.Allow:
			o.admitted++
			if over {
				faults = append(faults, "admitted over the limit: "+state)
			}
			if c.Denied {
				faults = append(faults, "admitted although a charge was denied: "+state)
			}
		case !c.Denied:
		case !over && t-w.length < o.since:
			o.unjudged++
			due = true
		default:
			o.denied++
			due = true
			if !over {
				faults = append(faults, "denied although there was room: "+state)
			}
		}
		if c.Charged && v == events.Allow {
			faults = append(faults, "charged as denied, and admitted: "+state)
		}
	}
	if v == events.Deny && !due {
		faults = append(faults, "denied although no charge was")
	}
	return faults
}

// window returns a charge's window as it is at t.
func (o *oracle) window(tenant string, t int64, c *events.Charge) *window {
	key := windowKey{tenant, c.Rule, c.Key}
	w := o.windows[key]
	length := c.WindowMS * 1000
	if w == nil {
		// The record's memory is its whole block's.
		key = windowKey{clone(tenant), clone(c.Rule), clone(c.Key)}
		w = &window{length: length, buckets: c.Buckets, unsettled: math.MinInt64}
		o.windows[key] = w
		o.opened++
	}
	if w.length != length || w.buckets != c.Buckets {
		w.unsettled = t + 2*max(w.length, length)
		w.length, w.buckets = length, c.Buckets
	}
	w.drop(t)
	return w
}

// sweep forgets the windows that have run empty.
func (o *oracle) sweep(t int64) {
	for key, w := range o.windows {
		if w.drop(t); len(w.admissions) == 0 && w.unsettled < t {
			delete(o.windows, key)
		}
	}
	for key, by := range o.by {
		if by.until <= t {
			delete(o.by, key)
		}
	}
}

// chargedBefore remembers that an id is charged, and tells whether it was
// within the horizon.
func (o *oracle) chargedBefore(tenant, id string, t int64) bool {
	if t-o.rotated.at > horizon || o.bytes-o.rotated.bytes > horizonBytes {
		o.young, o.old = o.old, o.young
		clear(o.young)
		o.rotated = charged{t, o.bytes}
	}
	var h maphash.Hash
	h.SetSeed(o.seed)
	_, _ = h.WriteString(tenant)
	_ = h.WriteByte(0)
	_, _ = h.WriteString(id)
	sum := h.Sum64()
	before, ok := o.young[sum]
	if !ok {
		before, ok = o.old[sum]
	}
	o.young[sum] = charged{t, o.bytes}
	return ok && t-before.at <= horizon && o.bytes-before.bytes <= horizonBytes
}

func instant(t int64) string { return time.UnixMicro(t).UTC().Format(time.RFC3339Nano) }
