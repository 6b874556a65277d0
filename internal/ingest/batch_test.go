package ingest_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/events"
)

// keeping keeps the reports it takes.
func keeping(kept *[]events.Request) standIn {
	s := deciding(allowed)
	s.report = func(_ context.Context, requests ...events.Request) error {
		*kept = append(*kept, requests...)
		return nil
	}
	return s
}

func TestReportsForms(t *testing.T) {
	const a, b = `{"tenant":"acme","id":"a"}`, `{"tenant":"acme","id":"b","attrs":{"x":[1,{"y":"z\n"}]}}`
	for _, tt := range []struct {
		name, body string
		want       string // ids
	}{
		{"one", a, "a"},
		{"one over several lines", "\n{\n  \"tenant\": \"acme\",\n  \"id\": \"a\"\n}\n", "a"},
		{"lines", a + "\n" + b, "a b"},
		{"lines, blank ones, ends of Windows", "\r\n\n" + a + "\r\n  \r\n" + b + "\r\n\n", "a b"},
		{"array", "[" + a + "," + b + "]", "a b"},
		{"array with space", " [\n" + a + " ,\n" + b + "\n] \n", "a b"},
		{"empty array", " [ ] ", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var kept []events.Request
			e := mustServe(t, usual, keeping(&kept), true)
			answer := e.post(t, "/v1/reports", tt.body)
			var ids []string
			for _, r := range kept {
				ids = append(ids, r.ID)
			}
			if got := strings.Join(ids, " "); got != tt.want {
				t.Errorf("stored %q, want %q", got, tt.want)
			}
			if want := fmt.Sprintf("{\"stored\":%d}\n", len(kept)); answer.code != 200 || answer.body != want {
				t.Errorf("got %d %s, want %s", answer.code, answer.body, want)
			}
			e.counted(t, fmt.Sprint("weir_ingest_reports_stored_total ", len(kept)))
		})
	}
}

// TestReportsStoreAllOrNothing puts each bad request between two good ones.
func TestReportsStoreAllOrNothing(t *testing.T) {
	const good = `{"tenant":"acme"}`
	for _, tt := range badRequests {
		t.Run(tt.name, func(t *testing.T) {
			var kept []events.Request
			e := mustServe(t, usual, keeping(&kept), true)
			a := e.post(t, "/v1/reports", good+"\n\n"+tt.body+"\n"+good)
			if a.code != 400 || len(kept) > 0 {
				t.Fatalf("got %d %s and stored %d", a.code, a.body, len(kept))
			}
			first := a.member["errors"].([]any)[0].(map[string]any)
			field, _ := first["field"].(string)
			if first["line"] != 3.0 || field != tt.errField || !strings.Contains(first["expected"].(string), tt.expect) {
				t.Errorf("told of %v", first)
			}
			if want := "1 of 3 reports are wrong and none is stored. The first: line 3: "; !strings.HasPrefix(a.member["detail"].(string), want) {
				t.Errorf("detail %q, want %q…", a.member["detail"], want)
			}
			e.counted(t, `weir_ingest_refused_total{field="`+tt.field+`"} 1`, `weir_ingest_requests_total{code="400",handler="reports"} 1`)
		})
	}
}

func TestReportsTellWhere(t *testing.T) {
	const good, bad = `{"tenant":"acme"}`, `{"tenant":"acme","cost":-1}`
	for _, tt := range []struct {
		name, body string
		where      string // of the first fault
		want       string // part of the answer
	}{
		{"nothing", "", "", `"errors":[{"found":"","expected":"reports as JSON objects: one, several as lines, or as an array"}]`},
		{"the only one", bad, "", `"detail":"cost: want a whole number`},
		{"an element", "[" + good + "," + bad + "]", "index 1", `"index":1,"field":"cost","found":"-1"`},
		{"the first element", "[" + bad + "," + good + "]", "index 0", `"index":0,"field":"cost","found":"-1"`},
		{"an element of another kind", "[" + good + `, "x"]`, "index 1", "a JSON object"},
		{"no comma", "[" + good + " " + good + "]", "index 1", "JSON (expected comma after array element)"},
		{"no end", "[" + good, "index 1", "a comma or the end of the array"},
		{"cut in an element", "[" + good + `,{"ten`, "index 1", "JSON (unexpected EOF)"},
		{"more after the array", "[" + good + "]" + good, "", "nothing after the array"},
		{"an array too deep", strings.Repeat("[", 1_000_000), "index 0", "JSON (invalid character '[' exceeded max depth)"},
		{"a long line", good + "\n" + `{"tenant":"` + strings.Repeat("x", 64<<10) + `"}`, "line 2", "at most 65536 bytes"},
		{"NUL between lines", good + "\n\x00\n" + good, "line 2", "a JSON object"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var kept []events.Request
			a := mustServe(t, usual, keeping(&kept), true).post(t, "/v1/reports", tt.body)
			if a.code != 400 || len(kept) > 0 || !strings.Contains(a.body, tt.want) || len(a.body) > 1000 {
				t.Errorf("got %d %s and stored %d, want %s", a.code, a.body, len(kept), tt.want)
			}
			if tt.where != "" && !strings.Contains(a.member["detail"].(string), tt.where+": ") {
				t.Errorf("detail %q does not name %s", a.member["detail"], tt.where)
			}
		})
	}
}

func TestReportsBoundTheFaultsTold(t *testing.T) {
	e := mustServe(t, usual, deciding(allowed), true)
	a := e.post(t, "/v1/reports", strings.Repeat("{}\n", 500))
	if shown, omitted := len(a.member["errors"].([]any)), a.member["errors_omitted"]; a.code != 400 || shown != 20 || omitted != 480.0 {
		t.Errorf("got %d with %d faults told and %v omitted", a.code, shown, omitted)
	}
	e.counted(t, `weir_ingest_refused_total{field="tenant"} 500`)
}

func TestReportsBoundTheirNumber(t *testing.T) {
	for _, form := range []struct{ open, between, shut string }{{"", "\n", ""}, {"[", ",", "]"}} {
		for n, code := range map[int]int{10_000: 200, 10_001: 413} {
			var kept []events.Request
			e := mustServe(t, usual, keeping(&kept), true)
			a := e.post(t, "/v1/reports", form.open+strings.Repeat(`{"tenant":"acme"}`+form.between, n-1)+`{"tenant":"acme"}`+form.shut)
			if a.code != code || code == 200 && len(kept) != n || code == 413 && (len(kept) != 0 || !strings.Contains(a.body, "10000")) {
				t.Errorf("%d reports: %d %s, stored %d", n, a.code, a.body, len(kept))
			}
		}
	}
}

func TestReportsThatAreNotStored(t *testing.T) {
	broken := deciding(allowed)
	broken.report = func(ctx context.Context, _ ...events.Request) error {
		if _, ok := ctx.Deadline(); !ok {
			t.Error("storing has no bound in time")
		}
		return errors.New("no stream")
	}
	e := mustServe(t, usual, broken, true)
	a := e.post(t, "/v1/reports", `{"tenant":"acme"}`)
	if a.code != 503 || a.header.Get("Retry-After") != "1" || !strings.Contains(a.body, "no stream") {
		t.Errorf("got %d %v %s", a.code, a.header, a.body)
	}
	e.counted(t, "weir_ingest_reports_stored_total 0")
}

func FuzzReports(f *testing.F) {
	for _, seed := range []string{"", "[", "[]", "{}\n{}", `[{"tenant":"a"}]`, "[{}{}]", "[1,]", "\xff", "null"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, body string) {
		var kept []events.Request
		a := mustServe(t, usual, keeping(&kept), true).post(t, "/v1/reports", body)
		switch {
		case a.code == 200 && a.member["stored"] == float64(len(kept)):
		case a.code == 400 && len(kept) == 0 && len(a.member["errors"].([]any)) > 0:
		default:
			t.Errorf("%d %s, stored %d", a.code, a.body, len(kept))
		}
	})
}
