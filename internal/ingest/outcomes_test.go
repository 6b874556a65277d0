package ingest_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/ingest"
)

// Outcomes come in the forms that reports come in, and are stored all or none.
func TestOutcomes(t *testing.T) {
	const a, b = `{"tenant":"acme","id":"a","status":200,"latency_us":1500}`, `{"tenant":"acme","id":"b","bytes_out":7}`
	for _, tt := range []struct {
		name, body string
		code       int
		want       string // ids, or part of the answer
	}{
		{"one", a, 200, "a"},
		{"lines", a + "\n" + b + "\n", 200, "a b"},
		{"array", "[" + a + "," + b + "]", 200, "a b"},
		{"nothing", "", 400, "outcomes as JSON objects: one, several as lines, or as an array"},
		{"without an id", a + "\n" + `{"tenant":"acme","status":200}`, 400, `1 of 2 outcomes are wrong and none is stored. The first: line 2: id: want the request's`},
		{"without a tenant", `{"id":"a"}`, 400, `"field":"tenant"`},
		{"a status of no HTTP", "[" + a + `,{"tenant":"acme","id":"a","status":1000}]`, 400, `"index":1,"field":"status","found":"1000"`},
		{"too many", strings.Repeat(a+"\n", 10_001), 413, "more than the 10000"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var ids []string
			s := deciding(allowed)
			s.outcome = func(ctx context.Context, outcomes ...events.Outcome) error {
				if _, ok := ctx.Deadline(); !ok {
					t.Error("storing has no bound in time")
				}
				for _, o := range outcomes {
					ids = append(ids, o.ID)
				}
				return nil
			}
			answer := mustServe(t, usual, s, true).post(t, "/v1/outcomes", tt.body)
			if answer.code != tt.code || tt.code == 200 && strings.Join(ids, " ") != tt.want || tt.code != 200 && (len(ids) > 0 || !strings.Contains(answer.body, tt.want)) {
				t.Errorf("got %d %s, stored %q; want %d %s", answer.code, answer.body, ids, tt.code, tt.want)
			}
		})
	}
	e := mustServe(t, ingest.Config{Strict: true}, deciding(allowed), true)
	if a := e.post(t, "/v1/outcomes", `{"tenant":"acme","id":"a","user":"42"}`); a.code != 400 || !strings.Contains(a.body, `found \"user\"`) {
		t.Errorf("strict: %d %s", a.code, a.body)
	}
	e.post(t, "/v1/outcomes", a+"\n"+b)
	e.counted(t, "weir_ingest_outcomes_stored_total 2", "weir_ingest_reports_stored_total 0", `weir_ingest_requests_total{code="200",handler="outcomes"} 1`)
	broken := deciding(allowed)
	broken.outcome = func(context.Context, ...events.Outcome) error { return errors.New("no stream") }
	if a := mustServe(t, usual, broken, true).post(t, "/v1/outcomes", a); a.code != 503 || a.header.Get("Retry-After") != "1" ||
		!strings.Contains(a.body, "Not all outcomes are stored: no stream") {
		t.Errorf("not stored: %d %v %s", a.code, a.header, a.body)
	}
}
