package gateway

import (
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
)

const (
	// maxDenials bounds the denials that are remembered, and maxFolded the bytes
	// of the requests kept to report them by. What finds no place is asked about.
	maxDenials = 1 << 16
	maxFolded  = 32 << 20
	// maxRemembered bounds how long one is remembered, in case that the limiter's
	// clock is set or a notice does not arrive.
	maxRemembered = time.Minute
	// maxDrift is the part of the time that passes here by which more may pass at
	// the limiter: clocks that are corrected run up to 500 ppm fast or slow.
	maxDrift = 1000
)

// denials are those that the limiter gave, each remembered until a request of
// its cost could pass. Until then a request that is charged as much by the same
// rule for the same key is denied without asking: what else is admitted meanwhile
// only makes it wait longer. What happens to the limit itself
// (another policy, a reset, an override) drops them, see forget; an override's
// end is in what the limiter said.
//
// The limiter counts from when it decided, by its own clock. That was no sooner
// than the check was sent, so whoever counts from there, by any clock that runs
// as fast, is never behind the limiter.
type denials struct {
	matches sync.Pool    // of *policy.Matches
	some    atomic.Int64 // how many are remembered

	mu       sync.Mutex // guards the rest
	known    map[claim]*denial
	of       map[string]int // how many of each tenant
	folds    map[policy.LiveKey]*fold
	folded   int       // bytes of all folds
	notified time.Time // when it was told last that something happened to a limit
	closed   bool
}

// claim is what the limiter denied to charge.
type claim struct {
	policy.LiveKey
	cost int64 // units
}

// denial is a remembered one.
type denial struct {
	claim
	decision Decision
	said     time.Time // when the decision came
	until    time.Time // when the next check is due
}

// fold stands for the requests that were denied locally by a rule for a key since
// they were reported.
type fold struct {
	first Request
	count int64
	size  int // bytes, about
}

// foldSize is that of a fold whose request has no texts.
const foldSize = 512

func newDenials() *denials {
	return &denials{
		matches: sync.Pool{New: func() any { return new(policy.Matches) }},
		known:   map[claim]*denial{},
		of:      map[string]int{},
		folds:   map[policy.LiveKey]*fold{},
	}
}

// find returns the denial of a request that need not be asked about, and takes
// note of it for the next report. What a rule would count although it is denied
// must be asked about.
func (d *denials) find(p *policy.Policy, r *Request, now time.Time) (decision Decision, found bool) {
	if d.some.Load() == 0 || !d.any(r.Tenant) {
		return decision, false
	}
	m := d.matches.Get().(*policy.Matches)
	defer d.matches.Put(m)
	if p.CountsDenied(r, m) {
		return decision, false
	}
	p.Match(r, now, m)
	d.mu.Lock()
	defer d.mu.Unlock()
	var longest *denial
	for i := range m.Charges {
		c := &m.Charges[i]
		known := d.known[claim{policy.LiveKey{Tenant: r.Tenant, Rule: c.Rule.Name, Key: c.Key}, c.Cost}]
		if known != nil && known.holds(p, c, now) && (longest == nil || known.outlasts(longest)) {
			longest = known
		}
	}
	if longest == nil || !d.foldLocked(longest.LiveKey, r) {
		return decision, false
	}
	return longest.again(r, now), true
}

// any tells whether a denial of a tenant's is remembered.
func (d *denials) any(tenant string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.of[tenant] > 0
}

// holds tells whether a denial is one of a charge, too. Overrides that end may
// do so here at another time than at the limiter, and a ban asks for a unit also
// of what costs none.
func (k *denial) holds(p *policy.Policy, c *policy.Charge, now time.Time) bool {
	return now.Before(k.until) && k.decision.Policy == p.Revision && (c.Limit > 0 || k.decision.Limit == 0)
}

// outlasts tells whether a request must wait longer for one denial than for
// another, by what the limiter said; for ever is longest.
func (k *denial) outlasts(other *denial) bool {
	never, otherNever := k.decision.RetryAfterMS == 0, other.decision.RetryAfterMS == 0
	if never || otherNever {
		return never && !otherNever
	}
	passes := func(k *denial) time.Time {
		return k.said.Add(time.Duration(k.decision.RetryAfterMS) * time.Millisecond)
	}
	return passes(k).After(passes(other))
}

// again words a denial for another request, at another time.
func (k *denial) again(r *Request, now time.Time) Decision {
	passed := now.Sub(k.said).Milliseconds() // rounded down, so the wait is rounded up
	d := k.decision
	d.ID, d.Reason, d.DecidedAt = r.ID, events.ReasonLocal, now.UTC().Truncate(time.Microsecond)
	d.ResetMS = max(d.ResetMS-passed, 0)
	if d.RetryAfterMS > 0 {
		d.RetryAfterMS = max(d.RetryAfterMS-passed, 1)
	}
	return d
}

// foldLocked counts a request with the others that are denied by a rule for a key.
// It is false when there is no memory for the first of them.
func (d *denials) foldLocked(key policy.LiveKey, r *Request) bool {
	if d.closed {
		return false
	}
	f := d.folds[key]
	if f == nil {
		size := foldSize + len(r.ID) + len(r.User) + len(r.Method) + len(r.Host) + len(r.Path) + len(r.Route) + len(r.Attrs)
		if d.folded+size > maxFolded {
			return false
		}
		f = &fold{first: clone(r), size: size}
		d.folds[key] = f
		d.folded += size
	}
	f.count++
	return true
}

// clone copies a request that may share a larger text's memory.
func clone(r *Request) Request {
	c := *r
	for _, text := range []*string{&c.ID, &c.Tenant, &c.User, &c.APIKey, &c.Method, &c.Host, &c.Path, &c.Route, &c.Attrs} {
		*text = strings.Clone(*text)
	}
	return c
}

// remember keeps what the limiter said of a request that was sent at an instant
// and answered by now, if it is a denial that others of the kind would get. The
// id must be new: a repeated one gets what was said long ago.
func (d *denials) remember(p *policy.Policy, r *Request, said *Decision, sent, now time.Time) {
	if said.Verdict != Deny || said.Reason != events.ReasonRule || said.Degraded || said.Policy != p.Revision {
		return
	}
	remembered := maxRemembered
	if said.RetryAfterMS > 0 {
		wait := time.Duration(said.RetryAfterMS-1) * time.Millisecond // it was rounded up
		remembered = min(remembered, wait-wait/maxDrift)
	}
	until := sent.Add(remembered)
	if !now.Before(until) {
		return
	}
	m := d.matches.Get().(*policy.Matches)
	defer d.matches.Put(m)
	if p.CountsDenied(r, m) { // it may be that rule that it would wait for
		return
	}
	known := denial{decision: *said, said: now, until: until}
	decision := &known.decision
	decision.Rule, decision.Key = strings.Clone(said.Rule), strings.Clone(said.Key)
	decision.Violated, decision.Shadow = nil, nil // of that request alone
	known.claim = claim{policy.LiveKey{Tenant: strings.Clone(r.Tenant), Rule: decision.Rule, Key: decision.Key}, said.Cost}
	d.keep(&known, sent)
}

// keep takes a denial of a check that was sent at an instant.
func (d *denials) keep(known *denial, sent time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !sent.After(d.notified) { // perhaps decided before what was told then
		return
	}
	if d.known[known.claim] == nil {
		if len(d.known) >= maxDenials {
			return
		}
		d.of[known.Tenant]++
	}
	d.known[known.claim] = known
	d.some.Store(int64(len(d.known)))
}

// dropLocked forgets a denial.
func (d *denials) dropLocked(c claim) {
	delete(d.known, c)
	if d.of[c.Tenant]--; d.of[c.Tenant] == 0 {
		delete(d.of, c.Tenant)
	}
	d.some.Store(int64(len(d.known)))
}

// forget drops the denials that a notice concerns: those of one key, or all.
func (d *denials) forget(n events.Notice, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notified = now
	key := policy.LiveKey{Tenant: n.Tenant, Rule: n.Rule, Key: n.Key}
	for c := range d.known {
		if n.Rule == "" || c.LiveKey == key {
			d.dropLocked(c)
		}
	}
}

// report takes out what has been denied since the last report, as one request
// for each rule and key and most of them at most; the others go on counting.
func (d *denials) report(now time.Time, most int) []Request {
	d.mu.Lock()
	defer d.mu.Unlock()
	for c, known := range d.known {
		if !now.Before(known.until) {
			d.dropLocked(c)
		}
	}
	var list []Request
	for key, f := range d.folds {
		if len(list) == most {
			break
		}
		r := f.first
		r.Verdict, r.Reason, r.Rule, r.Count = Deny, events.ReasonLocal, key.Rule, f.count
		list = append(list, r)
		d.folded -= f.size
		delete(d.folds, key)
	}
	return list
}

// close makes everything be asked about, and returns what is still to be
// reported.
func (d *denials) close(now time.Time) []Request {
	d.mu.Lock()
	d.closed = true
	d.mu.Unlock()
	return d.report(now, math.MaxInt)
}
