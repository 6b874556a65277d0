// Package policy reads the policy file and says which rules of it a request
// is charged by. A tenant with a section of its own is bound by that section
// alone, every other tenant by the section "*".
//
// A Policy does not change once it is made, so any number of goroutines may
// match against it. The nil Policy has no rules.
package policy

import (
	_ "embed"
	"time"

	"github.com/weirhq/weir/internal/events"
)

// Bounds of what a policy may say.
const (
	MaxLimit  = 1_000_000_000_000   // units in a window
	MaxWindow = 25 * 24 * time.Hour // what the stores of windows can keep

	maxSource     = 256 << 10   // bytes of the file
	maxNesting    = 16          // of lists and maps in one another
	maxRules      = 100         // of one tenant
	maxKey        = 8           // attributes of one key
	maxPatterns   = 100         // of one list
	maxPattern    = 1 << 10     // bytes
	maxExpression = 2 << 10     // characters of a condition or a cost
	maxOverrides  = 1000        // of one rule
	maxTimeout    = time.Minute // a gateway holds the request for so long
)

// everybody is the section of the tenants that have none of their own.
const everybody = "*"

// Policy is a policy file, read.
type Policy struct {
	Revision uint64         // set by whoever loads it; 0 is the built-in policy
	OnError  events.Verdict // what becomes of a request that is not decided, if no rule says
	Timeout  time.Duration  // how long it waits for one

	tenants map[string][]*Rule
}

// Buckets is into how many parts the algorithm buckets cuts a window: at steady
// load it admits 60/61 of the limit, and a key holds 61 entries at most.
const Buckets = 60

// Rule is one limit.
type Rule struct {
	Name        string         // unique in its section
	Limit       int64          // units in any window, 0..MaxLimit or Unlimited; 0 bans
	Window      time.Duration  // whole seconds, 1s..MaxWindow
	Key         []Attribute    // what it counts by, 1..8
	Buckets     int            // 0 is exact, else Buckets
	Shadow      bool           // decided and recorded, never enforced
	CountDenied bool           // denied requests are charged too
	OnError     events.Verdict // what becomes of a request that is not decided; empty is as the policy says

	match     filter
	exempt    filter
	when      *expression           // nil holds always
	cost      *expression           // nil is what the request weighs
	overrides map[string][]override // by their first value, in the order of the file
}

// LongestWindow returns the longest window that the rule or an override of it
// names.
func (r *Rule) LongestWindow() time.Duration {
	longest := r.Window
	for _, list := range r.overrides {
		for i := range list {
			longest = max(longest, list[i].window)
		}
	}
	return longest
}

//go:embed default.yaml
var defaultSource string

//go:embed schema.json
var schema string

// Schema returns the JSON Schema of policy files, for editors. What it accepts
// may still have faults that only Lint tells.
func Schema() string { return schema }

// DefaultSource returns the text of the built-in policy.
func DefaultSource() string { return defaultSource }

// Default returns the built-in policy.
func Default() *Policy {
	p, err := Parse([]byte(defaultSource))
	if err != nil {
		panic("policy: the built-in policy: " + err.Error())
	}
	return p
}

// Rules returns the rules that bind a tenant, in the order of the file. They
// are the policy's own.
func (p *Policy) Rules(tenant string) []*Rule {
	if p == nil {
		return nil
	}
	rules, own := p.tenants[tenant]
	if !own {
		rules = p.tenants[everybody]
	}
	return rules
}

// Rule returns the rule of that name that binds a tenant, or nil.
func (p *Policy) Rule(tenant, name string) *Rule {
	for _, rule := range p.Rules(tenant) {
		if rule.Name == name {
			return rule
		}
	}
	return nil
}

// LongestWindow returns for how long an admission can have a say in a decision:
// the longest window of any rule, and a part more of one in buckets; 0 without
// rules.
func (p *Policy) LongestWindow() (longest time.Duration) {
	if p == nil {
		return 0
	}
	for _, rules := range p.tenants {
		for _, rule := range rules {
			window := rule.LongestWindow()
			if rule.Buckets > 0 {
				window += window/time.Duration(rule.Buckets) + time.Microsecond
			}
			longest = max(longest, window)
		}
	}
	return longest
}
