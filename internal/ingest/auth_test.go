package ingest_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/ingest"
)

// asking keeps what it is asked, and decides d.
func asking(asked *events.Request, d events.Decision) standIn {
	s := deciding(d)
	decide := s.check
	s.check = func(ctx context.Context, r events.Request) (events.Decision, error) {
		*asked = r
		return decide(ctx, r)
	}
	return s
}

// ask sends a request as a proxy does. A header is a line.
func (e edge) ask(tb testing.TB, method, path, headers string) answer {
	tb.Helper()
	r, err := http.NewRequestWithContext(tb.Context(), method, e.URL+path, nil)
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(headers) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		r.Header.Add(name, value)
	}
	resp, err := e.Client().Do(r)
	return read(tb, resp, err)
}

// What Traefik, Caddy and nginx send, and end users who would like to be
// somebody else.
const (
	forwarded = "X-Forwarded-Method: PUT\nX-Forwarded-Proto: https\nX-Forwarded-Host: shop.example.org\nX-Forwarded-Uri: /api/order?id=7\nX-Forwarded-For: 198.51.100.7\n"
	original  = "X-Original-Method: PUT\nX-Original-Host: shop.example.org\nX-Original-URI: /api/order?id=7\nX-Forwarded-For: 198.51.100.7\n"
)

func TestAuthRequest(t *testing.T) {
	put := events.Request{Tenant: "acme", Method: "PUT", Host: "shop.example.org", Path: "/api/order", IP: netip.MustParseAddr("198.51.100.7")}
	with := func(change func(*events.Request)) events.Request {
		r := put
		change(&r)
		return r
	}
	for _, tt := range []struct {
		name, query, headers string
		want                 events.Request
	}{
		{"forwarded", "tenant=acme", forwarded, put},
		{"nginx", "tenant=acme&proxy=nginx", original, put},
		{"forwarded, forged for nginx", "tenant=acme", forwarded + "X-Original-Method: POST\nX-Original-URI: /free\nX-Original-Host: x\n", put},
		{"nginx, forged for others", "tenant=acme&proxy=nginx", original + "X-Forwarded-Method: POST\nX-Forwarded-Uri: /free\nX-Forwarded-Host: x\n", put},
		{"headers that are not named", "tenant=acme", forwarded + "X-Weir-Tenant: x\nX-Tenant: x\nTenant: x\nX-User: x\nX-Api-Key: x\nAuthorization: x\nCost: 0\nX-Request-Id: x\n", put},
		{"everything in the query", "tenant=acme&id=a&user=41%2642&api_key=k&route=/api/%7Bname%7D&cost=5", forwarded, with(func(r *events.Request) {
			r.ID, r.User, r.APIKey, r.Route, r.Cost = "a", "41&42", "k", "/api/{name}", 5
		})},
		{"everything in headers", "tenant_header=T&id_header=I&user_header=X-User&api_key_header=Authorization&route_header=R&cost_header=C",
			forwarded + "T: acme\nI: a\nX-User: 42\nAuthorization: Bearer k\nR: /api/{name}\nC: 5\n", with(func(r *events.Request) {
				r.ID, r.User, r.APIKey, r.Route, r.Cost = "a", "42", "Bearer k", "/api/{name}", 5
			})},
		{"headers that are not there", "tenant=acme&user_header=X-User&cost_header=C&api_key=", forwarded, put},
		{"a header in several lines", "tenant=acme&user_header=X-User&api_key_header=X-Key", forwarded + "X-User: 41\nX-User: 42\nX-Key: j\nX-Key: k\n", with(func(r *events.Request) {
			r.User, r.APIKey = "41,42", "j,k"
		})},
		{"a peek", "tenant=acme&cost=0", forwarded, with(func(r *events.Request) { r.Peek = true })},
		{"nothing known but who asks", "tenant=acme", "", events.Request{Tenant: "acme", IP: netip.MustParseAddr("127.0.0.1")}},
		{"a path in disguise", "tenant=acme", strings.Replace(forwarded, "/api/order", "/%61pi/%6Frder", 1), put},
		{"a host in disguise", "tenant=acme", strings.Replace(forwarded, "example.org", "Example.org.:443", 1), put},
		{"an IPv6 host", "tenant=acme", strings.Replace(forwarded, "shop.example.org", "[2001:db8::1]:443", 1), with(func(r *events.Request) { r.Host = "2001:db8::1" })},
		{"an IPv6 host without a port", "tenant=acme", strings.Replace(forwarded, "shop.example.org", "[2001:db8::1]", 1), with(func(r *events.Request) { r.Host = "2001:db8::1" })},
		{"a URL", "tenant=acme", strings.Replace(forwarded, "/api/order", "http://shop.example.org/api/order", 1), put},
		{"two slashes", "tenant=acme", strings.Replace(forwarded, "/api/order", "//api/order", 1), with(func(r *events.Request) { r.Path = "//api/order" })},
		{"nginx, a way around", "tenant=acme&proxy=nginx", strings.Replace(original, "/api/order", "/free/.././%2e%2E//api/./order", 1), put},
		{"nginx, a way around to a directory", "tenant=acme&proxy=nginx", strings.Replace(original, "/api/order", "/api/order//x/..", 1), with(func(r *events.Request) { r.Path = "/api/order/" })},
		{"nginx, the root", "tenant=acme&proxy=nginx", strings.Replace(original, "/api/order", "//", 1), with(func(r *events.Request) { r.Path = "/" })},
		{"nginx, another end", "tenant=acme&proxy=nginx", strings.Replace(original, "/api/order", "/api/order#/../../healthz", 1), put},
		{"nginx, an end that is escaped", "tenant=acme&proxy=nginx", strings.Replace(original, "/api/order?id", "/api%23/order#x?id", 1), with(func(r *events.Request) { r.Path = "/api#/order" })},
		{"nginx, a URL without a path", "tenant=acme&proxy=nginx", strings.Replace(original, "/api/order", "http://shop.example.org", 1), with(func(r *events.Request) { r.Path = "/" })},
		{"caddy", "tenant=acme&proxy=caddy", forwarded, put},
		{"caddy, a way around", "tenant=acme&proxy=caddy", strings.Replace(forwarded, "/api/order", "/free/.././%2e%2E//api/./order", 1), put},
		{"caddy, no other end", "tenant=acme&proxy=caddy", strings.Replace(forwarded, "/api/order", "/free#/../../api/order", 1), put},
		{"a broken escape", "tenant=acme", strings.Replace(forwarded, "/api/order", "/api/%zz", 1), with(func(r *events.Request) { r.Path = "/api/%zz" })},
		{"NUL and what is not UTF-8", "tenant=acme&user_header=U", strings.Replace(forwarded, "/api/order", "/%00%ff", 1) + "U: \xff\n", with(func(r *events.Request) {
			r.Path, r.User = "/\uFFFD\uFFFD", "\uFFFD"
		})},
		{"a long path", "tenant=acme", strings.Replace(forwarded, "/api/order", "/"+strings.Repeat("é", 4096), 1), with(func(r *events.Request) {
			r.Path = "/" + strings.Repeat("é", 4095)
		})},
		{"an address that is forged", "tenant=acme", strings.Replace(forwarded, "198.51.100.7", "192.0.2.1, 198.51.100.7", 1), put},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var asked events.Request
			e := mustServe(t, usual, asking(&asked, allowed), true)
			for _, method := range []string{"GET", "HEAD", "POST", "OPTIONS", "TRACE", "PURGE"} {
				asked = events.Request{}
				a := e.ask(t, method, "/v1/auth?"+tt.query, tt.headers)
				if a.code != 200 || a.body != "" || asked != tt.want {
					t.Errorf("%s: %d %q, asked\n     %+v\nwant %+v", method, a.code, a.body, asked, tt.want)
				}
				if got := a.header.Get("RateLimit"); got != `"per-minute";r=12;t=7` {
					t.Errorf("%s: RateLimit %q", method, got)
				}
			}
			e.counted(t, `weir_ingest_requests_total{code="200",handler="auth"} 6`, `weir_ingest_check_seconds_count{verdict="allow"} 6`)
		})
	}
}

func TestAuthDenies(t *testing.T) {
	denied := with(func(d *events.Decision) { d.Verdict, d.Remaining, d.RetryAfterMS = events.Deny, 0, 15_001 })
	e := mustServe(t, usual, deciding(denied), true)
	for _, tt := range []struct {
		query string
		code  int
	}{{"tenant=acme", 429}, {"tenant=acme&proxy=nginx", 403}} {
		a := e.ask(t, "GET", "/v1/auth?"+tt.query, "")
		if a.code != tt.code || a.member["detail"] != "Request was throttled. Expected available in 16 seconds." {
			t.Errorf("%s: %d %s", tt.query, a.code, a.body)
		}
		for name, want := range map[string]string{
			"Retry-After": "16", "X-RateLimit-Remaining": "0", "RateLimit": `"per-minute";r=0;t=7`, "RateLimit-Policy": `"per-minute";q=256;w=60`,
		} {
			if got := a.header.Get(name); got != want {
				t.Errorf("%s: %s: %q, want %q", tt.query, name, got, want)
			}
		}
		told := a.header.Get("X-Weir-Problem")
		if tt.code == 403 && told != `{"type":"https://iana.org/assignments/http-problem-types#quota-exceeded","title":"Request cannot be satisfied as assigned quota has been exceeded",`+
			`"status":429,"detail":"Request was throttled. Expected available in 16 seconds.","violated-policies":["per-minute"]}` || tt.code == 429 && told != "" {
			t.Errorf("%s: nginx is told %s", tt.query, told)
		}
	}
	e.counted(t, `weir_ingest_requests_total{code="403",handler="auth"} 1`, `weir_ingest_requests_total{code="429",handler="auth"} 1`)
}

func TestAuthRefuses(t *testing.T) {
	e := mustServe(t, usual, deciding(allowed), true)
	for _, tt := range []struct{ query, headers, field, want string }{
		{"", "", "tenant", "1 to 64 characters of A-Z"},
		{"tenant=a.b", "", "tenant", "1 to 64 characters of A-Z"},
		{"tenant=acme&tenant=other", "", "query", "each parameter once"},
		{"tenant=acme&usr=42", "", "query", "tenant, id, user, api_key, route, cost, each also with _header, or proxy"},
		{"tenant=acme&proxy=apache", "", "proxy", "nginx, caddy, or nothing"},
		{"tenant=acme&cost=-1", "", "cost", "a whole number"},
		{"tenant=acme&cost=all", "", "cost", "a whole number"},
		{"tenant=acme&user=42&user_header=X-User", "", "user", "either user or user_header"},
		{"tenant=acme&id=" + strings.Repeat("x", 129), "", "id", "at most 128 bytes"},
		{"tenant=acme;user=42", "", "query", "name=value"},
		{"tenant=acme&user=%zz", "", "query", "name=value"},
	} {
		a := e.ask(t, "GET", "/v1/auth?"+tt.query, tt.headers)
		if a.code != 400 {
			t.Errorf("%s: %d %s", tt.query, a.code, a.body)
			continue
		}
		first := a.member["errors"].([]any)[0].(map[string]any)
		if first["field"] != tt.field || !strings.Contains(first["expected"].(string), tt.want) {
			t.Errorf("%s: told of %v", tt.query, first)
		}
	}
	broken := deciding(allowed)
	broken.check = func(context.Context, events.Request) (events.Decision, error) {
		return events.Decision{}, errors.New("closed")
	}
	if a := mustServe(t, usual, broken, true).ask(t, "GET", "/v1/auth?tenant=acme", ""); a.code != 503 || a.header.Get("Retry-After") != "1" {
		t.Errorf("without a client: %d %v", a.code, a.header)
	}
}

// FuzzAuth sends what an end user can choose. A proxy may let pass what is
// refused, so nothing of it may be.
func FuzzAuth(f *testing.F) {
	f.Add("GET", "/", "example.org", "42", "198.51.100.7")
	f.Add("GET", "/login#/../../healthz?", "Example.org.:443", "42", "[2001:db8::1]:80")
	f.Add("\xff", "//%00?%", ":::", "a\x00b", "unknown,")
	f.Add(strings.Repeat("x", 2000), strings.Repeat("é", 9000), strings.Repeat(".", 2000), strings.Repeat("%", 2000), "[::1%eth0]:80")
	server := ingest.New(usual, deciding(allowed), func() bool { return true }, prometheus.NewRegistry(), zap.NewNop())
	f.Fuzz(func(t *testing.T, method, uri, host, user, from string) {
		for proxy, headers := range map[string]string{"": "X-Forwarded-", "caddy": "X-Forwarded-", "nginx": "X-Original-"} {
			r := httptest.NewRequest("GET", "/v1/auth?tenant=acme&proxy="+proxy+"&user_header=X-User&api_key_header=X-User&route_header="+headers+"Uri", nil)
			r.Header = http.Header{headers + "Method": {method}, headers + "Uri": {uri}, headers + "Host": {host}, "X-User": {user, from}, "X-Forwarded-For": {from}}
			w := httptest.NewRecorder()
			server.Handler().ServeHTTP(w, r)
			if w.Code != 200 {
				t.Errorf("proxy=%s: %d %s", proxy, w.Code, w.Body)
			}
		}
	})
}

// BenchmarkAuth measures the edge alone, asked as Traefik and Caddy ask.
func BenchmarkAuth(b *testing.B) {
	server := ingest.New(usual, deciding(allowed), func() bool { return true }, prometheus.NewRegistry(), zap.NewNop())
	r := httptest.NewRequest("GET", "/v1/auth?tenant=acme&user_header=X-User", nil)
	r.Header = http.Header{"X-Forwarded-Method": {"GET"}, "X-Forwarded-Host": {"shop.example.org"}, "X-Forwarded-Uri": {"/api/order?id=7"}, "X-Forwarded-For": {"198.51.100.7"}, "X-User": {"42"}}
	w := discard{make(http.Header)}
	b.ReportAllocs()
	for b.Loop() {
		clear(w.header)
		server.Handler().ServeHTTP(w, r)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "checks/s")
}
