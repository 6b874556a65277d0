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

// Deny answers a request that is denied. It returns the status. SetLimits is
// called before.
func Deny(w http.ResponseWriter, d *events.Decision) int {
	denied := Denial(d)
	problem.Write(w, denied)
	return denied.Status
}

// Denial is the answer to a request that is denied: the problem with its decision.
func Denial(d *events.Decision) problem.Details {
	denied := details(d)
	more := appendViolated(make([]byte, 0, 512), d)
	at := len(more)
	if more = events.AppendDecision(more, d); at > 0 {
		more[at] = ',' // instead of its brace
	}
	denied.More = more
	return denied
}

// Problem is what is told of a denied request beside its decision: as quota
// exceeded, with the names of the rules that had no room, or as reduced capacity.
func Problem(d *events.Decision) problem.Details {
	denied := details(d)
	if more := appendViolated(nil, d); len(more) > 0 {
		denied.More = append(more, '}')
	}
	return denied
}

func details(d *events.Decision) problem.Details {
	denied := problem.Details{
		Type: quotaExceeded, Title: "Request cannot be satisfied as assigned quota has been exceeded",
		Status: http.StatusTooManyRequests, Detail: denial(d),
	}
	if undecided(d) {
		denied.Type, denied.Title = reducedCapacity, "Request cannot be satisfied due to temporary server capacity constraints"
	}
	return denied
}

// appendViolated begins an object with what the draft's type quota-exceeded adds,
// if that is what it is. Many requests may be denied: this costs little.
func appendViolated(dst []byte, d *events.Decision) []byte {
	if undecided(d) || d.Rule == "" && len(d.Violated) == 0 {
		return dst
	}
	dst = append(dst, `{"violated-policies":[`...)
	if len(d.Violated) == 0 {
		dst = events.AppendText(dst, d.Rule)
	}
	for i, rule := range d.Violated {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = events.AppendText(dst, rule)
	}
	return append(dst, ']')
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
