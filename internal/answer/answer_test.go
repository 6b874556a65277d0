package answer_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/answer"
	"github.com/weirhq/weir/internal/events"
)

func TestHeaders(t *testing.T) {
	denied := events.Decision{Verdict: events.Deny, Reason: events.ReasonRule, Rule: "r", Limit: 5, WindowMS: 10_000, ResetMS: 1, RetryAfterMS: 1_001}
	for _, tt := range []struct{ say, want string }{
		{"x-ratelimit,ietf", "RateLimit RateLimit-Policy Retry-After X-RateLimit-Limit X-RateLimit-Remaining X-RateLimit-Reset"},
		{"ietf, x-ratelimit", "RateLimit RateLimit-Policy Retry-After X-RateLimit-Limit X-RateLimit-Remaining X-RateLimit-Reset"},
		{"x-ratelimit", "Retry-After X-RateLimit-Limit X-RateLimit-Remaining X-RateLimit-Reset"},
		{"ietf", "RateLimit RateLimit-Policy Retry-After"},
		{"none", "Retry-After"},
	} {
		var kinds answer.Headers
		if err := kinds.UnmarshalText([]byte(tt.say)); err != nil {
			t.Fatal(err)
		}
		h := http.Header{}
		answer.SetLimits(h, &denied, kinds)
		if got := strings.Join(slices.Sorted(maps.Keys(h)), " "); got != tt.want {
			t.Errorf("%s: %s\nwant %s", tt.say, got, tt.want)
		}
	}
	for _, say := range []string{"", "x-ratelimit,", "X-RateLimit", "all"} {
		var kinds answer.Headers
		if err := kinds.UnmarshalText([]byte(say)); err == nil || !strings.Contains(err.Error(), "headers: want x-ratelimit, ietf") {
			t.Errorf("%q: %v", say, err)
		}
	}
}

// The problem type quota-exceeded of the draft has the names of the policies,
// whichever bound; the other type has none here, as no limit was looked at.
func TestViolatedPolicies(t *testing.T) {
	for _, tt := range []struct {
		name     string
		decision events.Decision
		want     []string
		kind     string
		detail   string
		retry    string
	}{
		{"one", events.Decision{Reason: events.ReasonRule, Rule: "a", RetryAfterMS: 1_001}, []string{"a"}, "quota-exceeded", "available in 2 seconds", "2"},
		{"two", events.Decision{Reason: events.ReasonRule, Rule: "a", Violated: []string{"b", "a"}, RetryAfterMS: 1_001}, []string{"b", "a"}, "quota-exceeded", "available in 2 seconds", "2"},
		{"for good", events.Decision{Reason: events.ReasonRule, Rule: "a", Limit: 5, Cost: 9}, []string{"a"}, "quota-exceeded", "can never pass: it costs 9, and rule a admits 5", ""},
		{"two, of which one for good", events.Decision{Reason: events.ReasonRule, Rule: "b", Violated: []string{"a", "b"}, Limit: 5, Cost: 9}, []string{"a", "b"}, "quota-exceeded", "can never pass", ""},
		{"by the gateway", events.Decision{Reason: events.ReasonLocal, Rule: "a", RetryAfterMS: 1}, []string{"a"}, "quota-exceeded", "available in 1 second.", "1"},
		{"undecided", events.Decision{Reason: events.ReasonTimeout}, nil, "temporary-reduced-capacity", "No decision came in time", "1"},
		{"unavailable", events.Decision{Reason: events.ReasonUnavailable}, nil, "temporary-reduced-capacity", "cannot be looked up", "1"},
	} {
		tt.decision.Verdict = events.Deny
		w := httptest.NewRecorder()
		answer.SetLimits(w.Header(), &tt.decision, answer.AllHeaders)
		answer.Deny(w, &tt.decision)
		var got struct {
			Type, Title, Detail, Verdict string
			Status                       int
			Violated                     []string `json:"violated-policies"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatalf("%s: %v in %s", tt.name, err, w.Body)
		}
		if !slices.Equal(got.Violated, tt.want) || got.Type != "https://iana.org/assignments/http-problem-types#"+tt.kind ||
			got.Status != 429 || w.Code != 429 || !strings.Contains(got.Detail, tt.detail) || got.Verdict != "deny" {
			t.Errorf("%s: %d %s", tt.name, w.Code, w.Body)
		}
		if retry := w.Header().Get("Retry-After"); retry != tt.retry {
			t.Errorf("%s: Retry-After %q, want %q", tt.name, retry, tt.retry)
		}
	}
}
