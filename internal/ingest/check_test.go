package ingest_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/ingest"
)

func with(change func(*events.Decision)) events.Decision {
	d := allowed
	change(&d)
	return d
}

func TestCheckAnswers(t *testing.T) {
	const (
		limit, remaining, reset = "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"
		policy, left, retry     = "RateLimit-Policy", "RateLimit", "Retry-After"
	)
	deny := func(ms int64) func(*events.Decision) {
		return func(d *events.Decision) { d.Verdict, d.Remaining, d.RetryAfterMS = events.Deny, 0, ms }
	}
	for _, tt := range []struct {
		name     string
		decision events.Decision
		code     int
		header   map[string]string // empty: must be absent
		body     string            // part of it
	}{
		{"allowed by a rule", allowed, 200, map[string]string{
			limit: "256", remaining: "12", reset: "7",
			policy: `"per-minute";q=256;w=60`, left: `"per-minute";r=12;t=7`, retry: "",
			"Content-Type": "application/json",
		}, `{"id":"a","verdict":"allow","reason":"rule","rule":"per-minute","key":"42","limit":256,"window_ms":60000,"remaining":12,"reset_ms":6001,"cost":1,"policy":0,"decided_at":"2026-11-23T14:32:25Z"}` + "\n"},
		{"allowed, no rule", events.Decision{Verdict: events.Allow, Reason: events.ReasonExempt}, 200,
			map[string]string{limit: "", remaining: "", reset: "", policy: "", left: "", retry: ""}, `"reason":"exempt"`},
		{"let through without a decision", events.Decision{Verdict: events.Allow, Reason: events.ReasonTimeout}, 200,
			map[string]string{limit: "", retry: ""}, `"reason":"timeout"`},
		{"degraded", with(func(d *events.Decision) { d.Degraded = true }), 200, map[string]string{limit: "256"}, `"degraded":true`},
		{"denied", with(deny(15_001)), 429, map[string]string{
			limit: "256", remaining: "0", retry: "16", policy: `"per-minute";q=256;w=60`, left: `"per-minute";r=0;t=7`,
		}, `{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Request cannot be satisfied as assigned quota has been exceeded","status":429,` +
			`"detail":"Request was throttled. Expected available in 16 seconds.","violated-policies":["per-minute"],"id":"a","verdict":"deny","reason":"rule","rule":"per-minute","key":"42","limit":256,` +
			`"window_ms":60000,"remaining":0,"reset_ms":6001,"retry_after_ms":15001,"cost":1,"policy":0,"decided_at":"2026-11-23T14:32:25Z"}` + "\n"},
		{"denied by several", with(func(d *events.Decision) {
			deny(1)(d)
			d.Violated, d.Shadow = []string{"per-minute", "per-day"}, []string{"try"}
		}), 429,
			map[string]string{policy: `"per-minute";q=256;w=60`}, `"violated-policies":["per-minute","per-day"],"id":"a"`},
		{"denied for whole seconds", with(deny(16_000)), 429, map[string]string{retry: "16"}, "available in 16 seconds."},
		{"denied for a millisecond", with(deny(1)), 429, map[string]string{retry: "1"}, "available in 1 second."},
		{"denied for good", with(func(d *events.Decision) { deny(0)(d); d.Cost = 300 }), 429, map[string]string{limit: "256", retry: ""},
			`It can never pass: it costs 300, and rule per-minute admits 256 in a window."`},
		{"denied for good, of a limit that is used", with(func(d *events.Decision) { deny(0)(d); d.Remaining = 10 }), 429, map[string]string{
			left: `"per-minute";r=10`, reset: "", retry: "",
		}, ""},
		{"banned", with(func(d *events.Decision) { deny(0)(d); d.Limit, d.WindowMS, d.ResetMS = 0, 0, 0 }), 429, map[string]string{
			policy: `"per-minute";q=0`, left: `"per-minute";r=0`, limit: "0", reset: "", retry: "",
		}, ""},
		{"banned for a while", with(func(d *events.Decision) { deny(4_001)(d); d.Limit, d.WindowMS, d.ResetMS = 0, 0, 0 }), 429, map[string]string{
			policy: `"per-minute";q=0`, left: `"per-minute";r=0;t=5`, limit: "0", reset: "5", retry: "5",
		}, ""},
		{"denied without a decision", events.Decision{Verdict: events.Deny, Reason: events.ReasonTimeout}, 429, map[string]string{limit: "", retry: "1"},
			`#temporary-reduced-capacity","title":"Request cannot be satisfied due to temporary server capacity constraints","status":429,"detail":"No decision came in time`},
		{"a rule with an odd name", with(func(d *events.Decision) { d.Rule = `a"b\c é` + "\x7f" }), 200, map[string]string{
			policy: `"a\"b\\c %c3%a9%7f";q=256;w=60`, left: `"a\"b\\c %c3%a9%7f";r=12;t=7`,
		}, `"rule":"a\"b\\c é`},
		{"a window below a second", with(func(d *events.Decision) { d.WindowMS, d.ResetMS = 1, 1 }), 200, map[string]string{
			policy: `"per-minute";q=256;w=1`, reset: "1",
		}, ""},
		{"more than a structured field holds", with(func(d *events.Decision) { d.Limit, d.Remaining, d.ResetMS = 1<<62, 1<<62, 1<<63-1 }), 200, map[string]string{
			limit: "4611686018427387904", reset: "9223372036854776",
			policy: `"per-minute";q=999999999999999;w=60`, left: `"per-minute";r=999999999999999;t=999999999999999`,
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := mustServe(t, usual, deciding(tt.decision), true)
			a := e.post(t, "/v1/check", `{"id":"a","tenant":"acme"}`)
			if a.code != tt.code || !strings.Contains(a.body, tt.body) {
				t.Errorf("got %d %s\nwant %d %s", a.code, a.body, tt.code, tt.body)
			}
			for name, want := range tt.header {
				if got := a.header.Get(name); got != want {
					t.Errorf("%s: %q, want %q", name, got, want)
				}
			}
		})
	}
}

// badRequests are refused alone, by check, and among others, by reports.
var badRequests = []struct {
	name, body    string
	field         string // as counted
	errField      string // as told
	found, expect string // parts of what is told
}{
	{"not JSON", `tenant=acme`, "body", "", "tenant=acme", "a JSON object"},
	{"a string", `"acme"`, "body", "", `"acme"`, "a JSON object"},
	{"cut short", `{"tenant":"acme"`, "body", "", "", "comma"},
	{"more than an object", `{"tenant":"acme"} x`, "body", "", "x", "nothing after"},
	{"wrong type of tenant", `{"tenant":7}`, "tenant", "tenant", "7", "a string"},
	{"wrong type of cost", `{"tenant":"acme","cost":"one"}`, "cost", "cost", `"one"`, "a whole number"},
	{"missing tenant", `{"user":"42"}`, "tenant", "tenant", "", "1 to 64 characters of A-Z"},
	{"a tenant that is no token", `{"tenant":"acme.eu"}`, "tenant", "tenant", "acme.eu", "1 to 64 characters of A-Z"},
	{"a wildcard tenant", `{"tenant":">"}`, "tenant", "tenant", ">", "1 to 64 characters of A-Z"},
	{"NUL", "{\"tenant\":\"acme\",\"user\":\"a\x00b\"}", "user", "user", "a\x00b", "control characters"},
	{"escaped NUL", `{"tenant":"acme","user":"a\u0000b"}`, "user", "user", `a\u0000b`, "NUL"},
	{"broken UTF-8", "{\"tenant\":\"acme\",\"user\":\"\xff\xfe\"}", "body", "", "\uFFFD", "UTF-8"},
	{"half a surrogate pair", `{"tenant":"acme","path":"\ud800"}`, "path", "path", `\ud800`, "surrogates"},
	{"negative cost", `{"tenant":"acme","cost":-1}`, "cost", "cost", "-1", "a whole number from 0"},
	{"huge cost", `{"tenant":"acme","cost":99999999999999999999}`, "cost", "cost", "99999999999999999999", "a whole number from 0"},
	{"fractional cost", `{"tenant":"acme","cost":1.5}`, "cost", "cost", "1.5", "a whole number"},
	{"year 1", `{"tenant":"acme","time":"0001-01-01T00:00:01Z"}`, "time", "time", "0001-01-01T00:00:01Z", "a time from 2000 to 2091"},
	{"year 9999", `{"tenant":"acme","time":"9999-12-31T23:59:59Z"}`, "time", "time", "9999-12-31T23:59:59Z", "a time from 2000 to 2091"},
	{"a time of no calendar", `{"tenant":"acme","time":"yesterday"}`, "time", "time", "yesterday", "RFC 3339"},
	{"no address", `{"tenant":"acme","ip":"1.2.3"}`, "ip", "ip", "1.2.3", "an IPv4 or IPv6 address"},
	{"deep nesting", `{"tenant":"acme","attrs":` + strings.Repeat(`{"a":`, 40) + "1" + strings.Repeat("}", 40) + "}", "attrs", "attrs", "", "nesting of at most 32"},
	{"very deep nesting", `{"tenant":"acme","attrs":` + strings.Repeat("[", 9_000) + strings.Repeat("]", 9_000) + "}", "attrs", "attrs", "", "nesting of at most 32"},
	{"attrs that are no object", `{"tenant":"acme","attrs":[1]}`, "attrs", "attrs", "[1]", "an object"},
	{"large attrs", `{"tenant":"acme","attrs":{"a":"` + strings.Repeat("x", 9<<10) + `"}}`, "attrs", "attrs", `{"a":"xxx`, "at most 8192 bytes"},
	{"a long id", `{"tenant":"acme","id":"` + strings.Repeat("x", 129) + `"}`, "id", "id", "xxx", "at most 128 bytes"},
}

func TestCheckRefuses(t *testing.T) {
	for _, tt := range badRequests {
		t.Run(tt.name, func(t *testing.T) {
			e := mustServe(t, usual, deciding(allowed), true)
			a := e.post(t, "/v1/check", tt.body)
			if a.code != 400 {
				t.Fatalf("got %d %s", a.code, a.body)
			}
			first := a.member["errors"].([]any)[0].(map[string]any)
			field, _ := first["field"].(string)
			found, expected := first["found"].(string), first["expected"].(string)
			if field != tt.errField || !strings.Contains(found, tt.found) || !strings.Contains(expected, tt.expect) || len(found) > 70 {
				t.Errorf("told of field %q, found %q, expected %q", field, found, expected)
			}
			if detail := a.member["detail"].(string); !strings.HasPrefix(detail, tt.errField) || !strings.Contains(detail, tt.expect) {
				t.Errorf("detail: %q", detail)
			}
			e.counted(t, `weir_ingest_refused_total{field="`+tt.field+`"} 1`, `weir_ingest_requests_total{code="400",handler="check"} 1`)
		})
	}
}

func TestCheckNamesEveryFault(t *testing.T) {
	e := mustServe(t, usual, deciding(allowed), true)
	a := e.post(t, "/v1/check", `{"tenant":"a b","time":"0001-01-01T00:00:01Z","attrs":7}`)
	if got := len(a.member["errors"].([]any)); got != 3 || !strings.HasSuffix(a.member["detail"].(string), "(and 2 more)") {
		t.Errorf("told of %d faults: %s", got, a.body)
	}
}

func TestCheckStrict(t *testing.T) {
	const body = `{"tenant":"acme","colour":"red"}`
	for _, tt := range []struct {
		strict bool
		path   string
		code   int
		named  string // what is refused
	}{
		{false, "/v1/check", 200, ""},
		{false, "/v1/check?strict=0", 200, ""},
		{false, "/v1/check?strict=1", 400, "colour"},
		{true, "/v1/check", 400, "colour"},
		{true, "/v1/check?strict=0", 400, "colour"},
		{false, "/v1/check?explian=1", 400, "?explian"},
		{false, "/v1/reports?explain=1", 400, "?explain"},
	} {
		e := mustServe(t, ingest.Config{Strict: tt.strict}, deciding(allowed), true)
		a := e.post(t, tt.path, body)
		if a.code != tt.code || !strings.Contains(a.body, tt.named) {
			t.Errorf("strict %v, %s: %d %s", tt.strict, tt.path, a.code, a.body)
		}
		if tt.code == 400 { // the name is the sender's, so it is no label
			e.counted(t, `weir_ingest_refused_total{field="body"} 1`)
		}
	}
}

func TestLargeBodies(t *testing.T) {
	e := mustServe(t, usual, deciding(allowed), true)
	for _, tt := range []struct {
		path   string
		size   int
		expect bool // the client asks before it sends
		code   int
		want   string
	}{
		{"/v1/check", 64 << 10, false, 200, ""},
		{"/v1/check", 64<<10 + 1, false, 413, "larger than the 65536 bytes that /v1/check takes"},
		{"/v1/check", 10_000_000, false, 413, "larger than the 65536 bytes that /v1/check takes"},
		{"/v1/check", 10_000_000, true, 413, "larger than the 65536 bytes that /v1/check takes"},
		{"/v1/reports", 10<<20 + 1, false, 413, "larger than the 10485760 bytes that /v1/reports takes"},
		{"/v1/reports", 10 << 20, false, 400, "at most 65536 bytes"},
	} {
		body := []byte(`{"tenant":"acme"}` + strings.Repeat(" ", tt.size-len(`{"tenant":"acme"}`)))
		if tt.code == 400 { // one line that is too long, not white space around
			body = []byte(`{"tenant":"` + strings.Repeat("x", tt.size-13) + `"}`)
		}
		r, err := http.NewRequestWithContext(t.Context(), "POST", e.URL+tt.path, bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if tt.expect {
			r.Header.Set("Expect", "100-continue")
		}
		resp, err := e.Client().Do(r)
		if a := read(t, resp, err); a.code != tt.code || !strings.Contains(a.body, tt.want) {
			t.Errorf("%s, %d bytes: %d %s", tt.path, tt.size, a.code, a.body)
		}
	}
}

// TestLargeBodyOfASimpleClient writes everything before it reads.
func TestLargeBodyOfASimpleClient(t *testing.T) {
	e := mustServe(t, usual, deciding(allowed), true)
	conn, err := net.Dial("tcp", e.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	const size = 30 << 20
	if _, err := fmt.Fprintf(conn, "POST /v1/check HTTP/1.1\r\nHost: weir\r\nContent-Length: %d\r\n\r\n", size); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(bytes.Repeat([]byte("x"), size)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), httptest.NewRequest("POST", "/v1/check", nil))
	if a := read(t, resp, err); a.code != 413 {
		t.Errorf("got %d %s", a.code, a.body)
	}
}

func TestEncodedBodyIsRefused(t *testing.T) {
	e := mustServe(t, usual, deciding(allowed), true)
	r, err := http.NewRequestWithContext(t.Context(), "POST", e.URL+"/v1/reports", strings.NewReader("\x1f\x8b"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Encoding", "gzip")
	resp, err := e.Client().Do(r)
	if a := read(t, resp, err); a.code != 415 || a.header.Get("Accept-Encoding") != "identity" || !strings.Contains(a.body, "gzip") {
		t.Errorf("got %d %v %s", a.code, a.header, a.body)
	}
}

func TestCheckWithoutAClient(t *testing.T) {
	broken := deciding(allowed)
	broken.check = func(context.Context, events.Request) (events.Decision, error) {
		return events.Decision{}, errors.New("closed")
	}
	e := mustServe(t, usual, broken, true)
	if a := e.post(t, "/v1/check", `{"tenant":"acme"}`); a.code != 503 || a.header.Get("Retry-After") != "1" {
		t.Errorf("got %d %v %s", a.code, a.header, a.body)
	}
}

func TestCheckOfAClientThatLeft(t *testing.T) {
	asked := make(chan struct{})
	slow := deciding(allowed)
	slow.check = func(ctx context.Context, _ events.Request) (events.Decision, error) {
		close(asked)
		<-ctx.Done()
		return events.Decision{}, ctx.Err()
	}
	e := mustServe(t, usual, slow, true)
	ctx, leave := context.WithCancel(t.Context())
	go func() { <-asked; leave() }()
	r, err := http.NewRequestWithContext(ctx, "POST", e.URL+"/v1/check", strings.NewReader(`{"tenant":"acme"}`))
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := e.Client().Do(r); err == nil {
		t.Errorf("answered %d", resp.StatusCode)
	}
	e.Close() // waits for the handler
	e.counted(t, `weir_ingest_requests_total{code="499",handler="check"} 1`)
}

// discard is a client that reads nothing.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

// BenchmarkCheck measures the edge alone: reading the body, wording the answer.
func BenchmarkCheck(b *testing.B) {
	denied := with(func(d *events.Decision) { d.Verdict, d.RetryAfterMS = events.Deny, 15_001 })
	for _, d := range []events.Decision{allowed, denied} {
		b.Run(string(d.Verdict), func(b *testing.B) {
			server := ingest.New(usual, deciding(d), func() bool { return true }, prometheus.NewRegistry(), zap.NewNop())
			body := strings.NewReader("")
			r := httptest.NewRequest("POST", "/v1/check", body)
			w := discard{make(http.Header)}
			b.ReportAllocs()
			for b.Loop() {
				body.Reset(`{"id":"a","tenant":"acme","user":"42","method":"GET","path":"/api/order/history/"}`)
				clear(w.header)
				server.Handler().ServeHTTP(w, r)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "checks/s")
		})
	}
}
