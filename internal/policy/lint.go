package policy

import (
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// warn notes what does no harm but cannot be meant.
func (r *reader) warn(at ast.Node, field, text string) {
	p := position(at)
	r.faults = append(r.faults, &Fault{Line: p.Line, Column: p.Column, Severity: Warning,
		Err: &fieldFault{field, errors.New(text)}})
}

// lint warns of what a rule without a fault cannot be meant to be. before are
// those of the same section.
func (q *ruleReader) lint(before []*Rule) {
	rule := q.rule
	if rule.when != nil && rule.when.result != nil && !rule.when.holds(nil) {
		q.warn(q.at["when"], "when", "no request meets this condition, so the rule never matches; want one that depends on the request, or the rule left out")
	}
	if rule.match.inside(&rule.exempt) {
		q.warn(q.at["exempt"], "exempt", "it takes in all that match does, so the rule never limits; want less, or the rule left out")
	}
	if rule.cost != nil && rule.cost.result != nil && rule.cost.units(nil, 1) == 0 && !rule.bans() {
		q.warn(q.at["cost"], "cost", "the rule charges nothing, so it never denies; want 1 or more")
	}
	if rule.cost != nil && rule.cost.result != nil && rule.Limit > 0 && rule.cost.units(nil, 1) > rule.Limit {
		q.warn(q.at["cost"], "cost", "every request costs more than the limit, so the rule denies all of them; want "+
			strconv.FormatInt(rule.Limit, 10)+" or less, or the limit 0")
	}
	for _, other := range before {
		loose, tight := rule, other
		if !tight.before(loose) {
			loose, tight = other, rule
		}
		if tight.before(loose) {
			q.warn(q.at["limit"], "limit", "rule "+loose.Name+" never denies first, as rule "+tight.Name+
				" counts the same requests by the same key and is no looser; want one of the two")
		}
	}
}

// bans tells whether the rule or an override of it bans.
func (r *Rule) bans() bool {
	for _, list := range r.overrides {
		if slices.ContainsFunc(list, func(o override) bool { return o.limit == 0 }) {
			return true
		}
	}
	return r.Limit == 0
}

// before tells whether r denies every request that b denies. It may miss it.
func (r *Rule) before(b *Rule) bool {
	return r.Limit != Unlimited && b.Limit >= r.Limit*int64((b.Window+r.Window-1)/r.Window) &&
		len(r.overrides)+len(b.overrides) == 0 && r.Shadow == b.Shadow && b.Buckets == 0 && !b.CountDenied &&
		r.OnError == b.OnError &&
		r.countsBy(b.Key) &&
		reflect.DeepEqual(r.match, b.match) && reflect.DeepEqual(r.exempt, b.exempt) &&
		r.when.same(b.when) && r.cost.same(b.cost)
}

// countsBy tells whether the rule counts by these attributes, in any order.
func (r *Rule) countsBy(key []Attribute) bool {
	return len(r.Key) == len(key) && every(key, func(a Attribute) bool {
		return slices.ContainsFunc(r.Key, func(b Attribute) bool { return a.Name == b.Name })
	})
}

// same tells whether two expressions, or their absence, are written the same.
func (e *expression) same(b *expression) bool {
	if e == nil || b == nil {
		return e == b
	}
	return e.text == b.text
}

// inside tells whether every request that fits f fits all of outer, which has
// a list. It may miss it.
func (f *filter) inside(outer *filter) bool {
	return !outer.empty() &&
		(len(outer.methods) == 0 || len(f.methods) > 0 && every(f.methods, func(m string) bool { return slices.Contains(outer.methods, m) })) &&
		covered(f.paths, outer.paths) && covered(f.routes, outer.routes) &&
		covered(f.hosts, outer.hosts) && covered(f.gateways, outer.gateways)
}

// covered tells whether whatever fits one of the patterns fits one of outer,
// which may be none.
func covered(patterns, outer []pattern) bool {
	if len(outer) == 0 {
		return true
	}
	return len(patterns) > 0 && every(patterns, func(p pattern) bool {
		return slices.ContainsFunc(outer, func(o pattern) bool { return o.covers(p) })
	})
}

// covers tells whether whatever fits p fits o.
func (o pattern) covers(p pattern) bool {
	if !p.glob {
		return anyOf([]pattern{o}, p.text)
	}
	if !o.glob {
		return false
	}
	if o.text == p.text || o.text == "**" {
		return true
	}
	return o.tree && strings.HasPrefix(p.prefix+"/", o.prefix+"/")
}

func every[T any](list []T, holds func(T) bool) bool {
	return !slices.ContainsFunc(list, func(t T) bool { return !holds(t) })
}
