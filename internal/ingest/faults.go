package ingest

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/weirhq/weir/internal/access"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/problem"
)

const (
	maxFaults = 20 // in one answer; the rest are counted
	maxFound  = 64 // bytes of a value that is wrong
)

// fault is one thing wrong with a body: an element of the member errors.
type fault struct {
	Line     int    `json:"line,omitempty"`  // of NDJSON, from 1
	Index    *int   `json:"index,omitempty"` // of an array, from 0
	Field    string `json:"field,omitempty"` // absent: the whole request
	Found    string `json:"found"`
	Expected string `json:"expected"`
}

// faultsOf lists the *FieldErrors that err joins or wraps.
func faultsOf(err error) []fault {
	switch e := err.(type) { //nolint:errorlint // it unwraps them itself, all of them
	case *events.FieldError:
		return []fault{{Field: e.Field, Found: short(e.Value), Expected: e.Want}}
	case interface{ Unwrap() []error }:
		var all []fault
		for _, one := range e.Unwrap() {
			all = append(all, faultsOf(one)...)
		}
		return all
	case interface{ Unwrap() error }:
		return faultsOf(e.Unwrap())
	}
	return nil
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

// refuseCheck answers a request event that is wrong.
func (s *Server) refuseCheck(w http.ResponseWriter, err error) int {
	s.metrics.refuse(err)
	return refuseFaults(w, statusOf(err), summary(err), faultsOf(err))
}

// statusOf is the status of an answer to what is wrong, or not the caller's to
// ask.
func statusOf(err error) int {
	if _, denied := errors.AsType[*access.DeniedError](err); denied {
		return http.StatusForbidden
	}
	return http.StatusBadRequest
}

// refuseFaults answers with what is wrong, in short and one by one.
func refuseFaults(w http.ResponseWriter, status int, detail string, faults []fault) int {
	more := struct {
		Errors  []fault `json:"errors"`
		Omitted int     `json:"errors_omitted,omitempty"`
	}{Errors: faults}
	if len(faults) > maxFaults {
		more.Errors, more.Omitted = faults[:maxFaults], len(faults)-maxFaults
	}
	problem.Write(w, problem.Details{Status: status, Detail: detail, More: problem.Object(more)})
	return status
}

// summary words the first of the errors that err joins.
func summary(err error) string {
	first, ok := errors.AsType[*events.FieldError](err)
	if !ok {
		return err.Error()
	}
	if n := len(faultsOf(err)); n > 1 {
		return fmt.Sprintf("%v (and %d more)", first, n-1)
	}
	return first.Error()
}
