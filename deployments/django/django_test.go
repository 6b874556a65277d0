// Package django_test drives a project whose API is throttled by
// weir_throttle.py, served by Django over WSGI and over ASGI, against a running
// Weir.
package django_test

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/limiter/limitertest"
	"github.com/weirhq/weir/internal/testenv"
)

var throttled = regexp.MustCompile(`^{"detail":"Request was throttled. Expected available in (\d+) seconds?."}$`)

func TestThrottle(t *testing.T) {
	t.Parallel()
	for _, server := range []string{"wsgi", "asgi"} {
		t.Run(server, func(t *testing.T) {
			t.Parallel()
			w := mustWeir(t)
			s := mustServe(t, server, shopConfig{weir: w.url(), proxies: "1"})
			t.Run("257 calls", s.calls)
			t.Run("trouble", func(t *testing.T) { s.trouble(t, w) })
			t.Run("exempt", s.exempt)
			t.Run("anonymous", s.anonymous)
			t.Run("hostile paths", s.hostile)
			t.Run("together", s.together)
			if n := w.connections.Load(); n > 32 {
				t.Errorf("%d connections for requests of which 8 at most were made at a time", n)
			}
			recorded(t, limitertest.Records(t, w.nc))
			t.Run("scopes", func(t *testing.T) { s.scopes(t, w) })
		})
	}
}

// calls are as many as fit a minute, and one more.
func (s *shop) calls(t *testing.T) {
	for i := range 256 {
		a := s.ask(t, "GET", "/orders/", caller{user: "42"})
		if a.code != http.StatusOK || a.header.Get("X-RateLimit-Remaining") != strconv.Itoa(255-i) {
			t.Fatalf("call %d: %d %v %s", i+1, a.code, a.header, a.body)
		}
	}
	a := s.ask(t, "GET", "/orders/", caller{user: "42"})
	said := throttled.FindStringSubmatch(a.body)
	if a.code != http.StatusTooManyRequests || said == nil {
		t.Fatalf("call 257: %d %s", a.code, a.body)
	}
	if seconds, err := strconv.Atoi(said[1]); err != nil || seconds < 1 || seconds > 60 {
		t.Errorf("call 257: %s", a.body)
	}
	for name, want := range map[string]string{
		"Retry-After":           said[1],
		"X-RateLimit-Limit":     "256",
		"X-RateLimit-Remaining": "0",
		"RateLimit-Policy":      `"per-minute";q=256;w=60`,
		"RateLimit":             `"per-minute";r=0;t=` + a.header.Get("X-RateLimit-Reset"),
	} {
		if got := a.header[http.CanonicalHeaderKey(name)]; !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if a := s.ask(t, "GET", "/orders/", caller{user: "43"}); a.code != http.StatusOK || a.header.Get("X-RateLimit-Remaining") != "255" {
		t.Errorf("another user: %d %v", a.code, a.header)
	}
}

// trouble that ends is forgotten at once: connections that Weir has closed, and
// answers that are no decisions.
func (s *shop) trouble(t *testing.T, w *weir) {
	w.stop(t)
	w.start(t)
	if a := s.ask(t, "GET", "/orders/", caller{user: "42"}); a.code != http.StatusTooManyRequests {
		t.Errorf("after a restart: %d %s", a.code, a.body)
	}
	w.answer.Store(http.StatusUnauthorized)
	for range 20 {
		if a := s.ask(t, "GET", "/orders/", caller{user: "42"}); a.code != http.StatusOK {
			t.Errorf("without a decision: %d %s", a.code, a.body)
		}
	}
	w.answer.Store(0)
	if a := s.ask(t, "GET", "/orders/", caller{user: "42"}); a.code != http.StatusTooManyRequests {
		t.Errorf("with decisions again: %d %s", a.code, a.body)
	}
}

// exempt requests pass for who has nothing left: a POST by the policy, which
// records it, and a DELETE by the settings, of which Weir hears nothing.
func (s *shop) exempt(t *testing.T) {
	for _, method := range []string{"POST", "DELETE"} {
		if a := s.ask(t, method, "/orders/7/", caller{user: "42"}); a.code != http.StatusOK || a.header.Get("X-RateLimit-Limit") != "" {
			t.Errorf("%s: %d %v", method, a.code, a.header)
		}
	}
}

// anonymous callers count by the address that the one proxy has been called
// from, whatever they say themselves.
func (s *shop) anonymous(t *testing.T) {
	for _, tt := range []struct{ forwarded, remaining string }{
		{"192.0.2.1", "255"},
		{"198.51.100.1, 192.0.2.1", "254"},
		{"198.51.100.2,198.51.100.3,192.0.2.1:4711", "253"},
		{"::ffff:192.0.2.1", "252"},
		{"192.0.2.2", "255"},
		{"192.0.2.1, [2001:db8::1]:80", "255"},
		{"192.0.2.1, 2001:DB8::1", "254"},
		{"192.0.2.1, unknown", "255"}, // then it is whoever has made the connection
		{"", "254"},
	} {
		a := s.ask(t, "GET", "/orders/", caller{forwarded: tt.forwarded})
		if got := a.header.Get("X-RateLimit-Remaining"); a.code != http.StatusOK || got != tt.remaining {
			t.Errorf("X-Forwarded-For %q: %d, %q remaining, want %s", tt.forwarded, a.code, got, tt.remaining)
		}
	}
}

// hostile paths are ones that an event cannot have: to be refused by Weir must
// not be a way around it.
func (s *shop) hostile(t *testing.T) {
	long := "/lines/" + strings.Repeat("x", 8184) + "%C3%A9/" // of its last letter half fits
	for _, path := range []string{"/lines/a%00b/", "/lines/%ff%ed%a0%80/", long} {
		if a := s.ask(t, "GET", path, caller{user: "45"}); a.code != http.StatusOK || a.header.Get("X-RateLimit-Limit") != "256" {
			t.Errorf("%.20s: %d %v", path, a.code, a.header)
		}
	}
}

// together makes requests at a time: threads must not get each other's decisions.
func (s *shop) together(t *testing.T) {
	for user := range 8 {
		t.Run(strconv.Itoa(user), func(t *testing.T) {
			t.Parallel()
			for i := range 16 {
				a := s.ask(t, "GET", "/orders/", caller{user: strconv.Itoa(60 + user)})
				if got, want := a.header.Get("X-RateLimit-Remaining"), strconv.Itoa(255-i); got != want {
					t.Fatalf("%q remaining, want %s", got, want)
				}
			}
		})
	}
}

// recorded holds what Weir was told against what was asked above.
func recorded(t *testing.T, records []events.Record) {
	t.Helper()
	methods := map[string]int{}
	for i := range records {
		r := &records[i].Request
		if records[i].Decision.Verdict == events.Deny {
			continue // an edge that remembers denials folds them
		}
		methods[r.Method]++
		switch {
		case r.Tenant != "shop" || len(r.ID) != 32 || !r.IP.IsValid() || r.Host != "127.0.0.1":
			t.Fatalf("recorded: %+v", *r)
		case r.Method == "POST":
			if r.Path != "/orders/7/" || r.Route != "/orders/{pk}/" || r.User != "42" || records[i].Decision.Reason != events.ReasonExempt {
				t.Errorf("recorded: %+v", records[i])
			}
		case strings.HasPrefix(r.Path, "/lines/") && r.Route != "/lines/{pk}/":
			t.Errorf("recorded: %+v", *r)
		}
	}
	if fmt.Sprint(methods) != "map[GET:397 POST:1]" {
		t.Errorf("recorded: %v", methods)
	}
}

// scopes have the rates that the settings give them, once those are the policy.
func (s *shop) scopes(t *testing.T, w *weir) {
	w.apply(t, s.policy(t))
	for _, c := range []caller{{forwarded: "192.0.2.3"}, {user: "46"}} {
		for i := range 3 {
			if a := s.ask(t, "GET", "/uploads/", c); a.code != http.StatusOK || a.header.Get("RateLimit-Policy") != `"uploads";q=3;w=60` {
				t.Fatalf("upload %d of %+v: %d %v", i+1, c, a.code, a.header)
			}
		}
		if a := s.ask(t, "GET", "/uploads/", c); a.code != http.StatusTooManyRequests || !throttled.MatchString(a.body) {
			t.Errorf("upload 4 of %+v: %d %s", c, a.code, a.body)
		}
	}
	before := len(limitertest.Records(t, w.nc))
	if a := s.ask(t, "GET", "/bulk/", caller{user: "46"}); a.code != http.StatusOK {
		t.Errorf("without a scope: %d %s", a.code, a.body)
	}
	records := limitertest.Records(t, w.nc)
	if len(records) != before {
		t.Error("a view without a scope was asked about")
	}
	records = slices.DeleteFunc(records, func(r events.Record) bool { return r.Request.Path != "/uploads/" })
	if len(records) != 8 || records[0].Request.Attrs != `{"scopes": ["anon", "uploads"]}` || records[7].Request.Attrs != `{"scopes": ["uploads"]}` {
		t.Errorf("%d uploads recorded: %+v", len(records), records)
	}
}

// Whatever becomes of Weir, requests pass in time; and they are throttled as
// soon as it is there again.
func TestOutage(t *testing.T) {
	t.Parallel()
	const timeout, slack = 250 * time.Millisecond, 20 * time.Second // slack is for a busy machine
	w := mustWeir(t)
	s := mustServe(t, "wsgi", shopConfig{weir: w.url(), timeout: timeout})
	w.use(t, 256, "42")
	spoofed := caller{user: "42", forwarded: "198.51.100.1"}
	throttles := func() error {
		if a := s.ask(t, "GET", "/orders/", spoofed); a.code != http.StatusTooManyRequests {
			return fmt.Errorf("%d %s", a.code, a.body)
		}
		return nil
	}
	pass := func(n int) {
		t.Helper()
		for range n {
			start := time.Now()
			a := s.ask(t, "GET", "/orders/", spoofed)
			if took := time.Since(start); a.code != http.StatusOK || took > timeout+slack {
				t.Fatalf("%d after %v: %s", a.code, took, a.body)
			}
		}
	}
	testenv.Eventually(t, 10*time.Second, throttles)

	w.stop(t)
	pass(20)
	w.start(t)
	testenv.Eventually(t, 10*time.Second, throttles)

	w.hang.Store(true)
	asked, start := w.asked.Load(), time.Now()
	pass(20)
	// Five in a row, and then one a second.
	if n, most := w.asked.Load()-asked, 6+int64(time.Since(start)/time.Second); n < 5 || n > most {
		t.Errorf("asked %d times while it was slow, want 5 to %d", n, most)
	}
	w.hang.Store(false)
	testenv.Eventually(t, 10*time.Second, throttles)

	if n := strings.Count(s.Output(), "requests let pass without a decision"); n != 1 {
		t.Errorf("%d lines in the log within a minute", n)
	}
	denied := limitertest.Records(t, w.nc)[256]
	if denied.Request.IP.String() != "127.0.0.1" {
		t.Errorf("without NUM_PROXIES a client was believed to be %v", denied.Request.IP)
	}
}

// A connection that is not made is given up in time.
func TestNoWayToWeir(t *testing.T) {
	t.Parallel()
	out, err := run(t, shopConfig{weir: "http://127.0.0.1:1"}, `
import socket, time, weir_throttle
server = socket.create_server(("127.0.0.1", 0), backlog=0)
waiting = [socket.socket() for _ in range(4)]  # more than it has room for
for s in waiting:
    s.setblocking(False)
    s.connect_ex(server.getsockname())
client = weir_throttle.Client(weir_throttle.Config(url="http://127.0.0.1:%d" % server.getsockname()[1]))
start = time.monotonic()
decision = client.decide({})
print(decision, time.monotonic() - start < 2)`)
	if err != nil || !strings.HasSuffix(out, "None True\n") {
		t.Errorf("%v %s", err, out)
	}
}

// A process that is forked must not use the connections of the one before it.
func TestFork(t *testing.T) {
	t.Parallel()
	w := mustWeir(t)
	out, err := run(t, shopConfig{weir: w.url()}, `
import os, weir_throttle
idle = lambda: len(weir_throttle._weir._idle)
weir_throttle._weir.decide({"tenant": "shop", "user": "1"})
before = idle()
child = os.fork() or os._exit(idle())
print(before, os.waitpid(child, 0)[1], idle())`)
	if err != nil || out != "1 0 1\n" {
		t.Errorf("%v %s", err, out)
	}
}

func TestSettingsThatAreWrong(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]string{
		`"URI": "http://127.0.0.1"`: "WEIR: want URL, TENANT, TOKEN, TIMEOUT, EXEMPT_METHODS, found ['URI']",
		`"URL": "127.0.0.1:8080"`:   "WEIR: URL: want http://host:port, found '127.0.0.1:8080'",
		`"TENANT": "a shop"`:        "WEIR: TENANT: want 1 to 64 of A-Z a-z 0-9 _ -, found 'a shop'",
		`"TOKEN": "secret\n"`:       "WEIR: TOKEN: want printable ASCII without spaces or line breaks",
		`"TIMEOUT": 0`:              "WEIR: TIMEOUT: want seconds, found 0",
	} {
		out, err := run(t, shopConfig{}, "from django.conf import settings; settings.WEIR = {"+setting+"}; import shop.urls")
		if err == nil || !strings.Contains(out, want) {
			t.Errorf("%s: %v %s", setting, err, out)
		}
	}
}
