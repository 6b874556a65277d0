package django_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/answer"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/ingest"
	"github.com/weirhq/weir/internal/limiter/limitertest"
	"github.com/weirhq/weir/internal/revision"
	"github.com/weirhq/weir/internal/testenv"
)

// weir is a Weir of the test's own, whose HTTP edge can be out of order.
type weir struct {
	nc          *nats.Conn
	client      *gateway.Client
	edge        http.Handler
	addr        string // that of every start
	server      *http.Server
	connections atomic.Int64
	asked       atomic.Int64
	hang        atomic.Bool  // it takes requests and does not answer
	answer      atomic.Int64 // if set, the status of every answer
}

func mustWeir(t *testing.T) *weir {
	t.Helper()
	w := &weir{nc: testenv.Connect(t, testenv.NATS(t)), addr: "127.0.0.1:0"}
	limitertest.Start(t, w.nc)
	client, err := gateway.Connect(w.nc, gateway.Config{Name: "edge", Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	w.client = client
	w.edge = ingest.New(ingest.Config{Strict: true, Headers: answer.AllHeaders}, client, w.nc.IsConnected, prometheus.NewRegistry(), zap.NewNop()).Handler()
	w.start(t)
	t.Cleanup(func() { w.stop(t) })
	return w
}

func (w *weir) url() string { return "http://" + w.addr }

func (w *weir) start(t *testing.T) {
	t.Helper()
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	w.addr = listener.Addr().String()
	w.server = &http.Server{Handler: w, ConnState: func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			w.connections.Add(1)
		}
	}}
	go func() { _ = w.server.Serve(listener) }() // until stop
}

func (w *weir) stop(t *testing.T) {
	t.Helper()
	if err := w.server.Close(); err != nil {
		t.Error(err)
	}
}

func (w *weir) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.asked.Add(1)
	switch status := int(w.answer.Load()); {
	case w.hang.Load():
		_, _ = io.Copy(io.Discard, r.Body) // then it is seen when the client goes away
		<-r.Context().Done()
	case status != 0:
		rw.WriteHeader(status)
	case r.Header.Get("Authorization") != "Bearer a-token":
		rw.WriteHeader(http.StatusUnauthorized)
	default:
		w.edge.ServeHTTP(rw, r)
	}
}

// use has a user make n requests that all fit.
func (w *weir) use(t *testing.T, n int, user string) {
	t.Helper()
	for range n {
		d, err := w.client.Check(t.Context(), gateway.Request{Tenant: "shop", User: user, Method: "GET"})
		if err != nil || d.Verdict != gateway.Allow || d.Reason != events.ReasonRule {
			t.Fatalf("%+v, %v", d, err)
		}
	}
}

// apply applies a policy that has a rule uploads, and waits until it is in force.
func (w *weir) apply(t *testing.T, text string) {
	t.Helper()
	js, err := jetstream.New(w.nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := revision.Apply(t.Context(), js, events.Names{Prefix: events.DefaultPrefix}, []byte(text)); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		x, err := w.client.Explain(t.Context(), gateway.Request{Tenant: "shop", User: "1", Attrs: `{"scopes":["uploads"]}`})
		if err == nil && x.Decision.Rule != "uploads" {
			err = fmt.Errorf("decided by %q", x.Decision.Rule)
		}
		return err
	})
}

// shop is the project in testdata, served.
type shop struct {
	*testenv.Process
	config shopConfig
	url    string
}

type shopConfig struct {
	weir    string
	timeout time.Duration // for a decision; 0 stands for one that no check takes
	proxies string        // NUM_PROXIES; empty: not set
}

// environment is the shell's, in which env starts a program.
func (c shopConfig) environment() []string {
	if c.timeout == 0 {
		c.timeout = 10 * time.Second
	}
	all := []string{
		"PYTHONPATH=.:testdata", "PYTHONDONTWRITEBYTECODE=1", "DJANGO_SETTINGS_MODULE=shop.settings",
		"SHOP_WEIR=" + c.weir, fmt.Sprintf("SHOP_TIMEOUT=%g", c.timeout.Seconds()),
	}
	if c.proxies != "" {
		all = append(all, "SHOP_PROXIES="+c.proxies)
	}
	return all
}

var port = regexp.MustCompile(`(?m)^port (\d+)$`)

func mustServe(t *testing.T, server string, config shopConfig) *shop {
	t.Helper()
	args := append(config.environment(), python(t), "testdata/serve.py", server)
	s := &shop{Process: testenv.Start(t, "env", args...), config: config}
	testenv.Eventually(t, 30*time.Second, func() error {
		select {
		case <-s.Done():
			t.Fatal("the server has ended")
		default:
		}
		found := port.FindStringSubmatch(s.Output())
		if found == nil {
			return errors.New("no port is told")
		}
		s.url = "http://127.0.0.1:" + found[1]
		return nil
	})
	return s
}

// run runs a line of Python in the project.
func run(t *testing.T, config shopConfig, line string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, python(t), "-c", line)
	cmd.Env = append(os.Environ(), config.environment()...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// policy is what the module makes of the rates in the project's settings.
func (s *shop) policy(t *testing.T) string {
	t.Helper()
	out, err := run(t, s.config, "import weir_throttle; print(weir_throttle.policy())")
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return out
}

// caller is who asks.
type caller struct{ user, forwarded string }

type reply struct {
	code   int
	header http.Header
	body   string
}

func (s *shop) ask(t *testing.T, method, path string, c caller) reply {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.user != "" {
		r.Header.Set("X-User", c.user)
	}
	if c.forwarded != "" {
		r.Header.Set("X-Forwarded-For", c.forwarded)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(body)}
}

// python is the first Python that has what the project needs: the system's
// packages are only seen by the system's Python. Without one the test is
// skipped, and fails where REQUIRE_ENV=1.
func python(t *testing.T) string {
	t.Helper()
	path := findPython()
	switch {
	case path != "":
	case os.Getenv("REQUIRE_ENV") == "1":
		t.Fatal("no Python has rest_framework and uvicorn; see scripts/install.sh")
	default:
		t.Skip("no Python has rest_framework and uvicorn")
	}
	return path
}

var findPython = sync.OnceValue(func() string {
	for _, path := range []string{"python3", "/usr/bin/python3"} {
		if exec.Command(path, "-c", "import rest_framework, uvicorn").Run() == nil {
			return path
		}
	}
	return ""
})
