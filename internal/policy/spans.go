package policy

import (
	"maps"
	"slices"
	"time"
)

// Spans tell for how long a store of windows has kept what it was charged, under
// the policies that were in force one after another. From that it can be told
// whether what it holds is enough for another policy. The zero Spans are of a
// store that was empty when the first policy came into force. Their fields are
// for encoding/json alone.
type Spans struct {
	// Sections has the rules that have bound tenants: under a tenant's own name
	// if it has had a section of its own, else under "*". A rule that is no more
	// in force stays: what its keys were charged may still be there.
	Sections map[string]map[string]span `json:"sections"`
	// Lost names the rules of which it is not known for how long.
	Lost map[string]bool `json:"lost,omitempty"`
}

// maxLost bounds Lost: beyond it nothing is known.
const maxLost = 1000

// span is for how long a rule's keys are kept.
type span struct {
	Window    time.Duration  `json:"window"`
	Overrides []overrideSpan `json:"overrides,omitempty"` // of one first value in the order of the file
}

type overrideSpan struct {
	Key    []string      `json:"key"`
	Window time.Duration `json:"window"`
	Until  time.Time     `json:"until,omitzero"`
}

// Follow takes note that a policy has come into force.
func (s *Spans) Follow(p *Policy) {
	if s.Sections == nil {
		s.Sections = map[string]map[string]span{everybody: {}}
	}
	for tenant := range p.sections() {
		if s.Sections[tenant] == nil { // until now it was like everybody else
			s.Sections[tenant] = maps.Clone(s.Sections[everybody])
		}
	}
	for tenant, rules := range s.Sections {
		for _, rule := range p.Rules(tenant) {
			rules[rule.Name] = rule.span()
		}
	}
}

// Lose takes note that the store holds, or may hold, what a rule was charged that
// was not in force when the store was filled: who knows for how long.
func (s *Spans) Lose(rule string, p *Policy) {
	if s.Lost == nil {
		s.Lost = map[string]bool{}
	}
	if len(s.Lost) <= maxLost {
		s.Lost[rule] = true
	}
	for tenant, rules := range s.Sections {
		if p.Rule(tenant, rule) == nil {
			delete(rules, rule)
		}
	}
}

// Cover tells whether whatever a policy's rules would still count at an instant,
// or later, has been kept.
func (s *Spans) Cover(p *Policy, at time.Time) bool {
	sections := maps.Clone(p.sections())
	if sections == nil {
		return true
	}
	for tenant := range s.Sections {
		sections[tenant] = nil
	}
	if len(s.Lost) > maxLost {
		return false
	}
	for tenant := range sections {
		kept, own := s.Sections[tenant]
		if !own {
			kept = s.Sections[everybody]
		}
		for _, rule := range p.Rules(tenant) {
			was, known := kept[rule.Name]
			if !known && s.Lost[rule.Name] {
				return false
			}
			if wanted := rule.span(); known && !was.covers(&wanted, at) {
				return false
			}
		}
	}
	return true
}

func (p *Policy) sections() map[string][]*Rule {
	if p == nil {
		return nil
	}
	return p.tenants
}

func (r *Rule) span() span {
	s := span{Window: r.Window}
	for _, value := range slices.Sorted(maps.Keys(r.overrides)) {
		for i := range r.overrides[value] {
			o := &r.overrides[value][i]
			s.Overrides = append(s.Overrides, overrideSpan{o.key, o.window, o.until})
		}
	}
	return s
}

// covers tells whether no key is kept for a shorter time than wanted. It is
// enough to look at the keys that overrides name and at one that none does.
func (s *span) covers(wanted *span, at time.Time) bool {
	if s.Window == wanted.Window && slices.EqualFunc(s.Overrides, wanted.Overrides, overrideSpan.equal) {
		return true
	}
	if s.of(nil, at) < wanted.of(nil, at) {
		return false
	}
	for _, list := range [][]overrideSpan{s.Overrides, wanted.Overrides} {
		for i := range list {
			if s.of(list[i].Key, at) < wanted.of(list[i].Key, at) {
				return false
			}
		}
	}
	return true
}

// of returns for how long a key of these values is kept from an instant on, as
// allow has it.
func (s *span) of(key []string, at time.Time) (longest time.Duration) {
	for i := range s.Overrides {
		o := &s.Overrides[i]
		if len(o.Key) > len(key) || !slices.Equal(o.Key, key[:len(o.Key)]) || !o.Until.IsZero() && !at.Before(o.Until) {
			continue
		}
		if longest = max(longest, o.Window); o.Until.IsZero() {
			return longest
		}
	}
	return max(longest, s.Window)
}

func (o overrideSpan) equal(b overrideSpan) bool {
	return slices.Equal(o.Key, b.Key) && o.Window == b.Window && o.Until.Equal(b.Until)
}
