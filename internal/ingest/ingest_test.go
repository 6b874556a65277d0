package ingest_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/weirhq/weir/gateway"
	wording "github.com/weirhq/weir/internal/answer"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/ingest"
	"github.com/weirhq/weir/internal/problem"
)

// standIn answers in place of a gateway client.
type standIn struct {
	check   func(context.Context, events.Request) (events.Decision, error)
	explain func(context.Context, events.Request) (events.Explanation, error)
	report  func(context.Context, ...events.Request) error
	outcome func(context.Context, ...events.Outcome) error
}

func (s standIn) Check(ctx context.Context, r events.Request) (events.Decision, error) {
	return s.check(ctx, r)
}

func (s standIn) Explain(ctx context.Context, r events.Request) (events.Explanation, error) {
	return s.explain(ctx, r)
}

func (s standIn) Report(ctx context.Context, requests ...events.Request) error {
	return s.report(ctx, requests...)
}

func (s standIn) Outcome(ctx context.Context, outcomes ...events.Outcome) error {
	return s.outcome(ctx, outcomes...)
}

func (standIn) Overflow() int64 { return 7 }

// deciding answers every valid check with d, and takes every report.
func deciding(d events.Decision) standIn {
	return standIn{
		check: func(_ context.Context, r events.Request) (events.Decision, error) {
			r.Gateway, r.APIKey = "test", events.HashAPIKey(r.APIKey)
			if err := r.Validate(); err != nil {
				return events.Decision{}, err
			}
			decision := d // asked by many at once
			decision.ID = r.ID
			return decision, nil
		},
		report:  func(context.Context, ...events.Request) error { return nil },
		outcome: func(context.Context, ...events.Outcome) error { return nil },
	}
}

var allowed = events.Decision{
	Verdict: events.Allow, Reason: events.ReasonRule, Rule: "per-minute", Key: "42",
	Limit: 256, WindowMS: 60_000, Remaining: 12, ResetMS: 6_001, Cost: 1,
	DecidedAt: time.Date(2026, 11, 23, 14, 32, 25, 0, time.UTC),
}

// usual is the config of a program that is told nothing.
var usual = ingest.Config{Headers: wording.AllHeaders, Proxies: oneProxy()}

func oneProxy() gateway.Proxies {
	proxies, err := gateway.ParseProxies("1")
	if err != nil {
		panic(err)
	}
	return proxies
}

// edge is a server under test.
type edge struct {
	*httptest.Server
	handler http.Handler
}

type client interface {
	Check(context.Context, events.Request) (events.Decision, error)
	Explain(context.Context, events.Request) (events.Explanation, error)
	Report(context.Context, ...events.Request) error
	Outcome(context.Context, ...events.Outcome) error
	Overflow() int64
}

func mustServe(tb testing.TB, config ingest.Config, c client, connected bool) edge {
	tb.Helper()
	server := ingest.New(config, c, func() bool { return connected }, prometheus.NewRegistry(), zap.NewNop())
	e := edge{httptest.NewServer(server.Handler()), server.Handler()}
	tb.Cleanup(e.Close)
	return e
}

// answer is what came back.
type answer struct {
	code   int
	header http.Header
	body   string
	member map[string]any // of the body, if it is a JSON object
}

func (e edge) post(tb testing.TB, path, body string) answer {
	tb.Helper()
	// As curl -d does.
	resp, err := e.Client().Post(e.URL+path, "application/x-www-form-urlencoded", strings.NewReader(body))
	return read(tb, resp, err)
}

func read(tb testing.TB, resp *http.Response, err error) answer {
	tb.Helper()
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	keepsContract(tb, resp, string(text))
	a := answer{code: resp.StatusCode, header: resp.Header, body: string(text)}
	if strings.HasPrefix(a.body, "{") {
		if err := json.Unmarshal(text, &a.member); err != nil {
			tb.Fatalf("%v in %s", err, text)
		}
	}
	if a.code >= 400 {
		if got := a.header.Get("Content-Type"); got != problem.ContentType {
			tb.Errorf("status %d came as %q", a.code, got)
		}
		if a.member["status"] != float64(a.code) || a.member["title"] == nil || a.member["detail"] == nil {
			tb.Errorf("status %d came with problem details %s", a.code, a.body)
		}
	}
	return a
}

// counted looks for lines among the metrics.
func (e edge) counted(tb testing.TB, lines ...string) {
	tb.Helper()
	w := httptest.NewRecorder()
	e.handler.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range lines {
		if !strings.Contains(w.Body.String(), "\n"+want+"\n") {
			tb.Errorf("the metrics lack %s:\n%s", want, w.Body)
		}
	}
}

func TestEndpoints(t *testing.T) {
	e := mustServe(t, usual, deciding(allowed), false)
	for _, tt := range []struct {
		method, path string
		code         int
		header       string
		want         string
	}{
		{"GET", "/v1/check", 405, "Allow: POST", "/v1/check takes POST, found GET."},
		{"DELETE", "/v1/reports", 405, "Allow: POST", "/v1/reports takes POST, found DELETE."},
		{"OPTIONS", "/v1/check", 405, "Allow: POST", "/v1/check takes POST, found OPTIONS."},
		{"POST", "/healthz", 405, "Allow: GET", "/healthz takes GET, found POST."},
		{"DELETE", "/openapi.yaml", 405, "Allow: GET", "/openapi.yaml takes GET, found DELETE."},
		{"GET", "/healthz", 200, "Content-Type: text/plain; charset=utf-8", "ok\n"},
		{"GET", "/readyz", 503, "Retry-After: 1", "there is no connection to NATS"},
		{"GET", "/v2/check", 404, "", "There is no GET /v2/check. There are POST /v1/check, /v1/auth, POST /v1/reports, POST /v1/outcomes, GET /openapi.yaml, GET /healthz, GET /readyz and GET /metrics."},
		{"POST", "/", 404, "", "There is no POST /. There are"},
		{"GET", "/metrics", 200, "", `weir_ingest_requests_total{code="404",handler="none"} 2`},
	} {
		t.Run(tt.method+tt.path, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), tt.method, e.URL+tt.path, nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := e.Client().Do(r)
			a := read(t, resp, err)
			name, value, _ := strings.Cut(tt.header, ": ")
			if a.code != tt.code || a.header.Get(name) != value || !strings.Contains(a.body, tt.want) {
				t.Errorf("got %d %v %s\nwant %d %s %s", a.code, a.header, a.body, tt.code, tt.header, tt.want)
			}
		})
	}
	e.counted(t, "weir_ingest_unrecorded_total 7")
	ready := mustServe(t, usual, deciding(allowed), true)
	resp, err := ready.Client().Get(ready.URL + "/readyz")
	if a := read(t, resp, err); a.code != 200 {
		t.Errorf("ready with a connection: %d %s", a.code, a.body)
	}
}

// A page in a browser can neither read what is answered nor charge anything.
func TestPagesOfOtherOrigins(t *testing.T) {
	var asked events.Request
	e := mustServe(t, usual, asking(&asked, allowed), true)
	const preflight = "Origin: https://evil.example\nAccess-Control-Request-Method: POST\nAccess-Control-Request-Headers: content-type\nSec-Fetch-Site: cross-site"
	for _, tt := range []struct {
		method, path, headers string
		code                  int
	}{
		{"OPTIONS", "/v1/check", preflight, 405},
		{"OPTIONS", "/v1/reports", preflight, 405},
		{"POST", "/v1/check", "Origin: https://evil.example\nSec-Fetch-Site: cross-site", 403},
		{"POST", "/v1/check", "Origin: https://evil.example", 403},
		{"POST", "/v1/outcomes", "Origin: null\nSec-Fetch-Site: cross-site", 403},
		{"POST", "/v1/check", "Origin: " + e.URL + "\nSec-Fetch-Site: same-origin", 400}, // it has no body
		{"GET", "/openapi.yaml", "Origin: https://evil.example\nSec-Fetch-Site: cross-site", 200},
		{"GET", "/v1/auth?tenant=acme", "Origin: https://evil.example\nSec-Fetch-Site: cross-site", 200}, // the end user's
		{"POST", "/v1/auth?tenant=acme", "Origin: https://evil.example\nSec-Fetch-Site: cross-site", 200},
	} {
		asked = events.Request{}
		a := e.ask(t, tt.method, tt.path, tt.headers)
		if a.code != tt.code || tt.code != 200 && asked.Tenant != "" {
			t.Errorf("%s %s %q: %d %s, asked %+v", tt.method, tt.path, tt.headers, a.code, a.body, asked)
		}
		for name := range a.header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s %s: %s", tt.method, tt.path, name)
			}
		}
	}
}
