package ingest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/ingest"
	"github.com/weirhq/weir/internal/problem"
)

// standIn answers in place of a gateway client.
type standIn struct {
	check  func(context.Context, events.Request) (events.Decision, error)
	report func(context.Context, ...events.Request) error
}

func (s standIn) Check(ctx context.Context, r events.Request) (events.Decision, error) {
	return s.check(ctx, r)
}

func (s standIn) Report(ctx context.Context, requests ...events.Request) error {
	return s.report(ctx, requests...)
}

// deciding answers every valid check with d, and takes every report.
func deciding(d events.Decision) standIn {
	return standIn{
		check: func(_ context.Context, r events.Request) (events.Decision, error) {
			r.Gateway = "test"
			if err := r.Validate(); err != nil {
				return events.Decision{}, err
			}
			d.ID = r.ID
			return d, nil
		},
		report: func(context.Context, ...events.Request) error { return nil },
	}
}

var allowed = events.Decision{
	Verdict: events.Allow, Reason: events.ReasonRule, Rule: "per-minute", Key: "42",
	Limit: 256, WindowMS: 60_000, Remaining: 12, ResetMS: 6_001, Cost: 1,
	DecidedAt: time.Date(2026, 11, 23, 14, 32, 25, 0, time.UTC),
}

// edge is a server under test.
type edge struct {
	*httptest.Server
	handler http.Handler
}

type client interface {
	Check(context.Context, events.Request) (events.Decision, error)
	Report(context.Context, ...events.Request) error
}

func mustServe(tb testing.TB, config ingest.Config, c client, connected bool) edge {
	tb.Helper()
	server, err := ingest.New(config, c, func() bool { return connected }, prometheus.NewRegistry(), zap.NewNop())
	if err != nil {
		tb.Fatal(err)
	}
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
	e := mustServe(t, ingest.DefaultConfig(), deciding(allowed), false)
	for _, tt := range []struct {
		method, path string
		code         int
		header       string
		want         string
	}{
		{"GET", "/v1/check", 405, "Allow: POST", "/v1/check takes POST, found GET."},
		{"DELETE", "/v1/reports", 405, "Allow: POST", "/v1/reports takes POST, found DELETE."},
		{"POST", "/healthz", 405, "Allow: GET, HEAD", "/healthz takes GET, HEAD, found POST."},
		{"GET", "/healthz", 200, "Content-Type: text/plain; charset=utf-8", "ok\n"},
		{"GET", "/readyz", 503, "Retry-After: 1", "There is no connection to NATS."},
		{"GET", "/v2/check", 404, "", "There is no /v2/check. There are POST /v1/check, POST /v1/reports"},
		{"POST", "/", 404, "", "There is no /. There are"},
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
	ready := mustServe(t, ingest.DefaultConfig(), deciding(allowed), true)
	resp, err := ready.Client().Get(ready.URL + "/readyz")
	if a := read(t, resp, err); a.code != 200 {
		t.Errorf("ready with a connection: %d %s", a.code, a.body)
	}
}

func TestConfigNamesEveryFault(t *testing.T) {
	for _, tt := range []struct {
		addr     string
		insecure bool
		want     []string // nothing: no fault
	}{
		{"127.0.0.1:8080", false, nil},
		{"[::1]:0", false, nil},
		{"localhost:8080", false, nil},
		{"0.0.0.0:8080", true, nil},
		{":8080", true, nil},
		{":8080", false, []string{`want a loopback host such as 127.0.0.1, found ""`, "--insecure"}},
		{"192.0.2.7:99999", false, []string{"want a port from 0 to 65535", "want a loopback host"}},
		{"example.org:http", false, []string{"want a loopback host"}},
		{"127.0.0.1", false, []string{`want host:port, found "127.0.0.1"`}},
		{"127.0.0.1:", false, []string{"want a port"}},
	} {
		err := ingest.Config{Addr: tt.addr, Insecure: tt.insecure}.Validate()
		if (err == nil) != (tt.want == nil) {
			t.Errorf("%q, insecure %v: %v", tt.addr, tt.insecure, err)
		}
		for _, want := range tt.want {
			if err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v lacks %q", tt.addr, err, want)
			}
		}
	}
	if _, err := ingest.New(ingest.Config{}, deciding(allowed), nil, prometheus.NewRegistry(), zap.NewNop()); err == nil {
		t.Error("New takes a config that is not valid")
	}
}

// TestRunAnswersWhatItTook holds a check open while the server is told to stop.
func TestRunAnswersWhatItTook(t *testing.T) {
	asked, answerNow := make(chan struct{}), make(chan struct{})
	slow := deciding(allowed)
	decide := slow.check
	slow.check = func(ctx context.Context, r events.Request) (events.Decision, error) {
		close(asked)
		<-answerNow
		return decide(ctx, r)
	}
	server, err := ingest.New(ingest.DefaultConfig(), slow, func() bool { return true }, prometheus.NewRegistry(), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + listener.Addr().String() + "/v1/check"
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx, listener) }()

	code := make(chan string, 1)
	go func() {
		resp, err := http.Post(url, "application/json", strings.NewReader(`{"tenant":"acme"}`))
		if err != nil {
			code <- err.Error()
			return
		}
		code <- fmt.Sprint(resp.StatusCode, resp.Body.Close())
	}()
	<-asked
	stop()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			break // nothing new is taken
		}
		_ = conn.Close()
		if time.Now().After(deadline) {
			t.Fatal("still listening")
		}
	}
	close(answerNow)
	if got := <-code; got != "200 <nil>" {
		t.Errorf("the check under way ended with %s", got)
	}
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestRunTellsOfABrokenListener(t *testing.T) {
	server, err := ingest.New(ingest.DefaultConfig(), deciding(allowed), func() bool { return true }, prometheus.NewRegistry(), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	if err := server.Run(t.Context(), listener); err == nil || !strings.Contains(err.Error(), listener.Addr().String()) {
		t.Errorf("Run: %v", err)
	}
}
