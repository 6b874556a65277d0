// Package events is the vocabulary that the parts of Weir share: requests,
// decisions and the records made of both, outcomes, their JSON, and the
// subjects they travel on. Every subject name is made here.
//
// The codec is written by hand because every request passes it several times:
// decoding costs one allocation (the payload as a string, which every field
// then shares) and encoding none. It is held against encoding/json by fuzzing.
//
// Times are whole microseconds, durations carry their unit in their name.
package events

import (
	"errors"
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"
)

// Bounds of what is accepted.
const (
	MaxPayload = 64 << 10 // bytes of one request
	MaxOutcome = 4 << 10  // bytes of one outcome, of which its fields take a third at most
	MaxAttrs   = 8 << 10  // bytes of a request's attrs, as JSON
	MaxDepth   = 32       // of nesting in attrs
	MaxCost    = 1 << 32  // units of one request
	MaxCount   = 1 << 32  // requests folded into one report
	MaxBytes   = 1 << 50  // of a request's or an answer's body
	MaxLatency = 1 << 40  // microseconds, 12 days
	MaxName    = 1 << 10  // bytes of a user, an API key's hash, a method, a host
	MaxPath    = 8 << 10  // bytes of a path or a route: what HTTP servers take by default

	maxID    = 128 // bytes
	maxShown = 64  // bytes of a bad value in an error
	maxSaid  = 200 // bytes of what encoding/json says of one
)

// The times that are accepted: ids can tell no year after 2091.
var (
	earliest = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	latest   = time.Date(2092, 1, 1, 0, 0, 0, 0, time.UTC) // exclusive
)

const wantYear = "a time from 2000 to 2091"

// FieldError says which field is wrong, what it held, and what was expected.
type FieldError struct {
	Field string // the field's name on the wire; empty for the whole payload
	Value string // what was found
	Want  string // what would have been right
}

func (e *FieldError) Error() string {
	if e.Field == "" {
		return "want " + e.Want + ", found " + shown(e.Value)
	}
	return e.Field + ": want " + e.Want + ", found " + shown(e.Value)
}

// shown quotes a value for a person: short, printable and valid UTF-8.
func shown(s string) string {
	if s == "" {
		return "nothing"
	}
	if len(s) <= maxShown {
		return strconv.Quote(s)
	}
	cut := maxShown
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return fmt.Sprintf("%q…", s[:cut])
}

// faults collects what is wrong with the fields of an event.
type faults []error

func (f *faults) add(field, value, want string) {
	*f = append(*f, &FieldError{Field: field, Value: value, Want: want})
}

func (f *faults) text(field, value string, most int) {
	if len(value) > most || !plain(value) {
		f.add(field, value, "UTF-8 without NUL, at most "+strconv.Itoa(most)+" bytes")
	}
}

func (f *faults) number(field string, value, most int64) {
	if value < 0 || value > most {
		f.add(field, strconv.FormatInt(value, 10), "a whole number from 0 to "+strconv.FormatInt(most, 10))
	}
}

// origin checks what every event says of where and when it was.
func (f *faults) origin(tenant, gateway string, at time.Time) {
	if err := checkToken("tenant", tenant); err != nil {
		*f = append(*f, err)
	}
	if err := checkToken("gateway", gateway); err != nil {
		*f = append(*f, err)
	}
	if !at.IsZero() && (at.Before(earliest) || !at.Before(latest)) {
		f.add("time", at.Format(time.RFC3339), wantYear)
	}
}

// answer checks what is known of a request once it is answered.
func (f *faults) answer(status, latencyUS, bytesIn, bytesOut int64) {
	f.number("status", status, 999)
	f.number("latency_us", latencyUS, MaxLatency)
	f.number("bytes_in", bytesIn, MaxBytes)
	f.number("bytes_out", bytesOut, MaxBytes)
}

// Validate names every field that is out of its bounds, as joined
// *FieldErrors. A request that passes can be published, stored and keyed by.
func (r *Request) Validate() error {
	var f faults
	f.origin(r.Tenant, r.Gateway, r.Time)
	f.text("id", r.ID, maxID)
	f.text("user", r.User, MaxName)
	f.text("api_key", r.APIKey, MaxName)
	f.text("method", r.Method, MaxName)
	f.text("host", r.Host, MaxName)
	f.text("path", r.Path, MaxPath)
	f.text("route", r.Route, MaxPath)
	f.number("cost", r.Cost, MaxCost)
	f.answer(r.Status, r.LatencyUS, r.BytesIn, r.BytesOut)
	f.number("count", r.Count, MaxCount)
	if r.Verdict != "" && r.Verdict != Allow && r.Verdict != Deny {
		f.add("verdict", string(r.Verdict), "allow or deny")
	}
	if err := r.checkReason(); err != nil {
		f = append(f, err)
	}
	if f.text("rule", r.Rule, MaxName); r.Rule != "" && r.Reason != ReasonLocal {
		f.add("rule", r.Rule, "none without the reason local")
	}
	if err := checkAttrs(r.Attrs); err != nil {
		f = append(f, err)
	}
	return errors.Join(f...)
}

// Validate names every field that is out of its bounds, as joined
// *FieldErrors. An outcome that passes can be published and stored.
func (o *Outcome) Validate() error {
	var f faults
	f.origin(o.Tenant, o.Gateway, o.Time)
	if o.ID == "" {
		f.add("id", "", "the request's")
	}
	f.text("id", o.ID, maxID)
	f.answer(o.Status, o.LatencyUS, o.BytesIn, o.BytesOut)
	return errors.Join(f...)
}

// checkReason holds a gateway's own verdict and its reason together.
func (r *Request) checkReason() error {
	switch {
	case r.Reason == "",
		r.Reason == ReasonLocal && r.Verdict == Deny,
		r.Reason == ReasonTimeout && r.Verdict != "":
		return nil
	}
	return &FieldError{Field: "reason", Value: string(r.Reason),
		Want: "local with verdict deny, or timeout with a verdict"}
}

func checkAttrs(attrs string) error {
	if attrs == "" {
		return nil
	}
	p := scanner{s: attrs}
	switch {
	case len(attrs) > MaxAttrs:
		return &FieldError{Field: "attrs", Value: attrs, Want: "at most " + strconv.Itoa(MaxAttrs) + " bytes"}
	case !utf8.ValidString(attrs):
		return &FieldError{Field: "attrs", Value: attrs, Want: "UTF-8"}
	case attrs[0] != '{':
		return &FieldError{Field: "attrs", Value: attrs, Want: "an object"}
	}
	if err := p.skip("attrs", MaxDepth); err != nil {
		return err
	}
	return p.finish("attrs")
}
