package backtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
)

// SuggestConfig says which limits are looked for.
type SuggestConfig struct {
	Tenant  string          // whose requests; of the only tenant there is, if empty
	From    time.Time       // what was asked before fills the windows and is not counted
	By      []string        // keys of rules: attributes as a policy has them, commas between
	Windows []time.Duration // whole seconds
	Share   float64         // of the keys that may be denied, from 0 and less than 1
	Exempt  []string        // methods that are not limited
	Top     int             // keys to list of each limit
}

// Validate names every fault.
func (c *SuggestConfig) Validate() error {
	var faults []error
	fault := func(field, value, want string) {
		faults = append(faults, &events.FieldError{Field: field, Value: value, Want: want})
	}
	if c.Share < 0 || c.Share >= 1 || c.Share != c.Share {
		fault("share", fmt.Sprint(c.Share), "from 0 to less than 1")
	}
	if n := len(c.By); n < 1 || n > maxBy {
		fault("by", fmt.Sprint(n), fmt.Sprintf("1 to %d keys", maxBy))
	}
	if n := len(c.Windows); n < 1 || n > maxWindows {
		fault("window", fmt.Sprint(n), fmt.Sprintf("1 to %d windows", maxWindows))
	}
	for _, w := range c.Windows {
		if w < time.Second || w > policy.MaxWindow || w%time.Second != 0 {
			fault("window", w.String(), "whole seconds, from 1s to 25 days")
		}
	}
	for i, by := range c.By {
		if slices.Index(c.By, by) < i {
			fault("by", by, "each key once")
			continue
		}
		if !plainKey.MatchString(by) {
			fault("by", by, "attributes with commas between, such as user or ip/24,route")
			continue
		}
		for _, f := range policy.Lint([]byte(policyText("*", c.Exempt, []suggestedRule{c.wide(by)}))) {
			faults = append(faults, f.Err)
		}
	}
	return errors.Join(faults...)
}

// plainKey is what a key may be made of, so that it stands in a policy as it is.
var plainKey = regexp.MustCompile(`^[A-Za-z0-9_./-]+(,[A-Za-z0-9_./-]+)*$`)

// wide is a rule by a key that denies nobody.
func (*SuggestConfig) wide(by string) suggestedRule {
	return suggestedRule{by: by, limit: policy.MaxLimit, window: time.Second}
}

// Read calls each with the records of a time in the order in which they were made,
// and with the same ones when it is called again.
type Read func(ctx context.Context, each func(*events.Record) error) error

// suggester finds what keys have asked for.
type suggester struct {
	SuggestConfig
	past
	policy *policy.Policy // a wide rule for each of By
	uses   []*usage       // parallel to By
	report *Suggestions

	matches policy.Matches
	pending []asking // those of the last minute: what gateways did is told late
	kept    int      // that were left pending last
	newest  int64    // microseconds since 1970
}

// asking is what was asked for by one rule's key.
type asking struct {
	at              int64 // microseconds since 1970
	units, requests int64 // no requests if they are not counted
	by              int
	key             uint32
}

// Suggest finds, for each key of rules and each window, the least limit under which
// no more than a share of the keys would have been denied. It reads the history
// twice: first for what was asked, then to decide the requests of keys that asked
// for more.
func Suggest(ctx context.Context, c SuggestConfig, read Read) (*Suggestions, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	s := &suggester{SuggestConfig: c, past: newPast(c.Tenant), report: &Suggestions{Share: c.Share, Limits: []Suggestion{}, Missing: []string{}}}
	s.Windows = slices.Compact(slices.Sorted(slices.Values(c.Windows)))
	var wide []suggestedRule
	for _, by := range s.By {
		wide = append(wide, s.wide(by))
		s.uses = append(s.uses, newUsage(s.Windows))
	}
	var err error
	if s.policy, err = policy.Parse([]byte(policyText("*", s.Exempt, wide))); err != nil {
		return nil, err
	}
	if err := read(ctx, s.record); err != nil {
		return nil, err
	}
	if err := s.settle(s.newest + 1); err != nil {
		return nil, err
	}
	if s.report.Requests == 0 {
		return nil, ErrEmpty
	}
	s.report.Tenant, s.report.Late = s.tenant, s.late
	if err := s.evidence(ctx, read); err != nil {
		return nil, err
	}
	s.report.Policy = policyText(s.tenant, s.Exempt, s.report.rules())
	return s.report, nil
}

// record takes note of what was asked.
func (s *suggester) record(r *events.Record) error {
	if r.Control != nil {
		return nil
	}
	at, count, err := s.asked(r)
	if err != nil || count == 0 {
		return err
	}
	counted := !at.Before(s.From)
	if counted {
		s.report.count(at, count)
	}
	s.newest = max(s.newest, at.UnixMicro())
	s.policy.Match(&r.Request, at, &s.matches)
	for i := range s.matches.Charges {
		c := &s.matches.Charges[i]
		a := asking{at: at.UnixMicro(), units: units(c.Cost, count), by: slices.Index(s.policy.Rules(s.tenant), c.Rule)}
		if a.key, err = s.uses[a.by].key(c.Key); err != nil {
			return err
		}
		if counted {
			a.requests = count
		}
		s.pending = append(s.pending, a)
	}
	if len(s.pending) < 2*s.kept+1<<16 {
		return nil
	}
	return s.settle(s.newest - ownTime.Microseconds())
}

// settle counts what was asked before a time, in order.
func (s *suggester) settle(before int64) error {
	slices.SortStableFunc(s.pending, func(a, b asking) int { return cmp.Compare(a.at, b.at) })
	done := 0
	for ; done < len(s.pending) && s.pending[done].at < before; done++ {
		a := &s.pending[done]
		if err := s.uses[a.by].ask(a.key, a.at, a.units, a.requests); err != nil {
			return err
		}
	}
	s.pending = append(s.pending[:0], s.pending[done:]...)
	s.kept = len(s.pending)
	return nil
}

// trial is a limit, and the requests of those who asked for more.
type trial struct {
	*Backtest
	by    int
	above map[string]bool // keys
}

// evidence finds the limits, and decides what they deny.
func (s *suggester) evidence(ctx context.Context, read Read) error {
	var trials []*trial
	some := false
	for by, use := range s.uses {
		if len(use.distribution(0)) == 0 {
			s.report.Missing = append(s.report.Missing, s.By[by])
			continue
		}
		for i, window := range s.Windows {
			found := suggest(use.distribution(i), s.Share)
			found.By, found.WindowMS, found.Top = s.By[by], window.Milliseconds(), []Key{}
			t := &trial{by: by, above: map[string]bool{}}
			for k := range use.keys {
				key := &use.keys[k]
				found.Requests += key.requests
				if key.highest[i] > found.Limit {
					t.above[key.name], some = true, true
				}
			}
			p, err := policy.Parse([]byte(policyText("*", s.Exempt, []suggestedRule{found.rule()})))
			if err != nil {
				return err
			}
			if t.Backtest, err = NewHistory(p, s.tenant, s.From); err != nil {
				return err
			}
			trials = append(trials, t)
			s.report.Limits = append(s.report.Limits, found)
		}
	}
	if !some {
		return nil
	}
	err := read(ctx, func(r *events.Record) error { return s.try(trials, r) })
	if err != nil {
		return err
	}
	for i, t := range trials {
		if len(t.above) == 0 {
			continue
		}
		decided, err := t.Decide(ctx, s.Top)
		if err != nil {
			return err
		}
		rule, found := &decided.Rules[0], &s.report.Limits[i]
		found.Denied, found.KeysDenied = rule.Denied, rule.KeysDenied
		for _, k := range rule.Top {
			if k.Changes = nil; k.Denied > 0 {
				found.Top = append(found.Top, k)
			}
		}
	}
	return nil
}

// try gives a record to the trials that it concerns.
func (s *suggester) try(trials []*trial, r *events.Record) error {
	if r.Control != nil || r.Refused != nil || r.Request.Tenant != s.tenant {
		return nil
	}
	s.policy.Match(&r.Request, r.Decision.DecidedAt, &s.matches)
	for i := range s.matches.Charges {
		c := &s.matches.Charges[i]
		by := slices.Index(s.policy.Rules(s.tenant), c.Rule)
		for _, t := range trials {
			if t.by == by && t.above[c.Key] {
				if err := t.Record(r); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// suggest returns the least limit that is exceeded by no more than a share of the
// keys, of which the highest uses are given, the highest first.
func suggest(highest []int64, share float64) Suggestion {
	at := func(share float64) int64 { return highest[min(int(share*float64(len(highest))), len(highest)-1)] }
	return Suggestion{
		Keys:       int64(len(highest)),
		Limit:      min(max(at(share), 1), policy.MaxLimit),
		HighestUse: Distribution{P50: at(0.5), P90: at(0.1), P99: at(0.01), P999: at(0.001), Max: highest[0]},
	}
}
