package policy

import (
	"strings"
	"time"

	"cel.dev/cel-go/common/types"

	"github.com/weirhq/weir/internal/events"
)

// Finding is what one rule says of one request.
type Finding struct {
	Charge          // as Match finds it, if Why is empty; else the rule alone
	Why      string // why the rule charges nothing, for a person
	Override string // whose limit it is if not the rule's own: events.OverridePolicy or OverrideCommand
}

// Explain says of every rule of the request's tenant what Match makes of it,
// and why it makes nothing of it, in the order of the policy.
func (p *Policy) Explain(r *events.Request, at time.Time, live Live) []Finding {
	m := Matches{Live: live}
	var list []Finding
	for _, rule := range p.Rules(r.Tenant) {
		f := Finding{Charge: Charge{Rule: rule, Limit: Unlimited}}
		if !m.meets(r, rule) || !m.charge(&f.Charge, r, at) {
			f.Why = m.whyNot(rule, r)
		} else if f.Override = m.override(&f.Charge, r.Tenant, at); f.Limit == Unlimited {
			f.Why = whyExempt(&f)
		}
		list = append(list, f)
	}
	return list
}

// override tells whose a charge's limit is, if not the rule's own.
func (m *Matches) override(c *Charge, tenant string, at time.Time) string {
	switch _, live := m.Live.find(tenant, c, at); {
	case live:
		return events.OverrideCommand
	case c.Key != "" && (c.Limit != c.Rule.Limit || c.Window != c.Rule.Window):
		return events.OverridePolicy
	}
	return ""
}

// whyNot says why a rule has no say in a request.
func (m *Matches) whyNot(rule *Rule, r *events.Request) string {
	if !rule.match.fits(r) {
		return rule.match.miss(r)
	}
	if rule.when != nil {
		switch result, err := rule.when.value(m.subject.take(r)); {
		case err != nil:
			return "when: cannot be evaluated: " + err.Error()
		case result != types.True:
			return "when: false"
		}
	}
	for i := range rule.Key {
		if rule.Key[i].value(r) == "" {
			return "key: the request has no " + rule.Key[i].Name
		}
	}
	panic("policy: rule " + rule.Name + " matches")
}

func whyExempt(f *Finding) string {
	switch {
	case f.Key == "":
		return "exempt: " + f.Rule.exempt.lists()
	case f.Override == "":
		return "unlimited"
	case f.Until.IsZero():
		return "unlimited by an override"
	}
	return "unlimited by an override until " + f.Until.UTC().Format(time.RFC3339)
}

// miss says which list of a filter that a request does not fit it does not fit
// first.
func (f *filter) miss(r *events.Request) string {
	for _, l := range f.parts(r) {
		if len(l.want) > 0 && !l.fits {
			return (&events.FieldError{Field: l.name, Value: l.found, Want: anyWord(l.want)}).Error()
		}
	}
	panic("policy: the request fits")
}

// lists names the lists of a filter.
func (f *filter) lists() string {
	var names []string
	for _, l := range f.parts(&events.Request{}) {
		if len(l.want) > 0 {
			names = append(names, l.name)
		}
	}
	return strings.Join(names, ", ")
}

// filterList is one list of a filter, and what a request has for it.
type filterList struct {
	name  string
	want  []string
	found string
	fits  bool
}

func (f *filter) parts(r *events.Request) []filterList {
	texts := func(list []pattern) (texts []string) {
		for i := range list {
			texts = append(texts, unescapeBraces.Replace(list[i].text))
		}
		return texts
	}
	return []filterList{
		{"methods", f.methods, strings.ToUpper(r.Method), fold(f.methods, r.Method)},
		{"paths", texts(f.paths), r.Path, anyOf(f.paths, r.Path)},
		{"routes", texts(f.routes), r.Route, anyOf(f.routes, r.Route)},
		{"hosts", texts(f.hosts), r.Host, anyOf(f.hosts, strings.ToLower(r.Host))},
		{"gateways", texts(f.gateways), r.Gateway, anyOf(f.gateways, r.Gateway)},
	}
}

// unescapeBraces makes of a pattern what its policy says.
var unescapeBraces = strings.NewReplacer(`\{`, `{`, `\}`, `}`)

// maxWords is how many alternatives a person wants to read.
const maxWords = 5

// anyWord lists alternatives.
func anyWord(list []string) string {
	if len(list) > maxWords {
		return strings.Join(list[:maxWords], ", ") + " or another of the list"
	}
	last := len(list) - 1
	if last == 0 {
		return list[0]
	}
	return strings.Join(list[:last], ", ") + " or " + list[last]
}
