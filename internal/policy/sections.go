package policy

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"

	"github.com/weirhq/weir/internal/events"
)

func (r *reader) file(root ast.Node) {
	r.fields(root, "the policy",
		field{name: "version", must: true, read: func(n ast.Node) {
			if text, _ := scalar(n); text != "1" {
				r.want(n, "version", "1")
			}
		}},
		field{name: "defaults", read: r.defaults},
		field{name: "tenants", must: true, read: func(n ast.Node) {
			r.members(n, "tenants", func(key ast.Node, tenant string, section ast.Node) {
				if tenant != everybody {
					if err := events.CheckToken("tenant", tenant); err != nil {
						r.fault(key, err)
					}
				}
				r.policy.tenants[tenant] = r.tenant(section)
			})
		}})
}

func (r *reader) defaults(n ast.Node) {
	r.fields(n, "defaults",
		field{name: "on_error", read: func(n ast.Node) {
			text, _ := scalar(n)
			if r.policy.OnError = events.Verdict(text); text != string(events.Allow) && text != string(events.Deny) {
				r.want(n, "on_error", "allow or deny")
			}
		}},
		field{name: "timeout", read: func(n ast.Node) {
			text, _ := scalar(n)
			d, err := time.ParseDuration(text)
			if r.policy.Timeout = d; err != nil || d < time.Millisecond || d > maxTimeout {
				r.want(n, "timeout", "a duration from 1ms to 1m, such as 50ms")
			}
		}})
}

func (r *reader) tenant(n ast.Node) (rules []*Rule) {
	r.fields(n, "a tenant's section", field{name: "rules", must: true, read: func(n ast.Node) {
		seq, ok := n.(*ast.SequenceNode)
		if !ok || len(seq.Values) > maxRules {
			r.want(n, "rules", "a list of at most "+strconv.Itoa(maxRules)+" rules")
			return
		}
		for _, v := range seq.Values {
			rules = append(rules, r.rule(v, rules))
		}
	}})
	return rules
}

var ruleName = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// rule reads one rule; before are those that stand before it in the section.
func (r *reader) rule(n ast.Node, before []*Rule) *Rule {
	rule := new(Rule)
	r.fields(n, "a rule",
		field{name: "name", must: true, read: func(n ast.Node) {
			rule.Name, _ = scalar(n)
			switch {
			case !ruleName.MatchString(rule.Name):
				r.want(n, "name", "1 to 64 characters of A-Z a-z 0-9 _ . -")
			case slices.ContainsFunc(before, func(b *Rule) bool { return b.Name == rule.Name }):
				r.want(n, "name", "a name that no other rule of the section has")
			}
		}},
		field{name: "limit", must: true, read: func(n ast.Node) {
			text, ok := r.text(n, "limit", "units per time, such as 256/min")
			if !ok {
				return
			}
			var err error
			if rule.Limit, rule.Window, err = parseLimit(text); err != nil {
				r.fault(n, err)
			}
		}},
		field{name: "key", must: true, read: func(n ast.Node) {
			r.list(n, "key", maxKey, func(at ast.Node, text string) {
				a, ok := parseAttribute(text)
				switch {
				case !ok:
					r.want(at, "key", attributeForms)
				case slices.ContainsFunc(rule.Key, func(b Attribute) bool { return b.Name == text }):
					r.want(at, "key", "each attribute once")
				default:
					rule.Key = append(rule.Key, a)
				}
			})
		}},
		field{name: "match", read: func(n ast.Node) { rule.match = r.filter(n, "match") }},
		field{name: "exempt", read: func(n ast.Node) { rule.exempt = r.filter(n, "exempt") }},
		field{name: "when"}, field{name: "cost"}, field{name: "algorithm"}, field{name: "mode"},
		field{name: "overrides"}, field{name: "count_denied"}, field{name: "on_error"})
	return rule
}

// filter reads a match or exempt section. An empty one would hold for every
// request, which nobody means who writes it down.
func (r *reader) filter(n ast.Node, in string) (f filter) {
	before := len(r.faults)
	r.fields(n, in,
		field{name: "methods", read: func(n ast.Node) {
			r.list(n, "methods", maxPatterns, func(at ast.Node, text string) {
				if strings.ContainsAny(text, "* \t/") {
					r.want(at, "methods", "a method such as GET")
				}
				f.methods = append(f.methods, strings.ToUpper(text))
			})
		}},
		field{name: "paths", read: func(n ast.Node) {
			f.paths = r.patterns(n, "paths", func(text string) string {
				if text[0] != '/' && text[0] != '*' || strings.ContainsAny(text, "{}") {
					return "a path or glob such as /api/** that begins with a slash and has no braces " +
						"(alternatives are entries of the list, templates are for routes)"
				}
				return ""
			})
		}},
		field{name: "routes", read: func(n ast.Node) { f.routes = r.patterns(n, "routes", nil) }},
		field{name: "hosts", read: func(n ast.Node) {
			f.hosts = r.patterns(n, "hosts", nil)
			for i := range f.hosts {
				f.hosts[i].text = strings.ToLower(f.hosts[i].text)
			}
		}},
		field{name: "gateways", read: func(n ast.Node) { f.gateways = r.patterns(n, "gateways", nil) }})
	if f.empty() && len(r.faults) == before {
		r.want(n, in, "at least one of methods, paths, routes, hosts, gateways")
	}
	return f
}

// patterns reads a list of patterns. refuse, if not nil, says what is wanted
// in place of one that its field does not take.
func (r *reader) patterns(n ast.Node, name string, refuse func(text string) string) (list []pattern) {
	r.list(n, name, maxPatterns, func(at ast.Node, text string) {
		p, ok := newPattern(text)
		want := "a text or a glob such as /api/**, at most " + strconv.Itoa(maxPattern) + " bytes"
		if ok = ok && len(text) <= maxPattern; ok && refuse != nil {
			want = refuse(text)
			ok = want == ""
		}
		if !ok {
			r.want(at, name, want)
			return
		}
		list = append(list, p)
	})
	return list
}
