// Package caddy_test drives a real Caddy with the configuration in this directory.
package caddy_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/answer"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/ingest"
	"github.com/weirhq/weir/internal/limiter/limitertest"
	"github.com/weirhq/weir/internal/problem"
	"github.com/weirhq/weir/internal/testenv"
)

// limit is that of the built-in policy.
const limit = 256

// edge is a running Weir, which can be away or broken.
type edge struct {
	*httptest.Server
	broken atomic.Bool
}

func mustEdge(t *testing.T, headers answer.Headers) (*edge, *nats.Conn) {
	t.Helper()
	nc := testenv.Connect(t, testenv.NATS(t))
	limitertest.Start(t, nc)
	client, err := gateway.Connect(nc, gateway.Config{Name: "edge", Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	proxies, err := gateway.ParseProxies("1")
	if err != nil {
		t.Fatal(err)
	}
	config := ingest.Config{Headers: headers, Proxies: proxies}
	handler := ingest.New(config, client, nc.IsConnected, prometheus.NewRegistry(), zap.NewNop()).Handler()
	e := &edge{}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if e.broken.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(e.Close)
	return e, nc
}

// mustCaddy starts Caddy before an application and returns its URL.
func mustCaddy(t *testing.T, weir, app string) string {
	t.Helper()
	program, err := exec.LookPath("caddy")
	if err != nil && os.Getenv("REQUIRE_ENV") != "1" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	snippet, err := os.ReadFile("weir.caddy")
	if err != nil {
		t.Fatal(err)
	}
	dir, addr := t.TempDir(), testenv.FreeAddr(t)
	t.Setenv("XDG_DATA_HOME", dir)
	t.Setenv("XDG_CONFIG_HOME", dir)
	for name, text := range map[string]string{
		"weir.caddy": strings.Replace(string(snippet), "127.0.0.1:8080", strings.TrimPrefix(weir, "http://"), 1),
		"Caddyfile": fmt.Sprintf(`
{
	admin off
	auto_https off
}
import weir.caddy
http://%s {
	route {
		import weir acme
		reverse_proxy %[2]s
	}
	handle_errors {
		import weir_away
		reverse_proxy @weir_away %[2]s
	}
}`, addr, strings.TrimPrefix(app, "http://")),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	testenv.Start(t, program, "run", "--config", filepath.Join(dir, "Caddyfile"))
	url := "http://" + addr
	testenv.Eventually(t, 10*time.Second, func() error {
		resp, err := http.Get(url + "/ready")
		if err == nil {
			resp.Body.Close()
		}
		return err
	})
	return url
}

// app answers what it was asked, and counts.
type app struct {
	*httptest.Server
	requests, failed atomic.Int64
}

func mustApp(t *testing.T) *app {
	t.Helper()
	a := &app{}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/fail" {
			a.failed.Add(1)
			panic(http.ErrAbortHandler)
		}
		a.requests.Add(1)
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.Path, body)
	}))
	t.Cleanup(a.Close)
	return a
}

func send(t *testing.T, method, url, body string, header http.Header) (int, http.Header, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		r.Header = header
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(text)
}

func TestCaddy(t *testing.T) {
	weir, nc := mustEdge(t, answer.AllHeaders)
	a := mustApp(t)
	url := mustCaddy(t, weir.URL, a.URL) // has asked once

	// A client that would like to be another one, and to ask for another thing.
	forged := http.Header{
		"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Method": {"POST"}, "X-Forwarded-Uri": {"/other"},
		"X-Original-Method": {"POST"}, "Remote-User": {"7"}, "X-Weir-Tenant": {"other"},
	}
	code, header, body := send(t, "GET", url+"/x/..//%61?b", "", forged) // /a to Caddy
	if code != 200 || body != "GET /x/..//a " || header.Get("X-RateLimit-Remaining") != "254" || header.Get("RateLimit-Policy") != `"per-minute";q=256;w=60` {
		t.Errorf("allowed: %d %v %s", code, header, body)
	}
	code, header, body = send(t, "POST", url+"/exempt", "hello", nil)
	if code != 200 || body != "POST /exempt hello" || header.Get("RateLimit") != "" {
		t.Errorf("exempt: %d %v %s", code, header, body)
	}
	for i, want := range []events.Request{{Method: "GET", Path: "/ready"}, {Method: "GET", Path: "/a"}, {Method: "POST", Path: "/exempt"}} {
		records := limitertest.Records(t, nc)
		if len(records) != 3 {
			t.Fatalf("%d records", len(records))
		}
		r := records[i].Request
		if r.Method != want.Method || r.Path != want.Path || r.Tenant != "acme" || r.User != "" || r.IP.String() != "127.0.0.1" || r.Host != "127.0.0.1" {
			t.Errorf("Weir was asked %+v", r)
		}
	}
	for range limit - 2 {
		send(t, "GET", url+"/", "", nil)
	}
	passed := a.requests.Load()
	code, header, body = send(t, "GET", url+"/a", "", forged)
	var details struct {
		Detail   string
		Violated []string `json:"violated-policies"`
	}
	if err := json.Unmarshal([]byte(body), &details); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	if code != 429 || header.Get("Content-Type") != problem.ContentType || header.Get("Retry-After") == "" || header.Get("X-RateLimit-Remaining") != "0" ||
		!strings.HasPrefix(details.Detail, "Request was throttled. Expected available in") || len(details.Violated) != 1 {
		t.Errorf("denied: %d %v %s", code, header, body)
	}
	if passed != limit+1 || a.requests.Load() != passed {
		t.Errorf("the application saw %d requests, then %d; want %d and none that is denied", passed, a.requests.Load(), limit+1)
	}

	// What the application breaks is neither repeated nor Weir's to mend.
	if code, _, _ := send(t, "POST", url+"/fail", "hello", nil); code != 502 || a.failed.Load() != 1 {
		t.Errorf("an application that fails: %d, asked %d times", code, a.failed.Load())
	}
	weir.broken.Store(true)
	if code, header, body := send(t, "POST", url+"/broken", "hello", nil); code != 200 || body != "POST /broken hello" || header.Get("RateLimit") != "" {
		t.Errorf("Weir is broken: %d %s", code, body)
	}
	weir.Close()
	if code, _, body := send(t, "POST", url+"/away", "hello", nil); code != 200 || body != "POST /away hello" {
		t.Errorf("Weir is away: %d %s", code, body)
	}
}

// Clients are told of limits in the headers that Weir sends.
func TestHeadersAreChosen(t *testing.T) {
	fields := map[string]answer.Headers{
		"X-RateLimit-Limit": answer.XRateLimit, "X-RateLimit-Remaining": answer.XRateLimit, "X-RateLimit-Reset": answer.XRateLimit,
		"RateLimit": answer.IETF, "RateLimit-Policy": answer.IETF,
	}
	for _, headers := range []answer.Headers{0, answer.XRateLimit, answer.IETF, answer.AllHeaders} {
		weir, _ := mustEdge(t, headers)
		url := mustCaddy(t, weir.URL, mustApp(t).URL)
		code, header, _ := send(t, "GET", url+"/", "", nil)
		if code != 200 {
			t.Errorf("%d", code)
		}
		for name, kind := range fields {
			if got := header.Get(name); (got != "") != (headers&kind != 0) || strings.Contains(got, "{") {
				t.Errorf("of kinds %d: %s is %q", headers, name, got)
			}
		}
	}
}

// A request does not wait for long.
func TestSlowWeir(t *testing.T) {
	weir := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
	t.Cleanup(weir.Close)
	a := mustApp(t)
	url := mustCaddy(t, weir.URL, a.URL)
	start := time.Now()
	if code, _, body := send(t, "POST", url+"/slow", "hello", nil); code != 200 || body != "POST /slow hello" || time.Since(start) > 30*time.Second {
		t.Errorf("%d %s after %v", code, body, time.Since(start))
	}
}
