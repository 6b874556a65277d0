package nginx_test

import (
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/answer"
	"github.com/weirhq/weir/internal/ingest"
	"github.com/weirhq/weir/internal/limiter/limitertest"
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

// config is what README says to include, in an nginx that is one process: if the test
// is killed there is none that it leaves behind. It wants a line for the user, the
// directory, the address and the application's URL.
const config = `
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
`

// mustNginx starts nginx with the files of this directory, with some words of them
// replaced.
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
	addr := testenv.FreeAddr(t)
	s := &server{dir: t.TempDir(), url: "http://" + addr}
	s.mustConfigure(t, append(words, "127.0.0.1:8080", weir, "/var/log/nginx/", s.dir+"/"))
	user := ""
	if os.Getuid() == 0 {
		user = "user root;"
	}
	path := filepath.Join(s.dir, "nginx.conf")
	if err := os.WriteFile(path, fmt.Appendf(nil, config, user, s.dir, addr, upstream.URL), 0o600); err != nil {
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

// mustConfigure copies the files of this directory, with some words replaced.
func (s *server) mustConfigure(t *testing.T, words []string) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(s.dir, "weir"), 0o700); err != nil {
		t.Fatal(err)
	}
	ours := strings.NewReplacer(words...)
	err := fs.WalkDir(os.DirFS("."), "weir", func(path string, entry fs.DirEntry, err error) error {
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
