package writer_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

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
		{"POST", "/v1/query", `{"select":["cuont"]}`, 400, `the nearest is count`},
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
