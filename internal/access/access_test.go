package access_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/weirhq/weir/internal/access"
	"github.com/weirhq/weir/internal/testenv"
)

// mustToken makes a token, and its line.
func mustToken(tb testing.TB, g access.Grant) (token, line string) {
	tb.Helper()
	token, line, err := access.NewToken(g)
	if err != nil {
		tb.Fatal(err)
	}
	return token, line + "\n"
}

// mustWrite writes a file of the test's and returns its path.
func mustWrite(tb testing.TB, path, text string) string {
	tb.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

func mustOpen(tb testing.TB, config access.Config) *access.Guard {
	tb.Helper()
	guard, err := access.Open(config)
	if err != nil {
		tb.Fatal(err)
	}
	return guard
}

func TestAdmit(t *testing.T) {
	shop, one := mustToken(t, access.Grant{Name: "shop", Roles: []access.Role{access.Gateway}, Tenants: []string{"acme"}})
	ops, two := mustToken(t, access.Grant{Name: "ops", Roles: []access.Role{access.Gateway, access.Metrics}})
	unknown, _ := mustToken(t, access.Grant{Name: "gone", Roles: []access.Role{access.Gateway}})
	const weak = "weir_letmein"
	three := fmt.Sprintf("weak gateway * sha256:%x\n", sha256.Sum256([]byte(weak)))
	guard := mustOpen(t, access.Config{Tokens: mustWrite(t, filepath.Join(t.TempDir(), "tokens"), "# Who may\n\n"+one+"  "+two+three)})
	const none, invalid = `Bearer realm="weir"`, `Bearer realm="weir", error="invalid_token"`
	for _, tt := range []struct {
		name      string
		shown     []string
		role      access.Role
		grant     string // its name; empty: refused
		challenge string // empty: known, and denied
	}{
		{"its role", []string{"Bearer " + shop}, access.Gateway, "shop", ""},
		{"any case of the scheme", []string{"bEARER " + shop}, access.Gateway, "shop", ""},
		{"more space than one", []string{"Bearer   " + shop}, access.Gateway, "shop", ""},
		{"one of two roles", []string{"Bearer " + ops}, access.Metrics, "ops", ""},
		{"another role", []string{"Bearer " + shop}, access.Analyst, "", ""},
		{"metrics", []string{"Bearer " + shop}, access.Metrics, "", ""},
		{"nothing", nil, access.Gateway, "", none},
		{"empty", []string{""}, access.Gateway, "", none},
		{"the token alone", []string{shop}, access.Gateway, "", none},
		{"another scheme", []string{"Basic " + shop}, access.Gateway, "", none},
		{"no token", []string{"Bearer"}, access.Gateway, "", invalid},
		{"unknown", []string{"Bearer " + unknown}, access.Gateway, "", invalid},
		{"another letter", []string{"Bearer " + shop[:len(shop)-1] + "1"}, access.Gateway, "", invalid},
		{"a part", []string{"Bearer " + shop[:len(shop)-1]}, access.Gateway, "", invalid},
		{"lower case", []string{"Bearer " + strings.ToLower(shop)}, access.Gateway, "", invalid},
		{"its hash", []string{"Bearer " + strings.Fields(one)[3]}, access.Gateway, "", invalid},
		{"one that somebody thought of", []string{"Bearer " + weak}, access.Gateway, "", invalid},
		{"two in one", []string{"Bearer " + unknown + " " + shop}, access.Gateway, "", invalid},
		{"a list", []string{"Bearer " + shop + ", Bearer " + shop}, access.Gateway, "", invalid},
		{"twice", []string{"Bearer " + shop, "Bearer " + shop}, access.Gateway, "", `Bearer realm="weir", error="invalid_request"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			grant, err := guard.Admit(tt.shown, tt.role)
			if err == nil && grant.Name != tt.grant || err != nil && tt.grant != "" {
				t.Fatalf("let in: %v, %v, want %q", grant, err, tt.grant)
			}
			unknown, is := errors.AsType[*access.UnauthorizedError](err)
			if is != (tt.challenge != "") || is && unknown.Challenge() != tt.challenge {
				t.Errorf("%v, want %s", err, tt.challenge)
			}
			if denied, is := errors.AsType[*access.DeniedError](err); is != (tt.grant == "" && tt.challenge == "") || is && denied.Err.Field != "role" {
				t.Errorf("%v, want it denied for its role", err)
			}
			if err != nil && strings.Contains(err.Error(), shop) {
				t.Errorf("the token is told: %v", err)
			}
		})
	}
}

func TestTenant(t *testing.T) {
	for _, tt := range []struct {
		tenants []string
		asked   string
		want    string // empty with denied
		denied  bool
	}{
		{nil, "acme", "acme", false},
		{nil, "", "", false},
		{[]string{"acme"}, "acme", "acme", false},
		{[]string{"acme"}, "", "acme", false},
		{[]string{"acme"}, "evil", "", true},
		{[]string{"acme"}, "ACME", "", true},
		{[]string{"acme"}, "acme.x", "", true},
		{[]string{"acme", "umbrella"}, "umbrella", "umbrella", false},
		{[]string{"acme", "umbrella"}, "", "", true},
		{[]string{"acme", "umbrella"}, "evil", "", true},
	} {
		g := &access.Grant{Name: "shop", Tenants: tt.tenants}
		got, err := g.Tenant(tt.asked)
		denied, is := errors.AsType[*access.DeniedError](err)
		if got != tt.want || is != tt.denied || err != nil && !is {
			t.Errorf("%v, asked %q: %q, %v", tt.tenants, tt.asked, got, err)
		}
		if is && (denied.Err.Field != "tenant" || denied.Err.Value != tt.asked || denied.Err.Want != strings.Join(tt.tenants, " or ")+", as token shop is for") {
			t.Errorf("%v, asked %q: told %v", tt.tenants, tt.asked, err)
		}
	}
	if got, err := access.Of(t.Context()).Tenant("any"); got != "any" || err != nil {
		t.Errorf("where nobody needs a token: %q, %v", got, err)
	}
}

func TestNewTokenRefuses(t *testing.T) {
	_, _, err := access.NewToken(access.Grant{Name: "a b", Roles: []access.Role{"boss", access.Metrics}, Tenants: []string{"x.y"}})
	for _, want := range []string{`name: want 1 to 64 characters of A-Z a-z 0-9 _ -, found "a b"`, `role: want one or more of gateway,analyst,metrics, found "boss"`,
		`tenant: want 1 to 64`, `tenant: want * for role metrics`} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

func TestFaultsAreNamed(t *testing.T) {
	dir := t.TempDir()
	token, line := mustToken(t, access.Grant{Name: "shop", Roles: []access.Role{access.Gateway}, Tenants: []string{"acme"}})
	file := func(name, text string) string { return mustWrite(t, filepath.Join(dir, name), text) }
	ca := testenv.NewCA(t)
	cert, key := ca.Issue(t)
	otherCert, _ := ca.Issue(t)
	for _, tt := range []struct {
		name   string
		config access.Config
		want   []string
	}{
		{"no such file", access.Config{Tokens: filepath.Join(dir, "nowhere")}, []string{"--tokens: open ", "nowhere: no such file"}},
		{"no tokens", access.Config{Tokens: file("empty", "# none\n")}, []string{"--tokens: ", "empty: want a line for at least one token"}},
		{"every line", access.Config{Tokens: file("wrong", line+"shop gateway\nshop boss acme sha256:00\nx y z "+token+"\n"+line)}, []string{
			"wrong: line 2: want a name, roles, tenants and a hash",
			`line 3: role: want one or more of gateway,analyst,metrics, found "boss"` + "\nhash: want sha256: and 64 hex digits",
			`line 4: role:`, `line 5: name: want another than that of line 1, found "shop"`}},
		{"one token, two names", access.Config{Tokens: file("twice", line+strings.Replace(line, "shop", "shop2", 1))}, []string{"line 2: hash: want another than that of token shop"}},
		{"a certificate alone", access.Config{TLSCert: cert}, []string{"--tls-cert, --tls-key: want both or neither"}},
		{"CAs alone", access.Config{ClientCA: ca.File}, []string{"--tls-client-ca: want --tls-cert and --tls-key too"}},
		{"no such key", access.Config{TLSCert: cert, TLSKey: filepath.Join(dir, "nokey")}, []string{"--tls-key: open ", "nokey: no such file"}},
		{"another's key", access.Config{TLSCert: otherCert, TLSKey: key}, []string{"--tls-cert, --tls-key: " + otherCert + " and " + key + ": ", "does not match"}},
		{"no CA", access.Config{TLSCert: cert, TLSKey: key, ClientCA: file("noca", "hello")}, []string{"--tls-client-ca: ", "noca: want a certificate as PEM"}},
		{"two at once", access.Config{Tokens: filepath.Join(dir, "nowhere"), TLSCert: cert}, []string{"--tokens: ", "--tls-key"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := access.Open(tt.config)
			if err == nil {
				t.Fatal("opened")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
			if strings.Contains(err.Error(), token) {
				t.Errorf("the token is told: %v", err)
			}
		})
	}
}

func TestReach(t *testing.T) {
	dir := t.TempDir()
	_, line := mustToken(t, access.Grant{Name: "shop", Roles: []access.Role{access.Gateway}})
	tokens := mustWrite(t, filepath.Join(dir, "tokens"), line)
	ca := testenv.NewCA(t)
	cert, key := ca.Issue(t)
	for _, tt := range []struct {
		name   string
		config access.Config
		want   string // of the error for other machines; empty: none
	}{
		{"nothing", access.Config{}, "whoever reaches it can act for every tenant"},
		{"insecure", access.Config{Insecure: true}, ""},
		{"tokens in clear", access.Config{Tokens: tokens}, "whoever is on the way can read the tokens"},
		{"tokens in clear, and meant", access.Config{Tokens: tokens, Insecure: true}, ""},
		{"TLS alone", access.Config{TLSCert: cert, TLSKey: key}, "whoever reaches it can act for every tenant"},
		{"tokens and TLS", access.Config{Tokens: tokens, TLSCert: cert, TLSKey: key}, ""},
		{"client certificates", access.Config{TLSCert: cert, TLSKey: key, ClientCA: ca.File}, ""},
	} {
		guard := mustOpen(t, tt.config)
		if err := guard.Reach(true); err != nil {
			t.Errorf("%s: on loopback: %v", tt.name, err)
		}
		err := guard.Reach(false)
		if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "--insecure")) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
}

// TestFollow changes the file of tokens: what is right holds within a second,
// what is wrong changes nothing and is told of once.
func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	first, one := mustToken(t, access.Grant{Name: "one", Roles: []access.Role{access.Gateway}})
	second, two := mustToken(t, access.Grant{Name: "two", Roles: []access.Role{access.Gateway}})
	core, logs := observer.New(zap.InfoLevel)
	synctest.Test(t, func(t *testing.T) {
		guard := mustOpen(t, access.Config{Tokens: mustWrite(t, path, one)})
		knows := func(token string) bool {
			_, err := guard.Admit([]string{"Bearer " + token}, access.Gateway)
			return err == nil
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- guard.Follow(ctx, zap.New(core)) }()
		for _, step := range []struct {
			name          string
			change        func()
			first, second bool
			told          string
		}{
			{"as it was", func() {}, true, false, ""},
			{"another is added", func() { mustWrite(t, path, one+two) }, true, true, "changed files hold"},
			{"one is taken away, at the same size and time", func() {
				info, err := os.Stat(path)
				if err != nil {
					t.Fatal(err)
				}
				mustWrite(t, path, two+"#"+one[1:])
				if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
					t.Fatal(err)
				}
			}, false, true, "changed files hold"},
			{"a wrong line", func() { mustWrite(t, path, one+"oops\n") }, false, true, "line 2: want a name"},
			{"gone", func() { _ = os.Remove(path) }, false, true, "no such file"},
			{"empty", func() { mustWrite(t, path, "") }, false, true, "at least one token"},
			{"right again", func() { mustWrite(t, path, one) }, true, false, "changed files hold"},
		} {
			logs.TakeAll()
			step.change()
			time.Sleep(3 * time.Second)
			synctest.Wait()
			if knows(first) != step.first || knows(second) != step.second {
				t.Errorf("%s: knows the first %v, the second %v", step.name, knows(first), knows(second))
			}
			var told []string
			for _, entry := range logs.All() {
				text := entry.Message
				if err, ok := entry.ContextMap()["error"].(string); ok {
					text = err
				}
				told = append(told, text)
			}
			if step.told == "" && len(told) > 0 || step.told != "" && (len(told) != 1 || !strings.Contains(told[0], step.told)) {
				t.Errorf("%s: told %q, want %q once", step.name, told, step.told)
			}
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
