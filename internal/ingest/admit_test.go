package ingest_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/weirhq/weir/internal/access"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/ingest"
	"github.com/weirhq/weir/internal/serve"
	"github.com/weirhq/weir/internal/testenv"
)

// mustTokens makes a file of tokens, and what to show of each by its name.
func mustTokens(t *testing.T) (file string, shown map[string]string) {
	t.Helper()
	file, shown = filepath.Join(t.TempDir(), "tokens"), map[string]string{}
	var lines strings.Builder
	for _, g := range []access.Grant{
		{Name: "shop", Roles: []access.Role{access.Gateway}, Tenants: []string{"acme"}},
		{Name: "edge", Roles: []access.Role{access.Gateway}},
		{Name: "ann", Roles: []access.Role{access.Analyst}, Tenants: []string{"acme"}},
	} {
		token, line, err := access.NewToken(g)
		if err != nil {
			t.Fatal(err)
		}
		shown[g.Name] = "Bearer " + token
		lines.WriteString(line + "\n")
	}
	if err := os.WriteFile(file, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, shown
}

// TestHTTPWhoMay asks every endpoint without a token, with one for another role
// and with one of another tenant. The answers are as the contract says.
func TestHTTPWhoMay(t *testing.T) {
	tokens, made := mustTokens(t)
	guard, err := access.Open(access.Config{Tokens: tokens})
	if err != nil {
		t.Fatal(err)
	}
	client := deciding(allowed)
	client.outcome = func(context.Context, ...events.Outcome) error { return nil }
	edge := ingest.New(usual, client, always, prometheus.NewRegistry(), zap.NewNop())
	server := httptest.NewServer(serve.Admit(guard, access.Gateway, edge.Handler()))
	defer server.Close()
	const evil = `{"tenant":"evil","id":"1"}`
	for _, tt := range []struct {
		method, path, body           string
		none, analyst, forged, right int // status
	}{
		{"POST", "/v1/check", evil, 401, 403, 403, 200},
		{"POST", "/v1/check?explain=1", evil, 401, 403, 403, 0},
		{"POST", "/v1/reports", strings.Repeat(`{"tenant":"acme"}`+"\n", 56) + evil, 401, 403, 403, 200},
		{"POST", "/v1/outcomes", evil, 401, 403, 403, 200},
		{"GET", "/v1/auth?tenant=evil", "", 400, 400, 400, 200},
		{"GET", "/v1/auth?tenant=evil&proxy=nginx", "", 400, 400, 400, 200},
		{"GET", "/openapi.yaml", "", 401, 403, 200, 200},
		{"GET", "/metrics", "", 401, 403, 403, 403},
		{"GET", "/healthz", "", 200, 200, 200, 200},
		{"GET", "/readyz", "", 200, 200, 200, 200},
	} {
		for _, as := range []struct {
			token  string
			status int
		}{{"", tt.none}, {made["ann"], tt.analyst}, {made["shop"], tt.forged}, {made["edge"], tt.right}} {
			if as.status == 0 {
				continue
			}
			r, err := http.NewRequestWithContext(t.Context(), tt.method, server.URL+tt.path, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			if as.token != "" {
				r.Header.Set("Authorization", as.token)
			}
			resp, err := server.Client().Do(r)
			if a := read(t, resp, err); a.code != as.status {
				t.Errorf("%s %s as %q: %d %s, want %d", tt.method, tt.path, as.token, a.code, a.body, as.status)
			}
		}
	}
}

// TestGRPCWhoMay tries to get into an edge that wants a token over TLS, with a
// client certificate.
func TestGRPCWhoMay(t *testing.T) {
	tokens, made := mustTokens(t)
	ca := testenv.NewCA(t)
	cert, key := ca.Issue(t)
	guard, err := access.Open(access.Config{Tokens: tokens, TLSCert: cert, TLSKey: key, ClientCA: ca.File})
	if err != nil {
		t.Fatal(err)
	}
	on := ingest.Listeners{Guard: guard}
	if on.HTTP, err = serve.Listen(t.Context(), "--http-addr", "127.0.0.1:0", guard); err != nil {
		t.Fatal(err)
	}
	if on.GRPC, err = serve.Listen(t.Context(), "--grpc-addr", "127.0.0.1:0", guard); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	edge := ingest.New(usual, deciding(allowed), always, prometheus.NewRegistry(), zap.NewNop())
	go func() { ended <- edge.Run(ctx, on) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	dial := func(as credentials.TransportCredentials) *grpc.ClientConn {
		conn, err := grpc.NewClient(on.GRPC.Addr().String(), grpc.WithTransportCredentials(as))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	conn := dial(credentials.NewTLS(ca.Client(t, ca)))
	for _, tt := range []struct {
		name, domain string
		shown        []string
		want         codes.Code
		told         string
	}{
		{"its tenant", "acme", []string{made["shop"]}, codes.OK, ""},
		{"every tenant", "evil", []string{made["edge"]}, codes.OK, ""},
		{"another tenant", "evil", []string{made["shop"]}, codes.PermissionDenied, `tenant: want acme, as token shop is for, found "evil"`},
		{"no tenant", "", []string{made["shop"]}, codes.InvalidArgument, ""},
		{"an analyst", "acme", []string{made["ann"]}, codes.PermissionDenied, `role: want gateway in what token ann may do, found "analyst"`},
		{"no token", "acme", nil, codes.Unauthenticated, "A token is needed: Authorization: Bearer weir_…"},
		{"an unknown one", "acme", []string{made["shop"] + "x"}, codes.Unauthenticated, "The token is not known."},
		{"two", "acme", []string{made["shop"], made["edge"]}, codes.Unauthenticated, "Want one Authorization, found several."},
	} {
		ctx := t.Context()
		for _, value := range tt.shown {
			ctx = metadata.AppendToOutgoingContext(ctx, "authorization", value)
		}
		_, err := rls.NewRateLimitServiceClient(conn).ShouldRateLimit(ctx, shouldLimit(tt.domain, descriptor("user", "42")))
		if got := status.Convert(err); got.Code() != tt.want || tt.told != "" && got.Message() != tt.told {
			t.Errorf("%s: %v, want %v %s", tt.name, err, tt.want, tt.told)
		}
	}
	if _, err := grpc_health_v1.NewHealthClient(conn).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Errorf("health without a token: %v", err)
	}
	inTime, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	list, err := grpc_reflection_v1.NewServerReflectionClient(conn).ServerReflectionInfo(inTime)
	if err == nil {
		_, err = list.Recv()
	}
	if status.Code(err) != codes.Unauthenticated {
		t.Errorf("reflection without a token: %v", err)
	}
	for name, as := range map[string]credentials.TransportCredentials{
		"no certificate": credentials.NewTLS(ca.Client(t)), "one of another CA": credentials.NewTLS(ca.Client(t, testenv.NewCA(t))), "no TLS": insecure.NewCredentials(),
	} {
		if _, err := grpc_health_v1.NewHealthClient(dial(as)).Check(t.Context(), &grpc_health_v1.HealthCheckRequest{}); status.Code(err) != codes.Unavailable {
			t.Errorf("%s: %v", name, err)
		}
	}
}
