package ingest_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/events"
)

// An explanation is answered with 200, whatever it says, and never by a check.
func TestExplain(t *testing.T) {
	t.Parallel()
	var result error
	denied := allowed
	denied.Verdict = events.Deny
	g := standIn{explain: func(_ context.Context, r events.Request) (events.Explanation, error) {
		if r.User != "42" {
			t.Errorf("request %+v", r)
		}
		return events.Explanation{Decision: denied, Rules: []events.ExplainedRule{
			{Rule: "posts", Why: "when: false"},
			{Rule: "try", Mode: events.ModeShadow, Charge: &events.ExplainedCharge{Key: "42", Limit: 1, WindowMS: 1, Buckets: 60, Cost: 1, Used: 1, ResetMS: 1, RetryAfterMS: 1, Override: events.OverrideCommand, Until: denied.DecidedAt}},
		}}, result
	}}
	e := mustServe(t, usual, g, true)
	for _, tt := range []struct {
		err    error
		status int
		body   string
	}{
		{nil, http.StatusOK, `"rules":[{"rule":"posts","why":"when: false"},{"rule":"try","mode":"shadow","charge":{"key":"42"`},
		{&events.FieldError{Field: "cost", Value: "-1", Want: "more"}, http.StatusBadRequest, `"field":"cost"`},
		{errors.New("no limiter has answered"), http.StatusServiceUnavailable, "No explanation can be asked for: no limiter has answered."},
	} {
		result = tt.err
		got := e.post(t, "/v1/check?explain=true", `{"tenant":"acme","user":"42"}`)
		if got.code != tt.status || !strings.Contains(got.body, tt.body) {
			t.Errorf("%v: %d %s", tt.err, got.code, got.body)
		}
	}
	for _, query := range []string{"explain", "explain=", "explain=yes", "strict=x"} { // no charge for a question in other words
		if got := e.post(t, "/v1/check?"+query, `{"tenant":"acme","user":"42"}`); got.code != http.StatusBadRequest || !strings.Contains(got.body, "1 or 0, in the URL") {
			t.Errorf("?%s: %d %s", query, got.code, got.body)
		}
	}
}
