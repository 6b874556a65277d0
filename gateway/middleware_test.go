package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/limiter/limitertest"
	"github.com/weirhq/weir/internal/testenv"
)

const twoPerHour = `
version: 1
tenants:
  "*":
    rules: [{ name: few, limit: 2/hour, key: [identity] }]
`

// limited is a system with a limiter under twoPerHour, and a gateway to it.
func limited(t *testing.T) (*nats.Conn, *gateway.Client) {
	t.Helper()
	url := testenv.NATS(t)
	nc := testenv.Connect(t, url)
	apply(t, nc, twoPerHour)
	limitertest.Start(t, testenv.Connect(t, url))
	return nc, connect(t, nc, gateway.Config{Timeout: 20 * time.Second})
}

func middleware(t *testing.T, c *gateway.Client, config gateway.MiddlewareConfig) func(http.Handler) http.Handler {
	t.Helper()
	limit, err := c.Middleware(config)
	if err != nil {
		t.Fatal(err)
	}
	return limit
}

// serve answers one request, which need not come over a connection.
func serve(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// outcomes waits until so many are stored.
func outcomes(t *testing.T, nc *nats.Conn, n int) []gateway.Outcome {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), names.OutcomesStream())
	if err != nil {
		t.Fatal(err)
	}
	var list []gateway.Outcome
	for seq := uint64(1); len(list) < n; seq++ {
		testenv.Eventually(t, 10*time.Second, func() error {
			m, err := stream.GetMsg(t.Context(), seq)
			if err != nil {
				return err
			}
			o, err := events.DecodeOutcome(m.Data, true)
			list = append(list, o)
			return err
		})
	}
	return list
}

func TestMiddleware(t *testing.T) {
	t.Parallel()
	nc, c := limited(t)
	mux := http.NewServeMux()
	mux.HandleFunc("POST example.org/users/{id}", func(w http.ResponseWriter, r *http.Request) {
		d, ok := gateway.DecisionFrom(r.Context())
		if !ok || d.Rule != "few" || r.PathValue("id") != "42" {
			t.Errorf("decision %+v, %v, of user %q", d, ok, r.PathValue("id"))
		}
		w.WriteHeader(http.StatusCreated)
		_, _ = io.WriteString(w, "done")
	})
	server := httptest.NewServer(middleware(t, c, gateway.MiddlewareConfig{
		Tenant: "acme",
		Describe: func(r *http.Request, request *gateway.Request) {
			request.APIKey = r.Header.Get("X-API-Key")
			request.Attrs = `{"plan":"free"}`
		},
	})(mux))
	t.Cleanup(server.Close)
	post := func() (*http.Response, string) {
		r, err := http.NewRequestWithContext(t.Context(), "POST", server.URL+"/users/42?secret=1", strings.NewReader("12345"))
		if err != nil {
			t.Fatal(err)
		}
		r.Host = "example.org:8080"
		r.Header.Set("X-API-Key", "s3cr3t")
		r.Header.Set("X-Forwarded-For", "203.0.113.7") // by the client itself
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp, string(body)
	}
	for left := range 2 {
		resp, body := post()
		if resp.StatusCode != 201 || body != "done" || resp.Header.Get("X-RateLimit-Remaining") != fmt.Sprint(1-left) ||
			resp.Header.Get("RateLimit-Policy") != `"few";q=2;w=3600` || resp.Header.Get("Retry-After") != "" {
			t.Errorf("got %d %v %s", resp.StatusCode, resp.Header, body)
		}
	}
	resp, body := post()
	var problem struct {
		Type, Detail, Rule string
		Status             int
	}
	if err := json.Unmarshal([]byte(body), &problem); err != nil || resp.StatusCode != 429 || problem.Status != 429 || problem.Rule != "few" ||
		!strings.HasSuffix(problem.Type, "#quota-exceeded") || problem.Detail != "Request was throttled. Expected available in "+resp.Header.Get("Retry-After")+" seconds." ||
		resp.Header.Get("Content-Type") != "application/problem+json" || resp.Header.Get("X-RateLimit-Remaining") != "0" {
		t.Errorf("got %d %v %s, %v", resp.StatusCode, resp.Header, body, err)
	}

	records := limitertest.Records(t, nc)
	if len(records) != 3 {
		t.Fatalf("%d records, want 3", len(records))
	}
	for i, o := range outcomes(t, nc, 2) {
		if o.ID != records[i].Request.ID || o.Status != 201 || o.BytesIn != 5 || o.BytesOut != 4 || o.LatencyUS < 1 || o.Time.IsZero() {
			t.Errorf("outcome %+v of request %s", o, records[i].Request.ID)
		}
	}
	got := records[0].Request
	got.ID, got.Time = "", time.Time{}
	want := events.Request{
		Tenant: "acme", Gateway: "g", IP: netip.MustParseAddr("127.0.0.1"), APIKey: events.HashAPIKey("s3cr3t"), Attrs: `{"plan":"free"}`,
		Method: "POST", Host: "example.org", Path: "/users/42", Route: "/users/{id}",
	}
	if got != want {
		t.Errorf("asked about %+v\nwant %+v", got, want)
	}
}

// The route is that of the pattern that has led to the middleware, or that leads on
// from it.
func TestRoute(t *testing.T) {
	t.Parallel()
	nc, c := limited(t)
	var at []string
	limit := middleware(t, c, gateway.MiddlewareConfig{Describe: func(r *http.Request, request *gateway.Request) {
		request.Tenant, request.User = "acme", r.URL.Path
		at = append(at, request.Route)
	}})
	nothing := http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})
	inner, outer := http.NewServeMux(), http.NewServeMux()
	inner.Handle("GET /in/{x}", nothing)
	outer.Handle("/in/", limit(inner))
	outer.Handle("/out/{y...}", limit(nothing))
	outer.Handle("example.org/", limit(nothing))
	for _, target := range []string{"http://[::1]:80/in/1", "http://Example.org.:80/in/1/2", "/out/1", "http://example.org/1"} {
		serve(outer, httptest.NewRequest("GET", target, nil))
	}
	serve(limit(nothing), httptest.NewRequest("GET", "http://example.com?alone", nil))
	if got := strings.Join(at, " "); got != "/in/{x}  /out/{y...} / " {
		t.Errorf("routes %q", got)
	}
	records := limitertest.Records(t, nc)
	if len(records) != 5 || records[0].Request.Tenant != "acme" || records[0].Request.User != "/in/1" {
		t.Fatalf("records %+v", records)
	}
	if got := records[4].Request.Path; got != "/" {
		t.Errorf("a URL without a path has %q", got)
	}
	for i, want := range []string{"::1", "example.org", "example.com", "example.org", "example.com"} {
		if got := records[i].Request.Host; got != want {
			t.Errorf("request %d to host %q, want %q", i, got, want)
		}
	}
}

// What a client makes up is no way around the limits.
func TestOddRequestsAreLimited(t *testing.T) {
	t.Parallel()
	nc, c := limited(t)
	proxies, err := gateway.ParseProxies("1")
	if err != nil {
		t.Fatal(err)
	}
	handled := 0
	limited := middleware(t, c, gateway.MiddlewareConfig{
		Tenant: "acme", Proxies: proxies,
		Describe: func(r *http.Request, request *gateway.Request) { request.Cost = int64(len(r.Header.Get("Cost"))) * -1 },
	})(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { handled++ }))
	for i, code := range []int{200, 200, 429, 429} {
		r := httptest.NewRequest("GET", "/%ff%00/"+strings.Repeat("x", 10_000), nil)
		r.Host = strings.Repeat("h", 2_000)
		r.Method = strings.Repeat("M", 2_000)
		r.ContentLength = 1 << 62
		r.Header.Set("X-Forwarded-For", fmt.Sprintf("198.51.100.%d, 203.0.113.7", i))
		if w := serve(limited, r); w.Code != code {
			t.Errorf("request %d: %d %s", i, w.Code, w.Body)
		}
	}
	records := limitertest.Records(t, nc)
	if got := records[0].Request; got.Path[:10] != "/\uFFFD\uFFFD/xx" || got.IP != netip.MustParseAddr("203.0.113.7") {
		t.Errorf("asked about %+v", got)
	}
	if o := outcomes(t, nc, 2)[0]; o.BytesIn != events.MaxBytes {
		t.Errorf("outcome %+v", o)
	}
	wrong := httptest.NewRequest("GET", "/", nil)
	wrong.Header.Set("Cost", "x")
	if w := serve(limited, wrong); w.Code != 400 || !strings.Contains(w.Body.String(), `"detail":"cost: want a whole number from 0 to 4294967296, found \"-1\""`) {
		t.Errorf("a request that cannot be asked about: %d %s", w.Code, w.Body)
	}
	if handled != 2 {
		t.Errorf("%d requests are handled, want 2", handled)
	}
}

func TestMiddlewareConfig(t *testing.T) {
	t.Parallel()
	_, c := limited(t)
	describe := func(_ *http.Request, request *gateway.Request) { request.Tenant = "acme" }
	for _, tt := range []struct {
		config gateway.MiddlewareConfig
		want   string // part of the error; or the names of headers
	}{
		{gateway.MiddlewareConfig{}, "tenant: want 1 to 64 characters"},
		{gateway.MiddlewareConfig{Tenant: "a.b"}, "tenant: want 1 to 64 characters"},
		{gateway.MiddlewareConfig{Tenant: "a.b", Describe: describe}, "tenant: want 1 to 64 characters"},
		{gateway.MiddlewareConfig{Tenant: "acme", Headers: "all"}, "headers: want x-ratelimit, ietf,"},
		{gateway.MiddlewareConfig{Describe: describe, Headers: "ietf"}, "RateLimit RateLimit-Policy"},
		{gateway.MiddlewareConfig{Tenant: "acme", Headers: "none"}, ""},
	} {
		limit, err := c.Middleware(tt.config)
		got := fmt.Sprint(err)
		if err == nil {
			w := serve(limit(http.NotFoundHandler()), httptest.NewRequest("GET", "/", nil))
			w.Header().Del("Content-Type")
			w.Header().Del("X-Content-Type-Options")
			got = strings.Join(slices.Sorted(maps.Keys(w.Header())), " ")
		}
		if !strings.HasPrefix(got, tt.want) || tt.want == "" && got != "" {
			t.Errorf("%+v: %q, want %q", tt.config, got, tt.want)
		}
	}
}

// Without a decision on_error speaks; after Close nobody is limited; whoever has
// gone gets no answer.
func TestMiddlewareWithoutADecision(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	store(t, nc, names.ReportsStream(), names.Reports(0))
	store(t, nc, names.OutcomesStream(), names.Outcome(0, "acme", "lax"))
	handled := 0
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handled++
		w.WriteHeader(http.StatusTeapot)
	})
	lax := connect(t, nc, gateway.Config{Name: "lax", Shards: 1, Timeout: time.Millisecond})
	w := serve(middleware(t, lax, gateway.MiddlewareConfig{Tenant: "acme"})(handler), httptest.NewRequest("GET", "/", nil))
	if w.Code != 418 || len(w.Header()) != 0 {
		t.Errorf("on_error allow: %d %v", w.Code, w.Header())
	}
	strict := connect(t, nc, gateway.Config{Name: "strict", Shards: 1, Timeout: time.Millisecond, OnError: gateway.Deny})
	w = serve(middleware(t, strict, gateway.MiddlewareConfig{Tenant: "acme"})(handler), httptest.NewRequest("GET", "/", nil))
	if w.Code != 429 || w.Header().Get("Retry-After") != "1" || !strings.Contains(w.Body.String(), "#temporary-reduced-capacity") || handled != 1 {
		t.Errorf("on_error deny: %d %v %s", w.Code, w.Header(), w.Body)
	}

	patient := connect(t, nc, gateway.Config{Name: "patient", Shards: 1, Timeout: time.Hour})
	limited := middleware(t, patient, gateway.MiddlewareConfig{Tenant: "acme"})(handler)
	ctx, gone := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer gone()
	w = serve(limited, httptest.NewRequestWithContext(ctx, "GET", "/", nil))
	if w.Flushed || w.Body.Len() != 0 || len(w.Header()) != 0 || handled != 1 {
		t.Errorf("to a client that has gone: %d %v %s", w.Code, w.Header(), w.Body)
	}
	if err := patient.Close(); err != nil {
		t.Fatal(err)
	}
	if w := serve(limited, httptest.NewRequest("GET", "/", nil)); w.Code != 418 || handled != 2 {
		t.Errorf("after Close: %d %s", w.Code, w.Body)
	}
}

// Handlers behind the middleware can do what they can do without it, and the
// outcome tells of it.
func TestWhatHandlersDo(t *testing.T) {
	t.Parallel()
	nc, c := limited(t)
	limit := middleware(t, c, gateway.MiddlewareConfig{Tenant: "acme", Describe: func(r *http.Request, request *gateway.Request) {
		request.User = r.URL.Path
	}})
	received := make(chan struct{})
	server := httptest.NewUnstartedServer(limit(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var err error
		switch r.URL.Path {
		case "/nothing":
		case "/informs":
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusNoContent)
		case "/file":
			_, err = w.(io.ReaderFrom).ReadFrom(strings.NewReader("a file"))
		case "/deadline":
			control := http.NewResponseController(w)
			err = errors.Join(control.SetWriteDeadline(time.Now().Add(time.Minute)), control.Flush())
		case "/breaks-off":
			_, _ = io.WriteString(w, "first")
			w.(http.Flusher).Flush()
			<-received
			panic(http.ErrAbortHandler)
		case "/half-a-file":
			_, _ = w.(io.ReaderFrom).ReadFrom(strings.NewReader("a fi"))
			panic(http.ErrAbortHandler)
		case "/panics":
			panic("boom")
		case "/takes-over":
			conn, rw, hijacked := w.(http.Hijacker).Hijack()
			if err = hijacked; err == nil {
				_, _ = rw.WriteString("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nme")
				err = errors.Join(rw.Flush(), conn.Close())
			}
		}
		if err != nil {
			t.Errorf("%s: %v", r.URL.Path, err)
		}
	})))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.Start()
	t.Cleanup(server.Close)
	for i, tt := range []struct {
		path   string
		body   string // empty: none, or no answer
		status int64  // of the outcome, and:
		bytes  int64
	}{
		{"/nothing", "", 200, 0},
		{"/informs", "", 204, 0},
		{"/file", "a file", 200, 6},
		{"/deadline", "", 200, 0},
		{"/breaks-off", "first", 200, 5},
		{"/half-a-file", "", 200, 4},
		{"/panics", "", 500, 0},
		{"/takes-over", "me", 0, 0},
	} {
		body := ""
		if resp, err := http.Get(server.URL + tt.path); err == nil {
			text := make([]byte, len(tt.body))
			_, err = io.ReadFull(resp.Body, text)
			if body = string(text); err != nil {
				t.Errorf("%s: %v", tt.path, err)
			}
			if tt.path == "/breaks-off" {
				close(received)
				if _, err := io.ReadAll(resp.Body); err == nil {
					t.Error("what breaks off looks whole")
				}
			}
			_ = resp.Body.Close()
		}
		o := outcomes(t, nc, i+1)[i]
		if body != tt.body || o.Status != tt.status || o.BytesOut != tt.bytes {
			t.Errorf("%s: got %q and outcome %+v, want %+v", tt.path, body, o, tt)
		}
	}
}

// Handlers look for what the server's ResponseWriter can do.
func TestNothingIsPromisedToHandlers(t *testing.T) {
	t.Parallel()
	_, c := limited(t)
	for _, w := range []http.ResponseWriter{httptest.NewRecorder(), struct{ http.ResponseWriter }{httptest.NewRecorder()}} {
		_, flushes := w.(http.Flusher)
		middleware(t, c, gateway.MiddlewareConfig{Tenant: "acme"})(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if _, ok := w.(http.Flusher); ok != flushes {
				t.Errorf("flushes: %v, want %v", ok, flushes)
			}
			if _, ok := w.(http.Hijacker); ok {
				t.Error("a Hijacker in front of none")
			}
		})).ServeHTTP(w, httptest.NewRequest("GET", "/", nil))
	}
}
