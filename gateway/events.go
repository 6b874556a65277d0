package gateway

import "github.com/weirhq/weir/internal/events"

// What travels. The fields are shown as they are declared elsewhere.
type (
	// Request is one API request: what Check, Report and Explain are given. Tenant
	// is required, Gateway is set by the client. An APIKey is given as it is, and
	// hashed before it travels.
	//
	//	type Request struct {
	//		ID      string     // any string to 128 bytes; made by the publisher or the limiter when missing
	//		Tenant  string     // one subject token
	//		Gateway string     // one subject token
	//		Time    time.Time  // when the request arrived at the gateway; zero when not given
	//		User    string     // who, if known
	//		APIKey  string     // on the wire the first 16 hex digits of the key's SHA-256
	//		IP      netip.Addr // the client's address; zero when not known
	//		Method  string
	//		Host    string
	//		Path    string
	//		Route   string // the path's template, such as /users/{id}
	//		Cost    int64  // units; 0 stands for 1
	//		Peek    bool   // asks without charging; on the wire, cost 0
	//		Attrs   string // a JSON object, or empty
	//
	//		// Of reports alone.
	//
	//		Status    int64 // HTTP status; 0 when not known
	//		LatencyUS int64
	//		BytesIn   int64
	//		BytesOut  int64
	//		Verdict   Verdict // what the gateway did, if it decided itself
	//		Reason    Reason  // why it did
	//		Rule      string  // of a local denial: the rule that had denied
	//		Count     int64   // requests folded into this one; 0 stands for 1
	//	}
	Request = events.Request

	// Outcome is what is known of a request only once it is answered. ID, the
	// request's, and Tenant are required, Gateway is set by the client.
	//
	//	type Outcome struct {
	//		ID        string    // the request's; required
	//		Tenant    string    // the request's: one subject token
	//		Gateway   string    // who tells of it: one subject token
	//		Time      time.Time // when the request was answered, by the gateway's clock; zero when not given
	//		Status    int64     // HTTP status; 0 when not known, like the rest
	//		LatencyUS int64
	//		BytesIn   int64
	//		BytesOut  int64
	//	}
	Outcome = events.Outcome

	// Decision is what was decided of a request.
	//
	//	type Decision struct {
	//		ID           string    // the request's
	//		Verdict      Verdict   // allow or deny
	//		Reason       Reason    // why
	//		Rule         string    // the rule that denied, or the tightest that admitted; empty when none bound
	//		Key          string    // the value the rule counts by: plain for one attribute, else a JSON array
	//		Limit        int64     // units in a window; meaningful with a Rule, like the next four
	//		WindowMS     int64     // the window's length, milliseconds
	//		Remaining    int64     // units left now
	//		ResetMS      int64     // until the oldest admission leaves the window, milliseconds rounded up
	//		RetryAfterMS int64     // shortest wait after which it would pass, rounded up; 0 when allowed, or when it can never pass
	//		Cost         int64     // units charged, or asked for when denied
	//		Violated     []string  // every enforced rule without room, if that is more than Rule
	//		Shadow       []string  // shadow rules that would have denied, had they been enforced alone
	//		Policy       uint64    // revision decided under; 0 is the built-in default
	//		Degraded     bool      // given before the journal had it
	//		DecidedAt    time.Time // the owner's clock, whole microseconds, never going back
	//	}
	Decision = events.Decision

	// Explanation is what would be decided of a request, and why.
	//
	//	type Explanation struct {
	//		Decision Decision        // without an id, unless the request had one
	//		Rules    []ExplainedRule // all that bind the tenant, in the order of the policy
	//	}
	Explanation = events.Explanation

	// ExplainedRule is what one rule has to do with a request.
	//
	//	type ExplainedRule struct {
	//		Rule   string
	//		Mode   string           // "shadow", or empty: enforced
	//		Why    string           // why it would not be charged
	//		Charge *ExplainedCharge // nil if it would not
	//	}
	ExplainedRule = events.ExplainedRule

	// ExplainedCharge is what a rule would charge, and what there is of its window.
	//
	//	type ExplainedCharge struct {
	//		Key          string
	//		Limit        int64
	//		WindowMS     int64
	//		Buckets      int // 0 is exact
	//		Cost         int64
	//		Used         int64     // units that count now
	//		Remaining    int64     // units left now
	//		ResetMS      int64     // until the oldest unit counts no more, rounded up; absent if none does
	//		Passes       bool      // there is room for the cost
	//		RetryAfterMS int64     // until there is, rounded up; absent also if there never will be
	//		Override     string    // whose limit it is if not the rule's own: "policy" or "command"
	//		Until        time.Time // when that override ends
	//	}
	ExplainedCharge = events.ExplainedCharge

	// Command asks for a reset, an override, the end of one, or the list of those
	// in force.
	//
	//	type Command struct {
	//		ID    string      // the same id again gets the same answer and is done once
	//		Kind  ControlKind // reset, override or lift; or list: the overrides in force
	//		Rule  string
	//		Key   []string  // the values of the rule's attributes, in order
	//		Limit string    // of an override, as in a policy: 3000/min
	//		Until time.Time // of an override
	//		By    string    // who asks
	//	}
	Command = events.Command

	// Control is what a command has done to one key.
	//
	//	type Control struct {
	//		Kind     ControlKind
	//		ID       string // the command's; controls of one command share it
	//		Tenant   string
	//		Rule     string
	//		Key      string    // as decisions have it: plain for one attribute, else a JSON array
	//		Limit    int64     // of an override: units in a window; 0 bans
	//		WindowMS int64     // of an override
	//		Until    time.Time // of an override: the first instant at which it no longer applies
	//		By       string    // who did it
	//		Policy   uint64    // revision that was decided under
	//		At       time.Time // the owner's clock, whole microseconds
	//
	//		// Block is the sequence of the journal's block that holds it, as whoever
	//		// reads the block knows; it is not in the record itself.
	//		Block uint64
	//	}
	Control = events.Control

	// FieldError says which field is wrong, what it held, and what was expected.
	//
	//	type FieldError struct {
	//		Field string // the field's name on the wire; empty for the whole payload
	//		Value string // what was found
	//		Want  string // what would have been right
	//	}
	FieldError = events.FieldError

	// Verdict is what became of a request: Allow or Deny.
	Verdict = events.Verdict

	// Reason says why a verdict is what it is.
	Reason = events.Reason

	// ControlKind is what a command asks for: Reset, Override, Lift or List.
	ControlKind = events.ControlKind
)

// The two verdicts.
const (
	Allow = events.Allow
	Deny  = events.Deny
)

// The reasons of decisions.
const (
	ReasonRule        = events.ReasonRule        // a rule admitted it, or had no room
	ReasonExempt      = events.ReasonExempt      // every rule that matched exempts it, or is unlimited
	ReasonNoRule      = events.ReasonNoRule      // no rule matched, or none could build its key
	ReasonLocal       = events.ReasonLocal       // the client denied it itself, from a remembered denial
	ReasonTimeout     = events.ReasonTimeout     // no decision came in time: the policy's on_error spoke
	ReasonUnavailable = events.ReasonUnavailable // the limiter could not ask its windows: on_error spoke
)

// The kinds of commands.
const (
	Reset    = events.ControlReset    // what the key was charged so far counts no more
	Override = events.ControlOverride // the key has another limit until a time
	Lift     = events.ControlLift     // the key's override ends now
	List     = events.CommandList     // the overrides in force
)
