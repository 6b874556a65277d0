package policy

import (
	"strconv"
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
			r.policy.OnError = events.Verdict(r.choice(n, "on_error", string(events.Allow), string(events.Deny)))
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
	var section section
	r.fields(n, "a tenant's section", field{name: "rules", must: true, read: func(n ast.Node) {
		seq, ok := n.(*ast.SequenceNode)
		if !ok || len(seq.Values) > maxRules {
			r.want(n, "rules", "a list of at most "+strconv.Itoa(maxRules)+" rules")
			return
		}
		for _, v := range seq.Values {
			rules = append(rules, r.rule(v, &section))
		}
	}})
	return rules
}
