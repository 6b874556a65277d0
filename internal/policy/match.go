package policy

import (
	"bytes"
	"cmp"
	"encoding/json"
	"strings"
	"time"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/weirhq/weir/internal/events"
)

// Charge is one rule's claim on one window for one request.
type Charge struct {
	Rule   *Rule
	Key    string        // the plain value of a one-attribute key, else a JSON array of them
	Cost   int64         // units; 0 is a peek
	Limit  int64         // units in any window, 0..MaxLimit; 0 bans
	Window time.Duration // like the limit, the rule's or an override's
	Until  time.Time     // when the override ends; zero if none applies or it has no end
	Keep   time.Duration // longest window of this key now or once an override has ended
}

// Matches is what Match finds. It is meant to be used again for the next
// request; its memory is reused then, but that of the keys is not.
type Matches struct {
	Charges []Charge      // of the rules that are enforced
	Shadow  []Charge      // of the others
	Reason  events.Reason // ReasonRule, ReasonExempt or ReasonNoRule

	// Live are the overrides made by hand, for Match to heed: the caller's, and
	// not changed.
	Live Live

	subject subject
	values  []string
	text    bytes.Buffer
}

// Match finds what a request is charged at an instant: one charge for every
// rule that the request matches, that does not exempt it, and whose key it has
// all attributes of. A rule that is unlimited, by itself or by an override,
// exempts. An override in m.Live goes before those of the policy. The reason speaks of enforced rules: it is ReasonExempt if there is
// no charge but a rule that exempts the request. A ban asks for at least one
// unit, so that it denies peeks too. Keys may share the request's memory.
func (p *Policy) Match(r *events.Request, at time.Time, m *Matches) {
	m.Charges, m.Shadow, m.Reason = m.Charges[:0], m.Shadow[:0], events.ReasonNoRule
	m.subject.taken = false
	for _, rule := range p.Rules(r.Tenant) {
		if !m.meets(r, rule) {
			continue
		}
		c := Charge{Rule: rule, Limit: Unlimited}
		if m.charge(&c, r, at) {
			m.add(&c)
		}
	}
}

// Charge finds what one rule of the request's tenant charges it, whether or not
// it matches. It finds nothing of a rule that is not there, that exempts the
// request, or whose key the request has not.
func (p *Policy) Charge(rule string, r *events.Request, at time.Time, m *Matches) (Charge, bool) {
	m.subject.taken = false
	c := Charge{Rule: p.Rule(r.Tenant, rule), Limit: Unlimited}
	return c, c.Rule != nil && m.charge(&c, r, at) && c.Limit != Unlimited
}

// CountsDenied tells whether a rule of the request's tenant may count it also if
// it is denied: one that counts denied requests, or a shadow rule.
func (p *Policy) CountsDenied(r *events.Request, m *Matches) bool {
	m.subject.taken = false
	for _, rule := range p.Rules(r.Tenant) {
		if (rule.CountDenied || rule.Shadow) && m.meets(r, rule) {
			return true
		}
	}
	return false
}

// meets tells whether a request is one of those that a rule is for.
func (m *Matches) meets(r *events.Request, rule *Rule) bool {
	return rule.match.fits(r) && (rule.when == nil || rule.when.holds(m.subject.take(r)))
}

// charge makes the charge of the rule that it names, whose limit is Unlimited if
// the rule exempts the request, and tells whether the request has all of its key.
func (m *Matches) charge(c *Charge, r *events.Request, at time.Time) bool {
	rule := c.Rule
	if rule.exempt.empty() || !rule.exempt.fits(r) {
		var ok bool
		if c.Key, ok = m.key(rule, r); !ok {
			return false
		}
		rule.allow(c, m.values, at)
		if len(m.Live) > 0 {
			m.Live.allow(c, r.Tenant, at)
		}
	}
	if c.Limit != Unlimited {
		c.Cost = m.cost(rule, r, c.Limit)
	}
	return true
}

func (m *Matches) add(c *Charge) {
	switch {
	case c.Limit == Unlimited && (c.Rule.Shadow || m.Reason == events.ReasonRule):
	case c.Limit == Unlimited:
		m.Reason = events.ReasonExempt
	case c.Rule.Shadow:
		m.Shadow = append(m.Shadow, *c)
	default:
		m.Charges = append(m.Charges, *c)
		m.Reason = events.ReasonRule
	}
}

// OnError returns what becomes of the request when it is not decided: it is
// denied if a rule that charges it says so, else allowed. A rule that says
// nothing of its own says otherwise, and so does the want of any rule. What is
// exempt is allowed.
func (m *Matches) OnError(otherwise events.Verdict) events.Verdict {
	switch m.Reason {
	case events.ReasonNoRule:
		return otherwise
	case events.ReasonExempt:
		return events.Allow
	}
	for i := range m.Charges {
		if cmp.Or(m.Charges[i].Rule.OnError, otherwise) == events.Deny {
			return events.Deny
		}
	}
	return events.Allow
}

// cost returns what a rule with a limit charges a request.
func (m *Matches) cost(rule *Rule, r *events.Request, limit int64) int64 {
	cost := r.Units()
	if rule.cost != nil && !r.Peek {
		cost = rule.cost.units(m.subject.take(r), cost)
	}
	if limit == 0 {
		return max(cost, 1)
	}
	return cost
}

// key returns the value a rule counts a request by, if it has all of it, and
// leaves its parts in m.values.
func (m *Matches) key(rule *Rule, r *events.Request) (string, bool) {
	m.values = m.values[:0]
	for i := range rule.Key {
		value := rule.Key[i].value(r)
		if value == "" {
			return "", false
		}
		m.values = append(m.values, value)
	}
	return joinKey(m.values, &m.text), true
}

// joinKey makes a key of the values of a rule's attributes. It works in buf.
func joinKey(values []string, buf *bytes.Buffer) string {
	if len(values) == 1 {
		return values[0]
	}
	buf.Reset()
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(values); err != nil {
		panic("policy: " + err.Error()) // strings, into memory
	}
	return string(bytes.TrimSuffix(buf.Bytes(), []byte("\n")))
}

// filter is a match or exempt section: a request fits if it fits every list
// that is not empty, and a list if it fits one of its entries.
type filter struct {
	methods  []string // upper case
	paths    []pattern
	routes   []pattern
	hosts    []pattern // lower case
	gateways []pattern
}

func (f *filter) empty() bool {
	return len(f.methods)+len(f.paths)+len(f.routes)+len(f.hosts)+len(f.gateways) == 0
}

func (f *filter) fits(r *events.Request) bool {
	return (len(f.methods) == 0 || fold(f.methods, r.Method)) &&
		(len(f.paths) == 0 || anyOf(f.paths, r.Path)) &&
		(len(f.routes) == 0 || anyOf(f.routes, r.Route)) &&
		(len(f.hosts) == 0 || anyOf(f.hosts, strings.ToLower(r.Host))) &&
		(len(f.gateways) == 0 || anyOf(f.gateways, r.Gateway))
}

func fold(list []string, s string) bool {
	for _, entry := range list {
		if strings.EqualFold(entry, s) {
			return true
		}
	}
	return false
}

func anyOf(patterns []pattern, s string) bool {
	for i := range patterns {
		p := &patterns[i]
		if p.text == s || p.glob && strings.HasPrefix(s, p.prefix) && p.fits(s) {
			return s != "" // a request without the attribute fits nothing
		}
	}
	return false
}

// fits tells whether a text that begins with its prefix fits a glob.
func (p *pattern) fits(s string) bool {
	if p.tree {
		return len(s) == len(p.prefix) || s[len(p.prefix)] == '/'
	}
	return doublestar.MatchUnvalidated(p.text, s)
}

// pattern is a text to be met exactly or, if it holds one of * ? [ and \, a
// glob of doublestar: * is anything but a slash, ** anything at all.
type pattern struct {
	text   string
	glob   bool
	prefix string // of everything that a glob fits: what stands before its first special character
	tree   bool   // the glob is its prefix and /**
}

// special are the characters of a glob.
const special = `*?[\`

// newPattern checks a pattern. Braces are literal, as in the route
// /users/{id}: alternatives are entries of the list.
func newPattern(text string) (pattern, bool) {
	if !strings.ContainsAny(text, special) {
		return pattern{text: text}, true
	}
	glob := escapeBraces(text)
	prefix := glob[:strings.IndexAny(glob, special)]
	prefix = strings.TrimSuffix(prefix, "/") // /a/** fits /a
	return pattern{text: glob, glob: true, prefix: prefix, tree: glob == prefix+"/**"}, doublestar.ValidatePattern(glob)
}

func escapeBraces(text string) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		switch c := text[i]; c {
		case '{', '}':
			b.WriteByte('\\')
		case '\\':
			if i+1 < len(text) {
				b.WriteByte(c)
				i++
			}
		}
		b.WriteByte(text[i])
	}
	return b.String()
}
