package policy

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/weirhq/weir/internal/events"
)

// Charge is one rule's claim on one window for one request.
type Charge struct {
	Rule *Rule
	Key  string // the plain value of a one-attribute key, else a JSON array of them
	Cost int64  // units; 0 is a peek
}

// Matches is what Match finds. It is meant to be used again for the next
// request; its memory is reused then, but that of the keys is not.
type Matches struct {
	Charges []Charge
	Reason  events.Reason // ReasonRule, ReasonExempt or ReasonNoRule

	values []string
	text   bytes.Buffer
}

// Match finds what a request is charged: one charge for every rule that the
// request matches, that does not exempt it, and whose key it has all
// attributes of. The reason is ReasonExempt if there is no charge but a rule
// that exempts it. Keys may share the request's memory.
func (p *Policy) Match(r *events.Request, m *Matches) {
	m.Charges, m.Reason = m.Charges[:0], events.ReasonNoRule
	for _, rule := range p.Rules(r.Tenant) {
		if !rule.match.fits(r) {
			continue
		}
		if !rule.exempt.empty() && rule.exempt.fits(r) {
			if m.Reason == events.ReasonNoRule {
				m.Reason = events.ReasonExempt
			}
			continue
		}
		if key, ok := m.key(rule, r); ok {
			m.Charges = append(m.Charges, Charge{Rule: rule, Key: key, Cost: r.Units()})
			m.Reason = events.ReasonRule
		}
	}
}

// key returns the value a rule counts a request by, if it has all of it.
func (m *Matches) key(rule *Rule, r *events.Request) (string, bool) {
	if len(rule.Key) == 1 {
		value := rule.Key[0].value(r)
		return value, value != ""
	}
	m.values = m.values[:0]
	for i := range rule.Key {
		value := rule.Key[i].value(r)
		if value == "" {
			return "", false
		}
		m.values = append(m.values, value)
	}
	m.text.Reset()
	enc := json.NewEncoder(&m.text)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(m.values); err != nil {
		panic("policy: " + err.Error()) // strings, into memory
	}
	return string(bytes.TrimSuffix(m.text.Bytes(), []byte("\n"))), true
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
	for _, p := range patterns {
		if p.text == s || p.glob && doublestar.MatchUnvalidated(p.text, s) {
			return s != "" // a request without the attribute fits nothing
		}
	}
	return false
}

// pattern is a text to be met exactly or, if it holds one of * ? [ and \, a
// glob of doublestar: * is anything but a slash, ** anything at all.
type pattern struct {
	text string
	glob bool
}

// newPattern checks a pattern. Braces are literal, as in the route
// /users/{id}: alternatives are entries of the list.
func newPattern(text string) (pattern, bool) {
	if !strings.ContainsAny(text, `*?[\`) {
		return pattern{text: text}, true
	}
	glob := escapeBraces(text)
	return pattern{text: glob, glob: true}, doublestar.ValidatePattern(glob)
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
