package serve_test

import (
	"context"
	"errors"
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
		{"192.0.2.7:0", false, "say --insecure"},
		{"example.org:80", false, `found "example.org"`},
		{"127.0.0.1", false, `--addr: want host:port such as 127.0.0.1:8080, found "127.0.0.1"`},
		{"127.0.0.1:99999", false, "--addr: listen tcp: address 99999: invalid port"},
		{taken.Addr().String(), false, "--addr: " + taken.Addr().String() + " is taken by another program"},
	} {
		listener, err := serve.Listen(t.Context(), "--addr", tt.addr, tt.insecure)
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
	listener, err := serve.Listen(t.Context(), "--addr", "127.0.0.1:0", false)
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
	listener, err := serve.Listen(t.Context(), "--addr", "127.0.0.1:0", false)
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
