package policy

import (
	"strconv"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

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
				h := &f.hosts[i]
				h.text, h.prefix = strings.ToLower(h.text), strings.ToLower(h.prefix)
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
