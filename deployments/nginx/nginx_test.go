// Package nginx_test drives a real nginx with the configuration in this directory.
package nginx_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
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
	"github.com/weirhq/weir/internal/problem"
	"github.com/weirhq/weir/internal/tail"
	"github.com/weirhq/weir/internal/testenv"
)

// weir is a running Weir, whose HTTP edge can be away and can be slow.
type weir struct {
	nats string
	addr string
	edge http.Handler

	mu     sync.Mutex // guards the rest
	server *http.Server
	other  http.Handler // answers in place of edge, if there is one
}

func mustWeir(t *testing.T) *weir {
	t.Helper()
	w := &weir{nats: testenv.NATS(t), addr: testenv.FreeAddr(t)}
	limitertest.Start(t, testenv.Connect(t, w.nats))
	nc := testenv.Connect(t, w.nats)
	client, err := gateway.Connect(nc, gateway.Config{Name: "edge", Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	proxies, err := gateway.ParseProxies("1")
	if err != nil {
		t.Fatal(err)
	}
	w.edge = ingest.New(ingest.Config{Headers: answer.AllHeaders, Proxies: proxies}, client, nc.IsConnected, prometheus.NewRegistry(), zap.NewNop()).Handler()
	t.Cleanup(w.stop)
	w.start(t)
	return w
}

func (w *weir) start(t *testing.T) {
	t.Helper()
	var listener net.Listener
	testenv.Eventually(t, 5*time.Second, func() (err error) {
		listener, err = net.Listen("tcp", w.addr)
		return err
	})
	server := &http.Server{Handler: w}
	w.mu.Lock()
	w.server = server
	w.mu.Unlock()
	go server.Serve(listener) //nolint:errcheck // stop ends it
}

func (w *weir) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.server.Close()
}

func (w *weir) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	handler := w.other
	w.mu.Unlock()
	if handler == nil {
		handler = w.edge
	}
	handler.ServeHTTP(rw, r)
}

// answers has another one answer in Weir's place; nil: Weir does.
func (w *weir) answers(handler http.HandlerFunc) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.other = nil
	if handler != nil {
		w.other = handler
	}
}

// server is an nginx before an application.
type server struct {
	*testenv.Process
	dir string // its own, with weir.log
	url string
}

// patient stands for the time-outs of server.conf where they are not what is
// tested: a busy machine may take longer.
var patient = []string{"100ms;", "20s;", "200ms;", "20s;"}

// mustNginx starts nginx with the files of this directory, as README says to
// include them, with some words of them replaced.
func mustNginx(t *testing.T, weir string, app http.Handler, words ...string) *server {
	t.Helper()
	program, err := exec.LookPath("nginx")
	if err != nil {
		program, err = exec.LookPath("/usr/sbin/nginx")
	}
	if err != nil && os.Getenv("REQUIRE_ENV") != "1" {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	upstream := httptest.NewServer(app)
	t.Cleanup(upstream.Close)
	s := &server{dir: t.TempDir()}
	addr := testenv.FreeAddr(t)
	s.url = "http://" + addr
	if err := os.Mkdir(filepath.Join(s.dir, "weir"), 0o700); err != nil {
		t.Fatal(err)
	}
	ours := strings.NewReplacer(append(words, "127.0.0.1:8080", weir, "/var/log/nginx/", s.dir+"/")...)
	err = fs.WalkDir(os.DirFS("."), "weir", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(s.dir, path), []byte(ours.Replace(string(text))), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	user := ""
	if os.Getuid() == 0 {
		user = "user root;"
	}
	// One process: if the test is killed there is none that it leaves behind.
	config := fmt.Sprintf(`
%[1]s
daemon off;
master_process off;
pid %[2]s/nginx.pid;
error_log stderr warn;
events { worker_connections 512; }
http {
    client_body_temp_path %[2]s/body;
    proxy_temp_path %[2]s/proxy;
    fastcgi_temp_path %[2]s/fastcgi;
    uwsgi_temp_path %[2]s/uwsgi;
    scgi_temp_path %[2]s/scgi;
    access_log %[2]s/access.log;
    include weir/http.conf;
    server {
        listen %[3]s;
        include weir/server.conf;
        location / {
            include weir/limit.conf;
            proxy_pass %[4]s;
        }
        location /free/ {
            proxy_pass %[4]s;
        }
        location /forbidden/ {
            include weir/limit.conf;
            deny all;
        }
    }
    server {
        listen %[3]s;
        server_name whole;
        include weir/server.conf;
        include weir/limit.conf;
        location / {
            proxy_pass %[4]s;
        }
    }
}
`, user, s.dir, addr, upstream.URL)
	path := filepath.Join(s.dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Process = testenv.Start(t, program, "-p", s.dir, "-c", path, "-e", "stderr")
	testenv.Eventually(t, 10*time.Second, func() error {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
		}
		return err
	})
	return s
}

// reply is what a client of nginx got.
type reply struct {
	code   int
	header http.Header
	body   string
	took   time.Duration
}

func (s *server) get(t *testing.T, path string, change func(*http.Request)) reply {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), "GET", s.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(r)
	}
	start := time.Now()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return reply{resp.StatusCode, resp.Header, string(text), time.Since(start)}
}

// app answers for the application behind nginx, and counts.
type app struct{ requests atomic.Int64 }

func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.requests.Add(1)
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if r.URL.Path == "/own403" {
		http.Error(w, "not yours", http.StatusForbidden)
		return
	}
	fmt.Fprintf(w, "%s %s %s", r.Method, r.URL.Path, body)
}

// sent is a request that a test has made.
type sent struct {
	path   string
	code   int
	passed bool // nginx had no answer of Weir
}

// Of each request that is in nginx's log Weir is told once, through rotations of
// both kinds, restarts of weir tail, and while it is away.
func TestTail(t *testing.T) {
	w, a := mustWeir(t), &app{}
	s := mustNginx(t, w.addr, a, patient...)
	log := filepath.Join(s.dir, "weir.log")
	nc := testenv.Connect(t, w.nats)
	client, err := gateway.Connect(nc, gateway.Config{Name: "tail"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	follow := func() (stop func() tail.Summary) {
		ctx, cancel := context.WithCancel(t.Context())
		type result struct {
			tail.Summary
			error
		}
		done := make(chan result, 1)
		go func() {
			sum, err := tail.Run(ctx, client, tail.Options{Log: log, Gateway: "tail", State: log + ".weir", Tenant: "default"})
			done <- result{sum, err}
		}()
		return func() tail.Summary {
			cancel()
			r := <-done
			if r.error != nil {
				t.Error(r.error)
			}
			return r.Summary
		}
	}
	stop := follow()

	var all []sent
	some := func(passed bool) {
		for range 40 {
			path := fmt.Sprintf("/%d", len(all))
			all = append(all, sent{path, s.get(t, path, nil).code, passed})
		}
	}
	rotate := func(to string) {
		t.Helper()
		if err := os.Rename(log, log+to); err != nil {
			t.Fatal(err)
		}
		some(false) // nginx goes on with the file it has
		if err := syscall.Kill(s.Pid(), syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		testenv.Eventually(t, 5*time.Second, func() error {
			_, err := os.Stat(log)
			return err
		})
	}
	some(false)
	rotate(".1")
	some(false)
	w.stop()
	some(true)
	w.start(t)
	testenv.Eventually(t, 20*time.Second, func() error { // they count as far as there is room
		if n := len(limitertest.Records(t, nc)); n != len(all) {
			return fmt.Errorf("%d records of %d requests", n, len(all))
		}
		return nil
	})
	some(false)
	stop()
	some(false) // nobody looks
	if err := os.Rename(log+".1", log+".2"); err != nil {
		t.Fatal(err)
	}
	rotate(".1")
	some(false)
	stop = follow()
	some(false)

	want := make(map[string]sent, len(all))
	outcomes := 0
	for _, one := range all {
		if want[one.path] = one; !one.passed {
			outcomes++
		}
	}
	if all[len(all)-1].code != 429 || all[0].code != 200 {
		t.Errorf("the first answer %d, the last %d", all[0].code, all[len(all)-1].code)
	}
	got := mustOutcomes(t, nc, outcomes)
	sum := stop()
	if sum.BadLines != 0 || sum.Losses != 0 || sum.Behind != 0 {
		t.Errorf("the last tail: %+v", sum)
	}
	records := limitertest.Records(t, nc)
	if len(records) != len(all) {
		t.Errorf("%d records of %d requests", len(records), len(all))
	}
	for _, r := range records {
		one, ok := want[r.Request.Path]
		delete(want, r.Request.Path)
		switch o, told := got[r.Request.ID]; {
		case !ok:
			t.Errorf("%s is recorded again: %+v", r.Request.Path, r)
		case one.passed && (told || r.Decision.Reason != events.ReasonTimeout || r.Request.Status != 200 || r.Request.BytesOut == 0):
			t.Errorf("%s was let through: %+v, outcome %+v", one.path, r, o)
		case !one.passed && (!told || r.Decision.Reason != events.ReasonRule || o.Status != int64(one.code) || o.BytesOut == 0 || o.BytesIn == 0):
			t.Errorf("%s had %d: %+v, outcome %+v", one.path, one.code, r, o)
		}
		if r.Request.IP.String() != "127.0.0.1" || r.Request.Method != "GET" {
			t.Errorf("%s: %+v", one.path, r.Request)
		}
	}
	for path := range want {
		t.Errorf("%s is not recorded", path)
	}
	if n := a.requests.Load(); n != limit {
		t.Errorf("%d requests at the application, want %d", n, limit)
	}
}

// mustOutcomes waits for so many outcomes and returns them by id.
func mustOutcomes(t *testing.T, nc *nats.Conn, want int) map[string]events.Outcome {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), events.Names{Prefix: events.DefaultPrefix}.OutcomesStream())
	if err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 20*time.Second, func() error {
		info, err := stream.Info(t.Context())
		if err == nil && info.State.Msgs < uint64(want) {
			err = fmt.Errorf("%d outcomes, want %d", info.State.Msgs, want)
		}
		return err
	})
	got := make(map[string]events.Outcome, want)
	for seq := uint64(1); seq <= stream.CachedInfo().State.LastSeq; seq++ {
		m, err := stream.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		o, err := events.DecodeOutcome(m.Data, true)
		if _, again := got[o.ID]; err != nil || again {
			t.Errorf("outcome %s, again %v: %v", m.Data, again, err)
		}
		got[o.ID] = o
	}
	if len(got) != want {
		t.Errorf("%d outcomes, want %d", len(got), want)
	}
	return got
}

const limit = 256 // of the built-in policy, in a minute

func TestLimits(t *testing.T) {
	w, a := mustWeir(t), &app{}
	s := mustNginx(t, w.addr, a, patient...)

	first := s.get(t, "/hello?token=secret", nil)
	if first.code != 200 || first.body != "GET /hello " {
		t.Fatalf("allowed: %+v", first)
	}
	for name, want := range map[string]string{
		"X-RateLimit-Limit": "256", "X-RateLimit-Remaining": "255", "X-RateLimit-Reset": "60", "Retry-After": "",
		"RateLimit": `"per-minute";r=255;t=60`, "RateLimit-Policy": `"per-minute";q=256;w=60`,
	} {
		if got := first.header.Get(name); got != want {
			t.Errorf("allowed: %s is %q, want %q", name, got, want)
		}
	}
	own := s.get(t, "/own403", nil)
	if own.code != 403 || own.body != "not yours\n" || own.header.Get("X-RateLimit-Remaining") != "254" {
		t.Errorf("denied by the application: %+v", own)
	}
	forbidden := s.get(t, "/forbidden/", nil) // which nginx sees before it asks Weir
	if forbidden.code != 403 || forbidden.header.Get("X-RateLimit-Limit") != "" || forbidden.header.Get("Retry-After") != "" {
		t.Errorf("denied by nginx: %+v", forbidden)
	}

	for i := 2; i < limit; i++ {
		if got := s.get(t, "/", nil); got.code != 200 {
			t.Fatalf("request %d: %+v", i+1, got)
		}
	}
	passed := a.requests.Load()
	denied := s.get(t, "/", func(r *http.Request) {
		// What an end user sends is nobody's word.
		r.Header.Set("X-Forwarded-For", "192.0.2.99")
		r.Header.Set("X-Weir-User", "another")
		r.Header.Set("X-Original-Method", "POST")
	})
	var details struct {
		Type, Title, Detail string
		Status              int
	}
	if err := json.Unmarshal([]byte(denied.body), &details); err != nil {
		t.Fatalf("%v: %+v", err, denied)
	}
	after := denied.header.Get("Retry-After")
	if denied.code != 429 || details.Status != 429 || after == "" || details.Detail != "Request was throttled. Expected available in "+after+" seconds." {
		t.Errorf("denied: %+v", denied)
	}
	for name, want := range map[string]string{
		"Content-Type": problem.ContentType, "X-RateLimit-Limit": "256", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": after,
		"RateLimit": `"per-minute";r=0;t=` + after, "RateLimit-Policy": `"per-minute";q=256;w=60`,
	} {
		if got := denied.header.Values(name); len(got) != 1 || got[0] != want {
			t.Errorf("denied: %s is %q, want %q", name, got, want)
		}
	}
	if a.requests.Load() != passed {
		t.Error("a denied request reached the application")
	}
	if got := s.get(t, "/", func(r *http.Request) { r.Host = "whole" }); got.code != 429 {
		t.Errorf("denied in a server that is limited as a whole: %+v", got)
	}

	// What is exempt, and what is not asked about, passes; bodies arrive.
	post := s.get(t, "/", func(r *http.Request) {
		r.Method, r.Body = "POST", io.NopCloser(strings.NewReader("body"))
	})
	if post.code != 200 || post.body != "POST / body" || post.header.Get("X-RateLimit-Limit") != "" {
		t.Errorf("exempt: %+v", post)
	}
	if free := s.get(t, "/free/", nil); free.code != 200 || free.header.Get("X-RateLimit-Limit") != "" {
		t.Errorf("not limited: %+v", free)
	}
	if auth := s.get(t, "/_weir/auth", nil); auth.code != 204 || auth.header.Get("X-RateLimit-Limit") != "" {
		t.Errorf("Weir is asked from outside: %+v", auth)
	}
	if text := s.Output(); strings.Contains(text, "[error]") && !strings.Contains(text, "access forbidden") {
		t.Errorf("nginx logs errors:\n%s", text)
	}
}

// What Weir is asked is what nginx knows, not what the end user sends beside.
func TestWhatIsAsked(t *testing.T) {
	w := mustWeir(t)
	s := mustNginx(t, w.addr, &app{}, patient...)
	asked := make(chan *http.Request, 1)
	w.answers(func(_ http.ResponseWriter, r *http.Request) { asked <- r })
	got := s.get(t, "/a%20b/../c?token=secret", func(r *http.Request) {
		r.Method, r.Body = "POST", io.NopCloser(strings.NewReader("body"))
		r.Host = "shop.example"
		for name, value := range map[string]string{
			"X-Forwarded-For": "192.0.2.99", "X-Weir-User": "another", "X-Weir-Api-Key": "another", "X-Original-Method": "GET",
			"X-Original-Uri": "/free", "X-Original-Host": "another", "Cookie": "session=1", "Authorization": "Bearer x",
		} {
			r.Header.Set(name, value)
		}
	})
	if got.code != 200 || got.body != "POST /a b/../c body" {
		t.Errorf("allowed: %+v", got)
	}
	r := <-asked
	query := r.URL.Query()
	if r.Method != "GET" || r.ContentLength != 0 || r.URL.Path != "/v1/auth" || query.Get("proxy") != "nginx" || query.Get("tenant") != "default" || len(query.Get("id")) != 32 {
		t.Errorf("asked %s %s, %d bytes", r.Method, r.URL, r.ContentLength)
	}
	want := http.Header{
		"X-Forwarded-For": {"127.0.0.1"}, "X-Original-Method": {"POST"}, "X-Original-Host": {"shop.example"},
		"X-Original-Uri": {"/a%20b/../c?token=secret"},
	}
	if !maps.EqualFunc(r.Header, want, slices.Equal) {
		t.Errorf("asked with %v, want %v", r.Header, want)
	}
}

// Whatever answers in Weir's place, requests pass, but for what nginx cannot do.
func TestOtherAnswers(t *testing.T) {
	w := mustWeir(t)
	s := mustNginx(t, w.addr, &app{}, patient...)
	get := func(code int) reply {
		w.answers(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) })
		return s.get(t, "/", nil)
	}
	fails := []int{408, 444, 499, 600}
	for code := 200; code < 600; code++ {
		if code == http.StatusForbidden || slices.Contains(fails, code) {
			continue
		}
		if got := get(code); got.code != 200 || got.body != "GET / " || got.header.Get("X-RateLimit-Limit") != "" {
			t.Errorf("Weir answers %d: %+v", code, got)
		}
	}
	for _, code := range fails { // as README says
		if got := get(code); got.code != 500 {
			t.Errorf("Weir answers %d: %+v", code, got)
		}
	}
	w.answers(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		fmt.Fprint(conn, "what is this\r\n")
		conn.Close()
	})
	if got := s.get(t, "/", nil); got.code != 500 {
		t.Errorf("Weir does not answer in HTTP: %+v", got)
	}
}

// Without Weir, or with one that does not answer, requests pass in time, and are
// limited again once it is there.
func TestWeirAway(t *testing.T) {
	w := mustWeir(t)
	s := mustNginx(t, w.addr, &app{})
	passes := func(when string) {
		t.Helper()
		got := s.get(t, "/", nil)
		if got.code != 200 || got.body != "GET / " || got.header.Get("X-RateLimit-Limit") != "" {
			t.Errorf("%s: %+v", when, got)
		}
		if got.took > 2*time.Second { // 200 ms, on a busy machine
			t.Errorf("%s: answered after %v", when, got.took)
		}
	}
	limited := func(when string) {
		t.Helper()
		testenv.Eventually(t, 20*time.Second, func() error {
			if got := s.get(t, "/", nil); got.code != 200 || got.header.Get("X-RateLimit-Limit") != "256" {
				return fmt.Errorf("%s: %+v", when, got)
			}
			return nil
		})
	}
	limited("at first")
	w.stop()
	passes("down")
	w.start(t)
	limited("up again")

	wake := make(chan struct{})
	w.answers(func(rw http.ResponseWriter, r *http.Request) {
		<-wake
		w.edge.ServeHTTP(rw, r)
	})
	passes("slow")
	w.answers(nil)
	close(wake)
	limited("fast again")

	details := strings.Repeat("policy ", 1700) // of more policies than anybody has
	w.answers(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Weir-Problem", details)
		w.WriteHeader(http.StatusForbidden)
	})
	testenv.Eventually(t, 20*time.Second, func() error {
		if got := s.get(t, "/", nil); got.code != 429 || got.body != strings.TrimSpace(details)+"\n" {
			return fmt.Errorf("denied at length: %d %s", got.code, got.body)
		}
		return nil
	})
	w.answers(nil)
	limited("right again")
}
