package main_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testenv"
)

// tokens is a file of tokens that `weir token` made.
type tokens struct {
	file string
	made map[string]string // by name
}

// mustMake makes a token and puts it into the file.
func (ts *tokens) mustMake(t *testing.T, name, tenant, role string) {
	t.Helper()
	out, err := weir(t, "token", "--name", name, "--tenant", tenant, "--role", role)
	token := regexp.MustCompile(`weir_[A-Z2-7]{26}`).FindString(out)
	line := regexp.MustCompile(`(?m)^\S+ \S+ \S+ sha256:[0-9a-f]{64}$`).FindString(out)
	if err != nil || token == "" || line == "" {
		t.Fatalf("weir token: %v\n%s", err, out)
	}
	f, err := os.OpenFile(ts.file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(line + "\n")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	ts.made[name] = token
}

// TestWhoMay tries to get into a system that wants tokens over TLS: what is not
// a token's to ask is refused, says why, and leaves no trace in what is stored.
func TestWhoMay(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ts := tokens{filepath.Join(dir, "tokens"), map[string]string{}}
	ts.mustMake(t, "shop", "acme", "gateway")
	ts.mustMake(t, "both", "acme,umbrella", "gateway")
	ts.mustMake(t, "edge", "*", "gateway")
	ts.mustMake(t, "ann", "acme", "analyst")
	ts.mustMake(t, "boss", "*", "analyst,metrics")
	ts.mustMake(t, "eve", "acme,evil", "analyst")
	ts.mustMake(t, "joe", "acme,umbrella", "analyst")
	ca := testenv.NewCA(t)
	cert, key := ca.Issue(t)
	s := up(t, filepath.Join(dir, "weir"), "--tokens", ts.file, "--tls-cert", cert, "--tls-key", key)
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: ca.Client(t), ForceAttemptHTTP2: true}}
	ask := func(method, url, body string, authorization ...string) (int, string, http.Header) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Header["Authorization"] = authorization
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(text), resp.Header
	}
	// What is right first, for there to be something to steal.
	evil := `{"tenant":"evil","user":"secret"}`
	for _, tt := range []struct {
		name, path, body, token string
		status                  int
		want                    string
	}{
		{"its tenant", "/v1/check", `{"tenant":"acme","user":"1"}`, "shop", 200, `"verdict":"allow"`},
		{"its only tenant, left out", "/v1/check", `{"user":"1"}`, "shop", 200, `"remaining":254`},
		{"every tenant", "/v1/check", evil, "edge", 200, `"verdict":"allow"`},
		{"reports", "/v1/reports", `{"user":"1"}`, "shop", 200, `"stored":1`},
		{"explain", "/v1/check?explain=1", `{"user":"1"}`, "shop", 200, `"rules"`},

		{"outcomes", "/v1/outcomes", `{"id":"1","status":200}`, "shop", 200, `"stored":1`},
		{"a proxy", "/v1/auth?user=1", "", "shop", 200, ""},

		{"no token", "/v1/check", evil, "", 401, "A token is needed"},
		{"no token, reports", "/v1/reports", evil, "", 401, "A token is needed"},
		{"a forged tenant", "/v1/check", evil, "shop", 403, `tenant: want acme, as token shop is for, found \"evil\""`},
		{"a forged tenant, twice", "/v1/check", `{"tenant":"acme","tenant":"evil"}`, "shop", 403, `found \"evil\""`},
		{"a forged tenant, other letters", "/v1/check", `{"tenant":"acme","Tenant":"evil"}`, "shop", 200, `"verdict":"allow"`},
		{"a forged tenant, explained", "/v1/check?explain=1", evil, "shop", 403, `"field":"tenant"`},
		{"a tenant in the URL", "/v1/check?tenant=evil", `{"user":"1"}`, "shop", 400, "in the URL"},
		{"which of two", "/v1/check", `{"user":"1"}`, "both", 403, `want acme or umbrella, as token both is for, found nothing`},
		{"the 57th line", "/v1/reports", strings.Repeat(`{"tenant":"acme"}`+"\n", 56) + evil + "\n", "shop", 403, `"line":57,"field":"tenant","found":"evil","expected":"acme, as token shop is for"`},
		{"the 2nd of an array", "/v1/reports", `[{"tenant":"acme"},` + evil + `]`, "shop", 403, `"index":1,"field":"tenant"`},
		{"an outcome of a forged tenant", "/v1/outcomes", `{"id":"1","tenant":"evil","status":200}`, "shop", 403, `"field":"tenant","found":"evil"`},
		{"a proxy of a forged tenant", "/v1/auth?tenant=evil", "", "shop", 400, `"field":"tenant","found":"evil"`},
		{"a proxy that an analyst has set up", "/v1/auth?tenant=acme", "", "ann", 400, "role: want gateway"},
		{"a proxy without a token", "/v1/auth?tenant=acme", "", "", 400, "A token is needed"},
		{"an analyst asks for a decision", "/v1/check", `{"tenant":"acme"}`, "ann", 403, `role: want gateway in what token ann may do, found \"analyst\"`},
		{"an analyst reports", "/v1/reports", `{"tenant":"acme"}`, "boss", 403, "role: want gateway"},
	} {
		var authorization []string
		if tt.token != "" {
			authorization = []string{"Bearer " + ts.made[tt.token]}
		}
		if status, text, _ := ask("POST", s.addresses.Check+tt.path, tt.body, authorization...); status != tt.status || !strings.Contains(text, tt.want) {
			t.Errorf("%s: %d %s\nwant %d %s", tt.name, status, text, tt.status, tt.want)
		}
	}
	// Not a token that is known, however it is shown.
	shop := "Bearer " + ts.made["shop"]
	for _, tt := range []struct {
		name, path    string
		authorization []string
		challenge     string // empty: let in
	}{
		{"unknown", "/v1/check", []string{"Bearer weir_" + strings.Repeat("A", 26)}, `Bearer realm="weir", error="invalid_token"`},
		{"in the URL", "/v1/check?access_token=" + ts.made["shop"], nil, `Bearer realm="weir"`},
		{"another scheme", "/v1/check", []string{"Basic " + ts.made["shop"]}, `Bearer realm="weir"`},
		{"two", "/v1/check", []string{shop, shop}, `Bearer realm="weir", error="invalid_request"`},
		{"a scheme in lower case, as HTTP has it", "/v1/check", []string{"bearer " + ts.made["shop"]}, ""},
	} {
		status, text, header := ask("POST", s.addresses.Check+tt.path, `{"user":"1"}`, tt.authorization...)
		if got := header.Get("WWW-Authenticate"); got != tt.challenge || (status == 401) != (tt.challenge != "") || status != 200 && status != 401 {
			t.Errorf("%s: %d %q %s", tt.name, status, got, text)
		}
	}
	plain := strings.Replace(s.addresses.Check, "https://", "http://", 1)
	if status, text, _ := ask("POST", plain+"/v1/check", `{"user":"1"}`, shop); status != 400 || !strings.Contains(text, "HTTP request to an HTTPS server") {
		t.Errorf("without TLS: %d %s", status, text)
	}
	if status, text, _ := ask("GET", s.addresses.Check+"/healthz", ""); status != 200 {
		t.Errorf("healthz without a token: %d %s", status, text)
	}
	for _, tt := range []struct {
		token  string
		status int
	}{{"shop", 403}, {"ann", 403}, {"boss", 200}} {
		if status, text, _ := ask("GET", s.addresses.Check+"/metrics", "", "Bearer "+ts.made[tt.token]); status != tt.status {
			t.Errorf("metrics by %s: %d %s", tt.token, status, text)
		}
	}

	// What is stored is what was let in: five checks of acme and a report, one
	// check of evil.
	query := func(token, body string) (int, string) {
		status, text, _ := ask("POST", s.addresses.Analytics+"/v1/query", body, "Bearer "+ts.made[token])
		return status, text
	}
	type rows struct {
		Rows []struct {
			Tenant string
			Count  int
		}
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		status, text := query("boss", `{"group_by":["tenant"],"order":["tenant"]}`)
		var got rows
		if err := json.Unmarshal([]byte(text), &got); err != nil || status != 200 {
			t.Fatal(status, text, err)
		}
		if s := fmt.Sprint(got.Rows); s != "[{acme 6} {evil 1}]" {
			return fmt.Errorf("stored are %s", s)
		}
		return nil
	})
	for _, tt := range []struct {
		name, token, body string
		status            int
		want, never       string
	}{
		{"hers", "ann", `{"tenant":"acme","group_by":["tenant"]}`, 200, `"tenant":"acme","count":6`, "evil"},
		{"hers, left out", "ann", `{"group_by":["tenant"]}`, 200, `"tenant":"acme","count":6`, "evil"},
		{"another's", "ann", `{"tenant":"evil","group_by":["user_id"]}`, 403, `tenant: want acme, as token ann is for, found \"evil\"`, "secret"},
		{"another's in a condition", "ann", `{"where":[{"col":"tenant","op":"=","value":"evil"}],"group_by":["user_id"]}`, 200, `"rows":[]`, "secret"},
		{"another's by what is not", "ann", `{"where":[{"col":"tenant","op":"!=","value":"acme"}],"group_by":["user_id"]}`, 200, `"rows":[]`, "secret"},
		{"those of both", "eve", `{"group_by":["tenant"]}`, 200, `[{"tenant":"acme","count":6},{"tenant":"evil","count":1}]`, "403"},
		{"those of both and no other's", "joe", `{"group_by":["tenant"]}`, 200, `[{"tenant":"acme","count":6}]`, "evil"},
		{"one of both", "joe", `{"tenant":"evil"}`, 403, `tenant: want acme or umbrella`, "count"},
		{"a plan", "boss", `{"explain":true}`, 200, `"explain":{"sql":`, "rows\":[{"},
		{"a plan of all", "ann", `{"explain":true}`, 403, `explain: want a token for all tenants`, "sql"},
		{"a gateway queries", "shop", `{}`, 403, "role: want analyst", "count"},
	} {
		if status, text := query(tt.token, tt.body); status != tt.status || !strings.Contains(text, tt.want) || strings.Contains(text, tt.never) {
			t.Errorf("%s: %d %s\nwant %d %s, never %s", tt.name, status, text, tt.status, tt.want, tt.never)
		}
	}
	if status, text, _ := ask("POST", s.addresses.Analytics+"/v1/query", "{}"); status != 401 {
		t.Errorf("a query without a token: %d %s", status, text)
	}

	// A token that is taken away is not known a second later.
	if err := os.WriteFile(ts.file, []byte("nobody gateway acme sha256:"+strings.Repeat("0", 64)), 0o600); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		if status, text, _ := ask("POST", s.addresses.Check+"/v1/check", `{"user":"1"}`, shop); status != 401 {
			return fmt.Errorf("still let in: %d %s", status, text)
		}
		return nil
	})
}
