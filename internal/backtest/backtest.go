// Package backtest tells what a policy would have done to the requests of
// access logs, at the logs' own times, and to what a running system has recorded,
// against what it decided then. It decides by the code that the limiter runs. And
// it finds the limits that would have denied few.
//
// Requests are sorted by their time before the first is decided, so all of
// them are held. A request takes 16 bytes, 20 while it is decided; what
// requests have in common that are charged alike is held once, in about 400.
// With a rule for each client, ten million requests of a hundred thousand
// clients so take 250 MB.
package backtest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/weirhq/weir/internal/accesslog"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
)

const (
	gateway    = "backtest"    // of every request
	maxBad     = 10            // bad lines that are kept
	maxHeld    = math.MaxInt32 // requests
	checkEvery = 1 << 12       // lines or requests between two looks at the context
)

// Backtest gathers the requests of logs and then decides them, once. It is for
// one goroutine.
type Backtest struct {
	policy *policy.Policy
	tenant string
	rules  []*rule // that bind the tenant, in the policy's order
	places map[*policy.Rule]int

	arrivals []arrival
	groups   []group
	known    map[string]uint32 // what requests are charged, to the place of their group
	badLines int64
	bad      []BadLine
	history  *history // nil for logs

	matches policy.Matches // of the request under way, like the next
	charged []byte
}

// arrival is one request.
type arrival struct {
	at    int64  // microseconds since 1970
	place uint32 // in the order of reading
	group uint32
}

// group is what requests have in common that are charged the same by the same
// rules, or nothing for the same reason.
type group struct {
	count    int64 // requests that came together
	then     then
	reset    *events.Control // nothing else is set then
	reason   events.Reason
	charges  []policy.Charge // the enforced ones first
	enforced int             // how many of them
	places   []place         // parallel to charges
}

// place is where a charge is counted.
type place struct {
	rule int    // in Backtest.rules
	key  uint32 // in rule.keys
}

// rule is a rule of the policy and the keys that it met.
type rule struct {
	*policy.Rule
	keys  []Key
	known map[string]uint32 // to the place in keys
}

// New returns a backtest of a policy, in which every request is the tenant's.
func New(p *policy.Policy, tenant string) (*Backtest, error) {
	if err := events.CheckToken("tenant", tenant); err != nil {
		return nil, err
	}
	b := &Backtest{policy: p, places: map[*policy.Rule]int{}, known: map[string]uint32{}}
	b.bind(tenant)
	return b, nil
}

// bind says whose requests they are.
func (b *Backtest) bind(tenant string) {
	b.tenant = tenant
	for i, r := range b.policy.Rules(tenant) {
		b.places[r] = i
		b.rules = append(b.rules, &rule{Rule: r, known: map[string]uint32{}})
	}
}

// Read adds the requests of one log and reads it to its end. Lines that cannot
// be read are counted, and the first ones kept; name is what the log is called.
func (b *Backtest) Read(ctx context.Context, name string, log io.Reader) error {
	lines, err := accesslog.NewReader(log)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for n := 0; ; n++ {
		if n%checkEvery == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		line, err := lines.Next()
		if err == nil {
			if err = b.Add(&line.Request); err == nil {
				continue
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		bad, ok := errors.AsType[*accesslog.LineError](err)
		if !ok {
			return fmt.Errorf("%s: %w", name, err)
		}
		b.badLines++
		if len(b.bad) < maxBad {
			b.bad = append(b.bad, BadLine{Log: name, Line: bad.Line, Text: bad.Text, Error: bad.Err.Error()})
		}
	}
}

// Add adds one request, which is valid but for its tenant and gateway and has a
// time. Its memory is not kept.
func (b *Backtest) Add(r *events.Request) error {
	if err := b.room(); err != nil {
		return err
	}
	request := *r
	request.ID, request.Tenant, request.Gateway = "", b.tenant, gateway
	b.arrive(request.Time, b.group(&request, request.Time, 1, nil))
	return nil
}

func (b *Backtest) room() error {
	if len(b.arrivals) == maxHeld {
		return fmt.Errorf("want at most %d requests in all", maxHeld)
	}
	return nil
}

func (b *Backtest) arrive(at time.Time, group uint32) {
	b.arrivals = append(b.arrivals, arrival{at: at.UnixMicro(), place: uint32(len(b.arrivals)), group: group})
}

// group returns the place of the group of requests that are charged like r is
// at an instant. What was decided of it then is nil if it was not.
func (b *Backtest) group(r *events.Request, at time.Time, count int64, decided *events.Decision) uint32 {
	m := &b.matches
	b.policy.Match(r, at, m)
	b.describe(m)
	b.describeThen(count, decided)
	if place, ok := b.known[string(b.charged)]; ok {
		return place
	}
	g := group{count: count, then: b.then(decided), reason: m.Reason, charges: slices.Concat(m.Charges, m.Shadow), enforced: len(m.Charges)}
	for i := range g.charges {
		c := &g.charges[i]
		at := place{rule: b.places[c.Rule]}
		r := b.rules[at.rule]
		at.key = r.key(c.Key)
		c.Key = r.keys[at.key].Key
		g.places = append(g.places, at)
	}
	here := b.append(g)
	b.known[string(b.charged)] = here
	return here
}

func (b *Backtest) append(g group) (place uint32) {
	b.groups = append(b.groups, g)
	return uint32(len(b.groups) - 1)
}

// describe puts into b.charged all that a decision depends on.
func (b *Backtest) describe(m *policy.Matches) {
	b.charged = append(b.charged[:0], m.Reason...)
	for _, list := range [][]policy.Charge{m.Charges, m.Shadow} {
		for i := range list {
			c := &list[i]
			b.charged = binary.AppendUvarint(b.charged, uint64(b.places[c.Rule]))
			for _, n := range []int64{c.Cost, c.Limit, int64(c.Window), int64(c.Keep), c.Until.UnixMicro()} {
				b.charged = binary.AppendVarint(b.charged, n)
			}
			b.charged = binary.AppendUvarint(b.charged, uint64(len(c.Key)))
			b.charged = append(b.charged, c.Key...)
		}
	}
}

// describeThen adds what it was that asked, and what was decided of it then.
func (b *Backtest) describeThen(count int64, d *events.Decision) {
	b.charged = binary.AppendVarint(b.charged, count)
	b.charged = append(b.charged, verdict(d)...)
	if d != nil && d.Verdict == events.Deny {
		b.charged = append(binary.AppendUvarint(b.charged, uint64(len(d.Rule))), d.Rule...)
		b.charged = append(b.charged, d.Key...)
	}
}

// key returns the place of a key in r.keys.
func (r *rule) key(name string) uint32 {
	place, ok := r.known[name]
	if !ok {
		place, name = uint32(len(r.keys)), strings.Clone(name)
		r.keys = append(r.keys, Key{Key: name})
		r.known[name] = place
	}
	return place
}
