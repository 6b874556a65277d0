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

	*History // nil for logs
}

// History is what a policy would change of what a running system has decided.
type History struct {
	Source string    `json:"source"` // that it was read from: journal or postgres
	From   time.Time `json:"from"`   // first moment asked for
	Until  time.Time `json:"until"`  // the moment after the last
	Changes
	Late  int64 `json:"late"`  // reports that came too late to be charged: left out
	Twice int64 `json:"twice"` // let through without a decision and decided after all: counted once
	Then  []Was `json:"then"`  // the rules that denied, by most denied
}

// Changes count requests by what a policy would change of what was decided.
type Changes struct {
	Same             int64     `json:"same"`
	NewlyDenied      int64     `json:"newly_denied"`
	NewlyAdmitted    int64     `json:"newly_admitted"`
	FirstNewlyDenied time.Time `json:"first_newly_denied,omitzero"` // UTC
	LastNewlyDenied  time.Time `json:"last_newly_denied,omitzero"`
}

// Was is what a rule has denied. The policy may not have it.
type Was struct {
	Rule              string   `json:"rule"` // empty where none is known
	Denied            int64    `json:"denied"`
	NewlyAdmitted     int64    `json:"newly_admitted"` // of them
	Keys              int64    `json:"keys"`           // that it denied
	KeysNewlyAdmitted int64    `json:"keys_newly_admitted"`
	Top               []WasKey `json:"top"` // the keys newly admitted most
}

// WasKey is what a rule has denied to one key.
type WasKey struct {
	Key           string `json:"key"`
	Denied        int64  `json:"denied"`
	NewlyAdmitted int64  `json:"newly_admitted"`
}

// RuleChanges is what one rule changes: what it newly denies, and what it admits,
// as all others do, of what was denied. A shadow rule admits nothing.
type RuleChanges struct {
	Changes
	KeysChanged       int64  `json:"keys_changed"`
	KeysNewlyDenied   int64  `json:"keys_newly_denied"`
	KeysNewlyAdmitted int64  `json:"keys_newly_admitted"`
	FirstKey          string `json:"first_key,omitempty"` // newly denied first
	Changed           []Key  `json:"changed"`             // the keys with the most changes
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

	*RuleChanges // nil for logs
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

	*Changes // nil for logs
}

// BadLine is a line of a log that could not be read.
type BadLine struct {
	Log   string `json:"log"`
	Line  int    `json:"line"` // from 1
	Text  string `json:"text"` // cut
	Error string `json:"error"`
}
