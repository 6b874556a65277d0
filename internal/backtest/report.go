package backtest

import (
	"time"
)

// Report is what a policy would have done. What shadow rules deny is admitted. Requests = Admitted + Denied +
// Exempt + NoRule. Its JSON is read by scripts and stays stable.
type Report struct {
	Tenant   string    `json:"tenant"`
	First    time.Time `json:"first"` // request, UTC
	Last     time.Time `json:"last"`
	Requests int64     `json:"requests"` // lines that are one
	BadLines int64     `json:"bad_lines"`
	Admitted int64     `json:"admitted"` // by all rules that apply
	Denied   int64     `json:"denied"`
	Exempt   int64     `json:"exempt"`
	NoRule   int64     `json:"no_rule"` // no rule applies
	Rules    []Rule    `json:"rules"`   // that bind the tenant, in the policy's order
	Bad      []BadLine `json:"bad"`     // the first bad lines
}

// Rule is what one rule did. It applied to Admitted + Denied + DeniedByOthers
// requests.
type Rule struct {
	Tenant         string `json:"tenant"`
	Rule           string `json:"rule"`
	Shadow         bool   `json:"shadow,omitempty"` // it denies in shadow: "others" are the other shadow rules then
	Limit          int64  `json:"limit"`            // without overrides; policy.Unlimited if there is none
	WindowMS       int64  `json:"window_ms"`
	Admitted       int64  `json:"admitted"`
	Denied         int64  `json:"denied"`           // it had no room for
	DeniedByOthers int64  `json:"denied_by_others"` // it had room for, another rule had not
	Keys           int64  `json:"keys"`
	KeysDenied     int64  `json:"keys_denied"`   // at least once
	LimitForAll    int64  `json:"limit_for_all"` // the least that would have denied nobody; 0 when nothing was asked for
	Top            []Key  `json:"top"`           // the keys denied most, equal ones by name
}

// Key is what one rule did to the requests of one key.
type Key struct {
	Key            string    `json:"key"`
	Admitted       int64     `json:"admitted"`
	Denied         int64     `json:"denied"`
	DeniedByOthers int64     `json:"denied_by_others"`
	FirstDenied    time.Time `json:"first_denied,omitzero"` // UTC
	LastDenied     time.Time `json:"last_denied,omitzero"`
	HighestUse     int64     `json:"highest_use"` // units asked for in one window, denied or not
}

// BadLine is a line of a log that could not be read.
type BadLine struct {
	Log   string `json:"log"`
	Line  int    `json:"line"` // from 1
	Text  string `json:"text"` // cut
	Error string `json:"error"`
}
