package ingest_test

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
)

// contract is the document that is served.
var contract = sync.OnceValues(func() (*openapi3.T, error) { return openapi3.NewLoader().LoadFromFile("openapi.yaml") })

func mustContract(tb testing.TB) *openapi3.T {
	tb.Helper()
	doc, err := contract()
	if err != nil {
		tb.Fatal(err)
	}
	return doc
}

// input is a request as the contract sees it; nil if it has none of the kind.
func input(doc *openapi3.T, r *http.Request) *openapi3filter.RequestValidationInput {
	item, method := doc.Paths.Value(r.URL.Path), r.Method
	if r.URL.Path == "/v1/auth" {
		method = http.MethodGet // stands for all
	}
	if item == nil || item.GetOperation(method) == nil {
		return nil
	}
	return &openapi3filter.RequestValidationInput{
		Request: r,
		Route:   &routers.Route{Spec: doc, Path: r.URL.Path, PathItem: item, Method: method, Operation: item.GetOperation(method)},
		Options: &openapi3filter.Options{IncludeResponseStatus: true, MultiError: true, AuthenticationFunc: openapi3filter.NoopAuthenticationFunc},
	}
}

// keepsContract holds an answer to the contract: its status, its headers and its
// body are as promised, and nothing is in them that is not.
func keepsContract(tb testing.TB, resp *http.Response, body string) {
	tb.Helper()
	in := input(mustContract(tb), resp.Request)
	if in == nil {
		if resp.StatusCode != 404 && resp.StatusCode != 405 {
			tb.Errorf("%s %s has no contract and answers %d", resp.Request.Method, resp.Request.URL.Path, resp.StatusCode)
		}
		return
	}
	if err := openapi3filter.ValidateResponse(tb.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: in, Status: resp.StatusCode, Header: resp.Header, Options: in.Options,
		Body: io.NopCloser(strings.NewReader(body)),
	}); err != nil {
		tb.Errorf("%s %s: %d %s: %v", resp.Request.Method, resp.Request.URL, resp.StatusCode, body, err)
		return
	}
	promised := in.Route.Operation.Responses.Status(resp.StatusCode).Value
	known := map[string]bool{"Content-Type": true, "Content-Length": true, "Date": true, "Connection": true, "Vary": true}
	for name := range promised.Headers {
		known[http.CanonicalHeaderKey(name)] = true
	}
	for name := range resp.Header {
		if !known[name] {
			tb.Errorf("%s %s: %d: nothing promises the header %s", resp.Request.Method, resp.Request.URL, resp.StatusCode, name)
		}
	}
	var members map[string]any
	if strings.HasSuffix(resp.Header.Get("Content-Type"), "json") && json.Unmarshal([]byte(body), &members) == nil {
		clear(known)
		for _, media := range promised.Content {
			properties(media.Schema, known)
		}
		for name := range members {
			if !known[name] {
				tb.Errorf("%s %s: %d: nothing promises the member %s", resp.Request.Method, resp.Request.URL, resp.StatusCode, name)
			}
		}
	}
}

// properties collects the names of an object's members.
func properties(ref *openapi3.SchemaRef, into map[string]bool) {
	for name := range ref.Value.Properties {
		into[name] = true
	}
	for _, part := range slices.Concat(ref.Value.AllOf, ref.Value.AnyOf) {
		properties(part, into)
	}
}

func TestContract(t *testing.T) {
	doc := mustContract(t)
	if err := doc.Validate(t.Context()); err != nil {
		t.Error(err)
	}
	e := mustServe(t, usual, deciding(allowed), true)
	want, err := os.ReadFile("openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if a := e.ask(t, "GET", "/openapi.yaml", ""); a.body != string(want) || a.header.Get("Content-Type") != "application/yaml" {
		t.Errorf("served as %v:\n%s", a.header, a.body)
	}
	// What is served is in the document, and the other way round.
	var documented []string
	for path, item := range doc.Paths.Map() {
		for method, operation := range item.Operations() {
			documented = append(documented, method+" "+path)
			if a := e.ask(t, method, path, ""); a.code == 404 || a.code == 405 {
				t.Errorf("%s %s is documented and not served", method, path)
			}
			if operation.Responses.Status(200) == nil || operation.Summary == "" {
				t.Errorf("%s %s has no summary or never succeeds", method, path)
			}
		}
	}
	list, _, _ := strings.Cut(strings.Replace(e.ask(t, "GET", "/", "").body, " and ", ", ", 1), `."}`)
	_, list, _ = strings.Cut(list, "There are ")
	served := strings.Split(strings.Replace(list, "/v1/auth", "GET /v1/auth", 1), ", ")
	slices.Sort(served)
	slices.Sort(documented)
	if !slices.Equal(served, documented) {
		t.Errorf("served %v\ndocumented %v", served, documented)
	}
}

// Its examples are good requests, and what is wrong for it is wrong for us.
func TestContractOfRequests(t *testing.T) {
	doc := mustContract(t)
	e := mustServe(t, usual, deciding(allowed), true)
	send := func(method, path, body string) (code int, err error) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, e.URL+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if body != "" {
			r.Header.Set("Content-Type", "application/json")
		}
		err = openapi3filter.ValidateRequest(t.Context(), input(doc, r))
		r.Body = io.NopCloser(strings.NewReader(body))
		resp, failed := e.Client().Do(r)
		return read(t, resp, failed).code, err
	}
	for _, path := range slices.Sorted(maps.Keys(doc.Paths.Map())) {
		post := doc.Paths.Value(path).Post
		if post == nil {
			continue
		}
		var body bytes.Buffer
		if err := json.NewEncoder(&body).Encode(post.RequestBody.Value.Content["application/json"].Example); err != nil {
			t.Fatal(err)
		}
		if code, err := send("POST", path, body.String()); err != nil || code != 200 {
			t.Errorf("%s: %s: %v, %d", path, &body, err, code)
		}
	}
	for _, tt := range []struct{ method, path, body string }{
		{"POST", "/v1/check", ""},
		{"POST", "/v1/check", "[]"},
		{"POST", "/v1/check", `{"user":"42"}`},
		{"POST", "/v1/check", `{"tenant":"a.b"}`},
		{"POST", "/v1/check", `{"tenant":"acme","cost":-1}`},
		{"POST", "/v1/check", `{"tenant":"acme","cost":4294967297}`},
		{"POST", "/v1/check", `{"tenant":"acme","attrs":[]}`},
		{"POST", "/v1/check", `{"tenant":"acme","id":"` + strings.Repeat("x", 129) + `"}`},
		{"POST", "/v1/check?explain=perhaps", `{"tenant":"acme"}`},
		{"POST", "/v1/reports", `[{"tenant":"acme"},{}]`},
		{"POST", "/v1/reports", `{"tenant":"acme","verdict":"maybe"}`},
		{"POST", "/v1/reports", `{"tenant":"acme","count":0}`},
		{"POST", "/v1/reports", `{"tenant":"acme","status":1000}`},
		{"POST", "/v1/outcomes", `{"tenant":"acme"}`},
		{"POST", "/v1/outcomes", `{"tenant":"acme","id":""}`},
		{"POST", "/v1/outcomes", `{"tenant":"acme","id":"a","latency_us":-1}`},
		{"GET", "/v1/auth?tenant=a.b", ""},
		{"GET", "/v1/auth?tenant=acme&cost=-1", ""},
		{"GET", "/v1/auth?tenant=acme&proxy=apache", ""},
	} {
		if code, err := send(tt.method, tt.path, tt.body); err == nil || code != 400 {
			t.Errorf("%s %s %s: %v, %d; want both to refuse it", tt.method, tt.path, tt.body, err, code)
		}
	}
}
