package serve_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/access"
	"github.com/weirhq/weir/internal/problem"
	"github.com/weirhq/weir/internal/serve"
)

func TestListen(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, tt := range []struct {
		addr     string
		insecure bool
		want     string // of the error; empty: none
	}{
		{"127.0.0.1:0", false, ""},
		{"localhost:0", false, ""},
		{"0.0.0.0:0", true, ""},
		{":0", true, ""},
		{":0", false, `--addr: want a loopback host such as 127.0.0.1, found ""`},
		{"192.0.2.7:0", false, "or --insecure"},
		{"example.org:80", false, `found "example.org"`},
		{"127.0.0.1", false, `--addr: want host:port such as 127.0.0.1:8080, found "127.0.0.1"`},
		{"127.0.0.1:99999", false, "--addr: listen tcp: address 99999: invalid port"},
		{taken.Addr().String(), false, "--addr: " + taken.Addr().String() + " is taken by another program"},
	} {
		guard, err := access.Open(access.Config{Insecure: tt.insecure})
		if err != nil {
			t.Fatal(err)
		}
		listener, err := serve.Listen(t.Context(), "--addr", tt.addr, guard)
		if err == nil {
			err = listener.Close()
		}
		if got := fmt.Sprint(err); tt.want == "" && err != nil || !strings.Contains(got, tt.want) {
			t.Errorf("%q, insecure %v: %v, want %q", tt.addr, tt.insecure, err, tt.want)
		}
	}
}

// TestRunAnswersWhatItTook holds a request open while the server is told to
// stop.
func TestRunAnswersWhatItTook(t *testing.T) {
	listener, err := serve.Listen(t.Context(), "--addr", "127.0.0.1:0", new(access.Guard))
	if err != nil {
		t.Fatal(err)
	}
	asked, answerNow := make(chan struct{}), make(chan struct{})
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-answerNow
		if r.Context().Err() != nil {
			t.Error("the request under way was cancelled")
		}
		w.WriteHeader(http.StatusTeapot)
	})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- serve.Run(ctx, listener, handler, zap.NewNop()) }()
	got := make(chan string, 1)
	go func() {
		resp, err := http.Get("http://" + listener.Addr().String())
		if err != nil {
			got <- err.Error()
			return
		}
		got <- fmt.Sprint(resp.StatusCode, resp.Body.Close())
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
	if got := <-got; got != "418 <nil>" {
		t.Errorf("the request under way ended with %s", got)
	}
	if err := <-ended; err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestRunTellsOfABrokenListener(t *testing.T) {
	listener, err := serve.Listen(t.Context(), "--addr", "127.0.0.1:0", new(access.Guard))
	if err != nil {
		t.Fatal(err)
	}
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	err = serve.Run(t.Context(), listener, http.NotFoundHandler(), zap.NewNop())
	if !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), listener.Addr().String()) {
		t.Errorf("Run: %v", err)
	}
}

func TestOperations(t *testing.T) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_test_total"}))
	var why error
	mux := http.NewServeMux()
	serve.Operations(mux, func(context.Context) error { return why }, registry, zap.NewNop())
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		body, err := io.ReadAll(w.Body)
		if err != nil {
			t.Fatal(err)
		}
		return w.Code, string(body)
	}
	if code, body := get("/healthz"); code != 200 || body != "ok\n" {
		t.Errorf("/healthz: %d %s", code, body)
	}
	if code, body := get("/readyz"); code != 200 || body != "ready\n" {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if code, body := get("/metrics"); code != 200 || !strings.Contains(body, "\nweir_test_total 0\n") {
		t.Errorf("/metrics: %d %s", code, body)
	}
	why = errors.New("still reading")
	if code, body := get("/readyz"); code != 503 || !strings.Contains(body, "still reading") {
		t.Errorf("/readyz, not ready: %d %s", code, body)
	}
	if code, _ := get("/healthz"); code != 200 {
		t.Errorf("/healthz, not ready: %d", code)
	}
}

func TestAdmit(t *testing.T) {
	token, line, err := access.NewToken(access.Grant{Name: "shop", Roles: []access.Role{access.Gateway}, Tenants: []string{"acme"}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(path, []byte(line), 0o600); err != nil {
		t.Fatal(err)
	}
	guard, err := access.Open(access.Config{Tokens: path})
	if err != nil {
		t.Fatal(err)
	}
	who := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g := access.Of(r.Context()); g != nil {
			fmt.Fprint(w, g.Name)
		}
	})
	const known, invalid = `Bearer realm="weir"`, `Bearer realm="weir", error="invalid_token"`
	for _, tt := range []struct {
		name, path string
		header     http.Header
		role       access.Role
		status     int
		challenge  string
		want       string // part of the answer
	}{
		{"its role", "/v1/check", http.Header{"Authorization": {"Bearer " + token}}, access.Gateway, 200, "", "shop"},
		{"in the place of the end user's", "/v1/auth", http.Header{"Weir-Token": {token}, "Authorization": {"Basic dXNlcg=="}}, access.Gateway, 200, "", "shop"},
		{"a wrong one there", "/v1/auth", http.Header{"Weir-Token": {"weir_"}, "Authorization": {"Bearer " + token}}, access.Gateway, 400, invalid, "not known"},
		{"two there", "/v1/auth", http.Header{"Weir-Token": {token, token}}, access.Gateway, 400, `Bearer realm="weir", error="invalid_request"`, "several"},
		{"another role", "/v1/query", http.Header{"Authorization": {"Bearer " + token}}, access.Analyst, 403, "", `role: want analyst in what token shop may do, found \"gateway\"`},
		{"metrics", "/metrics", http.Header{"Authorization": {"Bearer " + token}}, access.Gateway, 403, "", "role: want metrics"},
		{"a proxy without", "/v1/auth", nil, access.Gateway, 400, known, "A token is needed"},
		{"a proxy with another role's", "/v1/auth", http.Header{"Weir-Token": {token}}, access.Analyst, 400, "", "role: want analyst"},
		{"no token", "/v1/check", nil, access.Gateway, 401, known, "A token is needed"},
		{"no token, no such path", "/nothing", nil, access.Gateway, 401, known, "A token is needed"},
		{"in the query", "/v1/check?access_token=" + token, nil, access.Gateway, 401, known, "A token is needed"},
		{"in a cookie", "/v1/check", http.Header{"Cookie": {"Authorization=Bearer " + token}}, access.Gateway, 401, known, "A token is needed"},
		{"metrics without", "/metrics", nil, access.Gateway, 401, known, "A token is needed"},
		{"health", "/healthz", nil, access.Gateway, 200, "", ""},
		{"readiness", "/readyz", nil, access.Gateway, 200, "", ""},
		{"what looks like it", "/healthz/../v1/check", nil, access.Gateway, 401, known, "A token is needed"},
	} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("POST", tt.path, nil)
		maps.Copy(r.Header, tt.header)
		serve.Admit(guard, tt.role, who).ServeHTTP(w, r)
		if w.Code != tt.status || w.Header().Get("WWW-Authenticate") != tt.challenge || !strings.Contains(w.Body.String(), tt.want) {
			t.Errorf("%s: %d %q %s\nwant %d %q %s", tt.name, w.Code, w.Header().Get("WWW-Authenticate"), w.Body, tt.status, tt.challenge, tt.want)
		}
		if tt.status >= 400 && w.Header().Get("Content-Type") != problem.ContentType {
			t.Errorf("%s: came as %s", tt.name, w.Header().Get("Content-Type"))
		}
	}
	open, err := access.Open(access.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	serve.Admit(open, access.Gateway, who).ServeHTTP(w, httptest.NewRequest("POST", "/v1/check", nil))
	if w.Code != 200 || w.Body.String() != "" {
		t.Errorf("where nobody needs a token: %d %s", w.Code, w.Body)
	}
}
