package writer_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/internal/pg"
)

func TestHTTP(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	w := e.start(e.url)
	e.blocks(3, 5)
	e.caughtUp()
	server := httptest.NewServer(w.Handler())
	defer server.Close()
	for _, tt := range []struct {
		method, path, body string
		status             int
		want               string
	}{
		{"POST", "/v1/query", `{"group_by":["user_id"]}`, 200, `{"rows":[{"user_id":"u","count":15}],"source":"rows","as_of":"`},
		{"POST", "/v1/query", `{"wait_for":"now"}`, 200, `{"rows":[{"count":15}],"source":"rows","as_of":"`},
		{"POST", "/v1/query", `{"select":["request_id"],"limit":1}`, 200, `"next":"`},
		{"POST", "/v1/query", `{"explain":true}`, 200, `"explain":{"sql":"SELECT `},
		{"POST", "/v1/query", `{"select":["cuont"]}`, 400, `the nearest is count`},
		{"POST", "/v1/query", `{"select":["cuont"],"limit":0}`, 400, `"errors":[{"field":"select[0]","found":"cuont","expected":"a measure; the nearest is count"},{"field":"limit","found":"0","expected":"1 to 10000"}]`},
		{"POST", "/v1/query?format=csv", `{"group_by":["user_id"]}`, 200, "user_id,count\nu,15\n"},
		{"POST", "/v1/query?format=ndjson", `{"group_by":["user_id"]}`, 200, `{"user_id":"u","count":15}` + "\n"},
		{"POST", "/v1/query?format=xml", `{}`, 400, "format: want json, ndjson or csv"},
		{"POST", "/v1/query", `not JSON`, 400, `want a JSON object`},
		{"POST", "/v1/query", ``, 400, `want a JSON object`},
		{"POST", "/v1/query", `{"tenant":"` + strings.Repeat("x", pg.MaxQuery) + `"}`, 413, `65536 bytes`},
		{"GET", "/v1/query", ``, 405, `want POST`},
		{"GET", "/healthz", ``, 200, "ok"},
		{"GET", "/readyz", ``, 200, "ready"},
		{"GET", "/metrics", ``, 200, `weir_writer_rows_total{shard="0"} 15`},
		{"GET", "/nothing", ``, 404, `"status":404`},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, server.URL+tt.path, strings.NewReader(tt.body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != tt.status || !strings.Contains(string(body), tt.want) {
			t.Errorf("%s %s %.40s: %d %s", tt.method, tt.path, tt.body, resp.StatusCode, body)
		}
		if kind := resp.Header.Get("Content-Type"); tt.status >= 400 && kind != "application/problem+json" {
			t.Errorf("%s %s: content type %s", tt.method, tt.path, kind)
		}
	}
}

func TestFormOfAnswers(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	w := e.start(e.url)
	e.blocks(1, 5)
	e.caughtUp()
	for _, tt := range []struct{ accept, kind string }{
		{"", "application/json"},
		{"*/*", "application/json"},
		{"text/html, text/csv;q=0.9", "text/csv; charset=utf-8; header=present"},
		{"application/x-ndjson", "application/x-ndjson"},
	} {
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/query", strings.NewReader(`{"select":["request_id"],"limit":2}`))
		r.Header.Set("Accept", tt.accept)
		answer := httptest.NewRecorder()
		w.Handler().ServeHTTP(answer, r)
		if kind := answer.Header().Get("Content-Type"); answer.Code != 200 || kind != tt.kind {
			t.Errorf("%s: %d, %s", tt.accept, answer.Code, kind)
		}
		if json := tt.kind == "application/json"; (answer.Header().Get("Weir-Next") == "") != json || (answer.Header().Get("Weir-Source") == "") != json {
			t.Errorf("%s: header %v", tt.accept, answer.Header())
		}
	}
}

// TestQueryEndsWithItsClient: whoever leaves takes the statement along.
func TestQueryEndsWithItsClient(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	w := e.start(e.url)
	e.blocks(1, 1)
	e.caughtUp()
	e.exec(`CREATE OR REPLACE VIEW requests_with_outcomes AS SELECT requests.*, ts AS outcome_ts FROM requests, pg_sleep(600)`)
	server := httptest.NewServer(w.Handler())
	defer server.Close()
	const asleep = `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'`
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	var g errgroup.Group
	g.Go(func() error {
		r, err := http.NewRequestWithContext(ctx, "POST", server.URL+"/v1/query", strings.NewReader(`{}`))
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(r)
		if err == nil {
			_ = resp.Body.Close()
			return errors.New(resp.Status)
		}
		return nil
	})
	e.eventually("the query runs", func() bool { return e.number(asleep) == 1 })
	leave()
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	e.eventually("the query has ended", func() bool { return e.number(asleep) == 0 })
	if w.queries(t, "504") != 0 {
		t.Error("it was the time-out that ended it")
	}
	e.eventually("counted", func() bool { return w.queries(t, "499") == 1 })
}

// queries returns how many were answered with a status.
func (r *running) queries(t *testing.T, status string) float64 {
	t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "weir_writer_queries_total" && m.GetLabel()[0].GetValue() == status {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}
