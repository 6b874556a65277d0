// Package answer words decisions for those who have sent the requests: the
// headers that tell of a limit, and the answer to what is denied.
package answer

import (
	"fmt"
	"net/http"
	"strconv"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/problem"
)

// Deny answers a request that is denied with problem details, of which decision,
// the JSON of d, is a part. It returns the status. SetLimits is called before.
func Deny(w http.ResponseWriter, d *events.Decision, decision []byte) int {
	denied := Problem(d)
	if more := denied.More; len(more) > 0 {
		more[len(more)-1] = ','
		decision = append(more, decision[1:]...)
	}
	denied.More = decision
	problem.Write(w, denied)
	return denied.Status
}

// Problem is what is told of a denied request beside its decision: as quota
// exceeded, with the names of the rules that had no room, or as reduced capacity.
func Problem(d *events.Decision) problem.Details {
	denied := problem.Details{
		Type: quotaExceeded, Title: "Request cannot be satisfied as assigned quota has been exceeded",
		Status: http.StatusTooManyRequests, Detail: denial(d),
	}
	switch {
	case undecided(d):
		denied.Type, denied.Title = reducedCapacity, "Request cannot be satisfied due to temporary server capacity constraints"
	case len(d.Violated) > 0:
		denied.More = problem.Object(violated{d.Violated})
	case d.Rule != "":
		denied.More = problem.Object(violated{[]string{d.Rule}})
	}
	return denied
}

// violated is what the draft's problem type adds.
type violated struct {
	Policies []string `json:"violated-policies"`
}

// The problem types of draft-ietf-httpapi-ratelimit-headers.
const (
	quotaExceeded   = "https://iana.org/assignments/http-problem-types#quota-exceeded"
	reducedCapacity = "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity"
)

// undecided tells whether a request was denied without a look at its limits.
func undecided(d *events.Decision) bool {
	return d.Reason == events.ReasonTimeout || d.Reason == events.ReasonUnavailable
}

// denial says to a person why a request may not pass.
func denial(d *events.Decision) string {
	switch {
	case d.Reason == events.ReasonTimeout:
		return "No decision came in time, and a request without one is denied."
	case d.Reason == events.ReasonUnavailable:
		return "What was used of the limit cannot be looked up at the moment, and then the request is denied."
	case d.RetryAfterMS > 0:
		if n := seconds(d.RetryAfterMS); n > 1 {
			return "Request was throttled. Expected available in " + strconv.FormatInt(n, 10) + " seconds."
		}
		return "Request was throttled. Expected available in 1 second."
	case d.Rule != "":
		return fmt.Sprintf("Request was throttled. It can never pass: it costs %d, and rule %s admits %d in a window.", d.Cost, d.Rule, d.Limit)
	}
	return "Request was throttled."
}
