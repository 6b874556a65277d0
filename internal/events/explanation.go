package events

import "time"

// Explanation says what would be decided of a request now, and what each rule
// of its tenant has to do with that, as if its id were new. Nothing was charged.
type Explanation struct {
	Decision Decision        `json:"decision"` // without an id, unless the request had one
	Rules    []ExplainedRule `json:"rules"`    // all that bind the tenant, in the order of the policy
}

// ExplainedRule is what one rule has to do with one request.
type ExplainedRule struct {
	Rule   string           `json:"rule"`
	Mode   string           `json:"mode,omitempty"`   // "shadow", or empty: enforced
	Why    string           `json:"why,omitempty"`    // why it would not be charged
	Charge *ExplainedCharge `json:"charge,omitempty"` // nil if it would not
}

// ExplainedCharge is what a rule would charge, and what there is of its window.
type ExplainedCharge struct {
	Key          string    `json:"key"`
	Limit        int64     `json:"limit"`
	WindowMS     int64     `json:"window_ms"`
	Buckets      int       `json:"buckets,omitempty"` // 0 is exact
	Cost         int64     `json:"cost"`
	Used         int64     `json:"used"`                     // units that count now
	Remaining    int64     `json:"remaining"`                // units left now
	ResetMS      int64     `json:"reset_ms,omitempty"`       // until the oldest unit counts no more, rounded up; absent if none does
	Passes       bool      `json:"passes"`                   // there is room for the cost
	RetryAfterMS int64     `json:"retry_after_ms,omitempty"` // until there is, rounded up; absent also if there never will be
	Override     string    `json:"override,omitempty"`       // whose limit it is if not the rule's own: "policy" or "command"
	Until        time.Time `json:"until,omitzero"`           // when that override ends
}

// Where an override is from.
const (
	OverridePolicy  = "policy"
	OverrideCommand = "command"
)

// MarshalJSON returns the decision as it travels.
func (d Decision) MarshalJSON() ([]byte, error) { return AppendDecision(nil, &d), nil }

// UnmarshalJSON reads a decision as it travels.
func (d *Decision) UnmarshalJSON(text []byte) (err error) {
	*d, err = DecodeDecision(text)
	return err
}
