// Package nginx_test drives a real nginx with the configuration in this directory.
package nginx_test

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/problem"
	"github.com/weirhq/weir/internal/testenv"
)

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
	wantDenial(t, denied)
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
	if auth := s.get(t, "/_weir/auth", nil); auth.code != 404 || auth.header.Get("X-RateLimit-Limit") != "" {
		t.Errorf("Weir is asked from outside: %+v", auth)
	}
	if text := s.Output(); strings.Contains(text, "[error]") && !strings.Contains(text, "access forbidden") {
		t.Errorf("nginx logs errors:\n%s", text)
	}
}

// wantDenial holds a reply to what a client is told whose limit is exhausted.
func wantDenial(t *testing.T, denied reply) {
	t.Helper()
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
