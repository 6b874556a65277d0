package events

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ControlKind is what somebody who looks after limits does to one key.
type ControlKind string

// The kinds. Of them NoticePolicy is only told of, never recorded: the policy
// is in its bucket.
const (
	ControlReset    ControlKind = "reset"    // what the key was charged so far counts no more
	ControlOverride ControlKind = "override" // the key has another limit until a time
	ControlLift     ControlKind = "lift"     // the key's override ends now
	NoticePolicy    ControlKind = "policy"   // a revision is decided under
)

// Control is what was done to one key by hand: a record of the journal like the
// decisions around it. It charges nothing.
type Control struct {
	Kind     ControlKind `json:"kind"`
	ID       string      `json:"id"` // the command's; controls of one command share it
	Tenant   string      `json:"tenant"`
	Rule     string      `json:"rule"`
	Key      string      `json:"key"`                 // as decisions have it: plain for one attribute, else a JSON array
	Limit    int64       `json:"limit"`               // of an override: units in a window; 0 bans
	WindowMS int64       `json:"window_ms,omitempty"` // of an override
	Until    time.Time   `json:"until,omitzero"`      // of an override: the first instant at which it no longer applies
	By       string      `json:"by"`                  // who did it
	Policy   uint64      `json:"policy"`              // revision that was decided under
	At       time.Time   `json:"at"`                  // the owner's clock, whole microseconds

	// Block is the sequence of the journal's block that holds it, as whoever
	// reads the block knows; it is not in the record itself.
	Block uint64 `json:"block,omitempty"`
}

// controlStart is how the line of a control begins, and no other.
const controlStart = `{"control":`

// IsControl tells whether a block's line is the record of a control, without
// reading more of it than its beginning.
func IsControl(line string) bool { return strings.HasPrefix(line, controlStart) }

// Command is what is asked of the limiter that owns a tenant's shard. The
// tenant is in the subject.
type Command struct {
	ID    string      `json:"id"`   // the same id again gets the same answer and is done once
	Kind  ControlKind `json:"kind"` // reset, override or lift; or list: the overrides in force
	Rule  string      `json:"rule,omitempty"`
	Key   []string    `json:"key,omitempty"`   // the values of the rule's attributes, in order
	Limit string      `json:"limit,omitempty"` // of an override, as in a policy: 3000/min
	Until time.Time   `json:"until,omitzero"`  // of an override
	By    string      `json:"by,omitempty"`    // who asks
}

// CommandList asks for the overrides in force. It is not recorded.
const CommandList ControlKind = "list"

// CommandAnswer is what came of a command: a control for each key that it
// concerned, in the journal by now.
type CommandAnswer struct {
	Controls []Control `json:"controls"`
}

// DecodeCommand reads a command and holds it to its bounds; the error joins a
// *FieldError for every fault. Whether there is such a rule is for its limiter
// to say.
func DecodeCommand(payload []byte) (Command, error) {
	var c Command
	if err := decodeCommand(payload, &c); err != nil {
		return c, err
	}
	var faults []error
	want := func(ok bool, field, value, want string) {
		if !ok {
			faults = append(faults, &FieldError{Field: field, Value: value, Want: want})
		}
	}
	change := c.Kind == ControlReset || c.Kind == ControlOverride || c.Kind == ControlLift
	want(change || c.Kind == CommandList, "kind", string(c.Kind), "reset, override, lift or list")
	for i, value := range c.Key {
		want(plain(value) && len(value) <= MaxPath, fmt.Sprintf("key[%d]", i), value, fmt.Sprintf("UTF-8 without NUL, at most %d bytes", MaxPath))
	}
	if change {
		want(c.ID != "" && plain(c.ID) && len(c.ID) <= maxID, "id", c.ID, fmt.Sprintf("1 to %d bytes of UTF-8 without NUL", maxID))
		want(c.By != "" && plain(c.By) && len(c.By) <= MaxName, "by", c.By, fmt.Sprintf("who asks, 1 to %d bytes of UTF-8 without NUL", MaxName))
		want(len(c.Key) > 0, "key", "", "the values of the rule's key")
		want(c.Rule != "" || c.Kind == ControlReset, "rule", "", "a rule of the tenant's")
	}
	if c.Kind == ControlOverride {
		want(c.Limit != "", "limit", "", "units per time, such as 3000/min, or 0")
		until := ""
		if !c.Until.IsZero() {
			until = c.Until.Format(time.RFC3339)
		}
		want(!c.Until.Before(earliest) && c.Until.Before(latest), "until", until, wantYear)
	}
	return c, errors.Join(faults...)
}

// decodeCommand reads a command's fields, and no others: who misspells one would
// have another command done than was meant.
func decodeCommand(payload []byte, c *Command) error {
	d := json.NewDecoder(bytes.NewReader(payload))
	d.DisallowUnknownFields()
	err := d.Decode(c)
	if err == nil {
		rest := bytes.TrimSpace(payload[d.InputOffset():])
		if len(rest) == 0 {
			return nil
		}
		return &FieldError{Value: string(rest), Want: "nothing after the command"}
	}
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return &FieldError{Field: wrong.Field, Value: wrong.Value, Want: commandForms[wrong.Field]}
	}
	if _, wrong := errors.AsType[*time.ParseError](err); wrong {
		return &FieldError{Field: "until", Value: string(payload), Want: commandForms["until"]}
	}
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return &FieldError{Value: strings.Trim(name, `"`), Want: "a field of a command: id, kind, rule, key, limit, until or by"}
	}
	return &FieldError{Value: string(payload), Want: commandForms[""]}
}

// commandForms says what the fields of a command look like.
var commandForms = map[string]string{
	"":      `a command such as {"id":"…","kind":"reset","rule":"per-minute","key":["42"],"by":"ann"}`,
	"id":    "a text",
	"kind":  "reset, override, lift or list",
	"rule":  "a text",
	"key":   `a list of texts such as ["42"]`,
	"limit": `a text such as "3000/min"`,
	"until": "a time such as 2026-05-17T10:05:03Z (RFC 3339)",
	"by":    "a text",
}

// Notice tells gateways that what they remember of a key, or of all, may be so
// no more: they ask again.
type Notice struct {
	Kind     ControlKind `json:"kind"`
	Tenant   string      `json:"tenant,omitempty"` // like rule and key: not of a policy
	Rule     string      `json:"rule,omitempty"`
	Key      string      `json:"key,omitempty"`
	Revision uint64      `json:"revision,omitempty"` // of a policy
}
