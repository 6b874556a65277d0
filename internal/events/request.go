package events

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"time"
)

// Verdict is what became of a request.
type Verdict string

// The two verdicts.
const (
	Allow Verdict = "allow"
	Deny  Verdict = "deny"
)

// Reason says why a verdict is what it is.
type Reason string

// The reasons.
const (
	ReasonRule    Reason = "rule"    // a rule admitted it, or had no room
	ReasonExempt  Reason = "exempt"  // every enforced rule that matched exempts it, or is unlimited
	ReasonNoRule  Reason = "no_rule" // no enforced rule matched, or none could build its key
	ReasonLocal   Reason = "local"   // the gateway denied it itself, from a remembered denial
	ReasonTimeout Reason = "timeout" // no decision came in time; on_error spoke
	ReasonLate    Reason = "late"    // a report more than a window old; charges nothing

	// ReasonUnavailable says that the windows could not be asked: the rules'
	// on_error spoke, and nothing is charged.
	ReasonUnavailable Reason = "unavailable"
)

// Request is one API request, as a gateway publishes it: a check or a report.
//
// Strings decoded from a payload share the payload's memory: clone what
// outlives the request.
type Request struct {
	ID      string     // any string to 128 bytes; made by the publisher or the limiter when missing
	Tenant  string     // one subject token
	Gateway string     // one subject token
	Time    time.Time  // when the request arrived at the gateway; zero when not given
	User    string     // who, if known
	APIKey  string     // on the wire the first 16 hex digits of the key's SHA-256
	IP      netip.Addr // the client's address; zero when not known
	Method  string
	Host    string
	Path    string
	Route   string // the path's template, such as /users/{id}
	Cost    int64  // units; 0 stands for 1
	Peek    bool   // asks without charging; on the wire, cost 0
	Attrs   string // a JSON object, or empty

	// Of reports alone.

	Status    int64 // HTTP status; 0 when not known
	LatencyUS int64
	BytesIn   int64
	BytesOut  int64
	Verdict   Verdict // what the gateway did, if it decided itself
	Reason    Reason  // why it did
	Rule      string  // of a local denial: the rule that had denied
	Count     int64   // requests folded into this one; 0 stands for 1
}

// Units returns what the request weighs: 0 for a peek, else at least 1.
func (r *Request) Units() int64 {
	if r.Peek {
		return 0
	}
	return max(r.Cost, 1)
}

// Identity returns who the request counts against when a rule says no more:
// the user if known, else the API key's hash, else the client's address. It is
// empty when none is known.
func (r *Request) Identity() string {
	switch {
	case r.User != "":
		return r.User
	case r.APIKey != "":
		return r.APIKey
	case r.IP.IsValid():
		return r.IP.String()
	}
	return ""
}

// HashAPIKey returns what travels in place of an API key: the first 16 hex
// digits of its SHA-256.
func HashAPIKey(key string) string {
	if key == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(key))
	return hex.EncodeToString(sum[:8])
}

// Outcome is what is known of a request only once it is answered.
//
// Strings decoded from a payload share the payload's memory, like a Request's.
type Outcome struct {
	ID        string    // the request's; required
	Tenant    string    // the request's: one subject token
	Gateway   string    // who tells of it: one subject token
	Time      time.Time // when the request was answered, by the gateway's clock; zero when not given
	Status    int64     // HTTP status; 0 when not known, like the rest
	LatencyUS int64
	BytesIn   int64
	BytesOut  int64
}

// Decision is what the limiter says of one request.
type Decision struct {
	ID           string    // the request's
	Verdict      Verdict   // allow or deny
	Reason       Reason    // why
	Rule         string    // the rule that denied, or the tightest that admitted; empty when none bound
	Key          string    // the value the rule counts by: plain for one attribute, else a JSON array
	Limit        int64     // units in a window; meaningful with a Rule, like the next four
	WindowMS     int64     // the window's length, milliseconds
	Remaining    int64     // units left now
	ResetMS      int64     // until the oldest admission leaves the window, milliseconds rounded up
	RetryAfterMS int64     // shortest wait after which it would pass, rounded up; 0 when allowed, or when it can never pass
	Cost         int64     // units charged, or asked for when denied
	Violated     []string  // every enforced rule without room, if that is more than Rule
	Shadow       []string  // shadow rules that would have denied, had they been enforced alone
	Policy       uint64    // revision decided under; 0 is the built-in default
	Degraded     bool      // given before the journal had it
	DecidedAt    time.Time // the owner's clock, whole microseconds, never going back
}

// ModeShadow is the mode of a charge that is decided and not enforced.
const ModeShadow = "shadow"

// Charge is one rule's claim on one window. The charges of enforced rules are
// made if the verdict is allow, those of shadow rules if none of them is
// denied; besides, each that says so.
type Charge struct {
	Rule         string `json:"rule"`
	Key          string `json:"key"`
	Limit        int64  `json:"limit"`
	WindowMS     int64  `json:"window_ms"`
	Cost         int64  `json:"cost"`
	Remaining    int64  `json:"remaining"`
	RetryAfterMS int64  `json:"retry_after_ms,omitempty"` // of a charge without room; absent also if it can never pass
	Denied       bool   `json:"denied,omitempty"`         // this charge had no room
	Charged      bool   `json:"charged,omitempty"`        // made although the others were not: the rule counts denied requests; of its units the newest count, as many as the limit
	Buckets      int    `json:"buckets,omitempty"`        // into how many parts the window is cut; 0 is exact
	Mode         string `json:"mode,omitempty"`           // ModeShadow, or empty: enforced
}

// Record is one line of a block of the journal: a request with its decision.
//
// Exactly one of three forms is used: a decided request; a refused report, which
// is kept so that nothing vanishes; or what was done to a key by hand.
type Record struct {
	Request  Request
	Decision Decision
	Charges  []Charge // every rule that matched, the enforced ones first; none if the decision says it all: one enforced rule, exact, that counts no denied requests
	Refused  *Refusal // a report that could not be read; nothing else is set then
	Control  *Control // what was done by hand; nothing else is set then
}

// Refusal is a payload that got into the reports stream and could not be read.
type Refusal struct {
	Subject string    `json:"subject"` // where it came from
	Payload []byte    `json:"payload"` // what came, cut at MaxPayload; base64 on the wire
	Error   string    `json:"error"`   // what is wrong with it
	At      time.Time `json:"at"`      // the owner's clock, whole microseconds
}
