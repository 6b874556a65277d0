package problem

import (
	"encoding/json"
	"strings"
	"unicode/utf8"
)

const (
	maxFaults = 20 // in one answer; the rest are counted
	maxFound  = 64 // bytes of a value that is wrong
)

// Fault is one thing wrong with what was sent: an element of the member errors.
type Fault struct {
	Line     int    `json:"line,omitempty"`  // of NDJSON, from 1
	Index    *int   `json:"index,omitempty"` // of an array, from 0
	Field    string `json:"field,omitempty"` // absent: all that was sent
	Found    string `json:"found"`
	Expected string `json:"expected"`
}

// Faults returns an object with the member errors, for Details.More. Of many
// faults, and of long values, it has the first.
func Faults(list []Fault) json.RawMessage {
	var more struct {
		Errors  []Fault `json:"errors"`
		Omitted int     `json:"errors_omitted,omitempty"`
	}
	more.Omitted = max(len(list)-maxFaults, 0)
	more.Errors = make([]Fault, len(list)-more.Omitted)
	for i := range more.Errors {
		more.Errors[i] = list[i]
		more.Errors[i].Found = short(list[i].Found)
	}
	return Object(more)
}

// short makes a value fit to be shown.
func short(value string) string {
	if len(value) > maxFound {
		cut := maxFound
		for cut > 0 && !utf8.RuneStart(value[cut]) {
			cut--
		}
		value = value[:cut] + "…"
	}
	return strings.ToValidUTF8(value, "\uFFFD")
}
