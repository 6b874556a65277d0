package policy

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"cel.dev/cel-go/cel"
	"github.com/goccy/go-yaml/ast"

	"github.com/weirhq/weir/internal/events"
)

var ruleName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// section is a tenant's rules, those that have been read.
type section struct {
	rules []*Rule
	sound []*Rule // of them without a fault
}

// ruleReader reads one rule. Where its fields are is for warnings.
type ruleReader struct {
	*reader
	rule *Rule
	at   map[string]ast.Node
}

// rule reads one rule of a section.
func (r *reader) rule(n ast.Node, s *section) *Rule {
	before := len(r.faults)
	q := ruleReader{r, &Rule{}, map[string]ast.Node{}}
	var overrides ast.Node // read last, when the key is known
	known := []field{
		{name: "name", must: true, read: func(n ast.Node) { q.name(n, s) }},
		{name: "limit", must: true, read: func(n ast.Node) { q.rule.Limit, q.rule.Window = q.limit(n) }},
		{name: "key", must: true, read: q.key},
		{name: "match", read: func(n ast.Node) { q.rule.match = r.filter(n, "match") }},
		{name: "exempt", read: func(n ast.Node) { q.rule.exempt = r.filter(n, "exempt") }},
		{name: "when", read: func(n ast.Node) {
			q.rule.when = r.expression(n, "when", "a condition, which is true or false", cel.BoolType, cel.DynType)
		}},
		{name: "cost", read: func(n ast.Node) {
			q.rule.cost = r.expression(n, "cost", "a number of units", cel.IntType, cel.UintType, cel.DoubleType, cel.DynType)
			if q.rule.cost != nil && q.rule.cost.outOfBounds() {
				r.want(n, "cost", "units from 0 to "+strconv.FormatInt(events.MaxCost, 10))
			}
		}},
		{name: "algorithm", read: func(n ast.Node) {
			if r.choice(n, "algorithm", "exact", "buckets") == "buckets" {
				q.rule.Buckets = Buckets
			}
		}},
		{name: "mode", read: func(n ast.Node) {
			q.rule.Shadow = r.choice(n, "mode", "enforce", events.ModeShadow) == events.ModeShadow
		}},
		{name: "count_denied", read: func(n ast.Node) { q.rule.CountDenied = r.choice(n, "count_denied", "true", "false") == "true" }},
		{name: "on_error", read: func(n ast.Node) {
			q.rule.OnError = events.Verdict(r.choice(n, "on_error", string(events.Allow), string(events.Deny)))
		}},
		{name: "overrides", read: func(n ast.Node) { overrides = n }},
	}
	for i := range known {
		read := known[i].read
		known[i].read = func(n ast.Node) { q.at[known[i].name] = n; read(n) }
	}
	r.fields(n, "a rule", known...)
	if overrides != nil && len(q.rule.Key) > 0 {
		q.overrides(overrides)
	}
	s.rules = append(s.rules, q.rule)
	if len(r.faults) == before {
		q.lint(s.sound)
		s.sound = append(s.sound, q.rule)
	}
	return q.rule
}

func (q *ruleReader) name(n ast.Node, s *section) {
	q.rule.Name, _ = scalar(n)
	switch {
	case !ruleName.MatchString(q.rule.Name):
		q.want(n, "name", "1 to 64 characters of A-Z a-z 0-9 _ . -")
	case slices.ContainsFunc(s.rules, func(b *Rule) bool { return b.Name == q.rule.Name }):
		q.want(n, "name", "a name that no other rule of the section has")
	}
}

func (q *ruleReader) key(n ast.Node) {
	q.list(n, "key", maxKey, func(at ast.Node, text string) {
		a, ok := parseAttribute(text)
		switch {
		case !ok:
			q.want(at, "key", attributeForms)
		case slices.ContainsFunc(q.rule.Key, func(b Attribute) bool { return b.Name == text }):
			q.want(at, "key", "each attribute once")
		default:
			q.rule.Key = append(q.rule.Key, a)
		}
	})
}

// limit reads the limit of a rule or of an override.
func (r *reader) limit(n ast.Node) (limit int64, window time.Duration) {
	text, ok := r.text(n, "limit", limitForms)
	if !ok {
		return 0, 0
	}
	limit, window, err := ParseLimit(text)
	if err != nil {
		r.fault(n, err)
	}
	return limit, window
}

// choice reads one of several words; the first if it is none of them.
func (r *reader) choice(n ast.Node, field string, words ...string) string {
	text, _ := scalar(n)
	if !slices.Contains(words, text) {
		r.want(n, field, strings.Join(words, " or "))
		return words[0]
	}
	return text
}

// overrides reads the overrides of a rule whose key is known.
func (q *ruleReader) overrides(n ast.Node) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok || len(seq.Values) > maxOverrides {
		q.want(n, "overrides", "a list of at most "+strconv.Itoa(maxOverrides)+" overrides such as { key: [batch], limit: 3000/min }")
		return
	}
	q.rule.overrides = map[string][]override{}
	for _, v := range seq.Values {
		before := len(q.faults)
		o := q.override(v)
		if len(q.faults) > before {
			continue
		}
		list := q.rule.overrides[o.key[0]]
		if i := slices.IndexFunc(list, func(a override) bool { return a.covers(&o) && a.outlasts(&o) }); i >= 0 {
			q.warn(v, "overrides", "an override before it takes in this key, so it never applies; want it first, or left out")
		}
		q.rule.overrides[o.key[0]] = append(list, o)
	}
}

func (q *ruleReader) override(n ast.Node) (o override) {
	q.fields(n, "an override",
		field{name: "key", must: true, read: func(n ast.Node) {
			q.list(n, "key", len(q.rule.Key), func(at ast.Node, text string) {
				a := &q.rule.Key[len(o.key)]
				value, ok := a.canonical(text)
				if !ok {
					q.want(at, "key", "a value that "+a.Name+" can have")
				}
				o.key = append(o.key, value)
			})
		}},
		field{name: "limit", must: true, read: func(n ast.Node) { o.limit, o.window = q.limit(n) }},
		field{name: "until", read: func(n ast.Node) {
			text, _ := scalar(n)
			var err error
			if o.until, err = time.Parse(time.RFC3339, text); err != nil || o.until.IsZero() {
				q.want(n, "until", "a time such as 2026-12-31T00:00:00Z (RFC 3339)")
			}
		}})
	return o
}

// expression reads a value in CEL.
func (r *reader) expression(n ast.Node, field, wanted string, types ...*cel.Type) *expression {
	text, ok := r.text(n, field, wanted+", in CEL")
	if !ok {
		return nil
	}
	if utf8.RuneCountInString(text) > maxExpression {
		r.want(n, field, "at most "+strconv.Itoa(maxExpression)+" characters")
		return nil
	}
	e, faults := compile(text, wanted, types...)
	for _, f := range faults {
		line, column := r.within(n, f)
		r.faults = append(r.faults, &Fault{Line: line, Column: column, Err: &fieldFault{field, f}})
	}
	return e
}

// fieldFault says which field an expression's fault is in.
type fieldFault struct {
	field string
	err   error
}

func (f *fieldFault) Error() string { return f.field + ": " + f.err.Error() }

func (f *fieldFault) Unwrap() error { return f.err }
