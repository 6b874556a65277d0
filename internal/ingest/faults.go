package ingest

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/weirhq/weir/internal/access"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/problem"
)

// faultsOf lists the *FieldErrors that err joins or wraps.
func faultsOf(err error) []problem.Fault {
	switch e := err.(type) { //nolint:errorlint // it unwraps them itself, all of them
	case *events.FieldError:
		return []problem.Fault{{Field: e.Field, Found: e.Value, Expected: e.Want}}
	case interface{ Unwrap() []error }:
		var all []problem.Fault
		for _, one := range e.Unwrap() {
			all = append(all, faultsOf(one)...)
		}
		return all
	case interface{ Unwrap() error }:
		return faultsOf(e.Unwrap())
	}
	return nil
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
func refuseFaults(w http.ResponseWriter, status int, detail string, faults []problem.Fault) int {
	problem.Write(w, problem.Details{Status: status, Detail: detail, More: problem.Faults(faults)})
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
