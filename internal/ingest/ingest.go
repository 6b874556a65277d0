// Package ingest is the edge for those who do not speak NATS: checks, reports and
// outcomes over HTTP, and Envoy's rate limit service over gRPC. It holds nothing
// of its own; every answer is the gateway client's, and what is reported is
// acknowledged only once it is stored.
package ingest

import (
	"context"
	_ "embed" // the OpenAPI document
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/access"
	"github.com/weirhq/weir/internal/answer"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/problem"
	"github.com/weirhq/weir/internal/serve"
)

// Config is what the edge can be told.
type Config struct {
	Strict  bool            // requests with unknown fields are refused; else ?strict=1 asks for it
	Headers answer.Headers  // that tell of a limit
	Proxies gateway.Proxies // between the end users and /v1/auth, with the one that asks
}

// decider is what the edge needs of a gateway client.
type decider interface {
	Check(ctx context.Context, r events.Request) (events.Decision, error)
	Explain(ctx context.Context, r events.Request) (events.Explanation, error)
	Report(ctx context.Context, requests ...events.Request) error
	Outcome(ctx context.Context, outcomes ...events.Outcome) error
	Overflow() int64
}

// Server is the edge. Make it with New.
type Server struct {
	config  Config
	gateway decider
	metrics *metrics
	bodies  chan struct{} // a place for each body of a batch in memory
	handler http.Handler

	connected func() bool
	log       *zap.Logger
}

// New makes an edge over a gateway client. It is ready while connected says so.
// What /metrics shows is the registry's, to which the edge adds its own.
func New(config Config, gateway decider, connected func() bool, registry *prometheus.Registry, log *zap.Logger) *Server {
	s := &Server{
		config: config, gateway: gateway,
		metrics:   newMetrics(registry, gateway.Overflow),
		bodies:    make(chan struct{}, maxBodies),
		connected: connected, log: log.Named("ingest"),
	}
	mux := http.NewServeMux()
	mux.Handle("POST /v1/check", s.handle("check", s.check))
	mux.Handle("/v1/auth", s.handle("auth", s.auth))
	mux.Handle("POST /v1/reports", s.handle("reports", storing(s, kind[events.Request]{"reports", report, gateway.Report, s.metrics.reports})))
	mux.Handle("POST /v1/outcomes", s.handle("outcomes", storing(s, kind[events.Outcome]{"outcomes", outcome, gateway.Outcome, s.metrics.outcomes})))
	mux.Handle("GET /openapi.yaml", s.handle("openapi", document))
	mux.Handle("/", s.handle("none", unknown))
	serve.Operations(mux, func(context.Context) error {
		if !connected() {
			return errors.New("there is no connection to NATS")
		}
		return nil
	}, registry, s.log)
	s.handler = s.ownOrigin(mux)
	return s
}

// ownOrigin refuses what pages of other origins send through the browser of
// somebody who reaches the edge, and no answer here tells a browser that they
// may read it. A proxy asks in the name of any page.
func (s *Server) ownOrigin(next http.Handler) http.Handler {
	origin := http.NewCrossOriginProtection()
	origin.AddInsecureBypassPattern("/v1/auth")
	origin.SetDenyHandler(s.handle("none", func(w http.ResponseWriter, r *http.Request) int {
		return refuse(w, http.StatusForbidden, fmt.Sprintf("%s takes nothing from web pages of other origins, found %q.", r.URL.Path, r.Header.Get("Origin")))
	}))
	return origin.Handler(next)
}

// Listeners are where the edge serves, and whom; Run closes both.
type Listeners struct {
	Guard *access.Guard
	HTTP  net.Listener
	GRPC  net.Listener // Envoy's rate limit service
}

// Run serves until ctx ends; then it answers what it has taken and returns nil.
func (s *Server) Run(ctx context.Context, on Listeners) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return serve.Run(ctx, on.HTTP, serve.Admit(on.Guard, access.Gateway, s.handler), s.log) })
	group.Go(func() error { return s.serveGRPC(ctx, on.GRPC, on.Guard) })
	return group.Wait()
}

// Handler serves the edge's HTTP endpoints.
func (s *Server) Handler() http.Handler { return s.handler }

// handle counts an endpoint's answers. The endpoint returns the status it
// answered with.
func (s *Server) handle(name string, serve func(http.ResponseWriter, *http.Request) int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		code := serve(w, r)
		s.metrics.requests.WithLabelValues(name, strconv.Itoa(code)).Inc()
	})
}

// refuse answers with a problem that is all in its detail.
func refuse(w http.ResponseWriter, code int, detail string) int {
	problem.Write(w, problem.Details{Status: code, Detail: detail})
	return code
}

// later answers that the request was right and may be tried again.
func later(w http.ResponseWriter, detail string) int {
	w.Header().Set("Retry-After", "1")
	return refuse(w, http.StatusServiceUnavailable, detail)
}

// endpoints are all that there are, each with the only method that it takes.
var endpoints = []string{
	"POST /v1/check", "/v1/auth", "POST /v1/reports", "POST /v1/outcomes",
	"GET /openapi.yaml", "GET /healthz", "GET /readyz", "GET /metrics",
}

// unknown answers what no endpoint takes.
func unknown(w http.ResponseWriter, r *http.Request) int {
	for _, endpoint := range endpoints {
		method, path, _ := strings.Cut(endpoint, " ")
		if path == r.URL.Path {
			w.Header().Set("Allow", method)
			return refuse(w, http.StatusMethodNotAllowed, fmt.Sprintf("%s takes %s, found %s.", path, method, r.Method))
		}
	}
	last := len(endpoints) - 1
	return refuse(w, http.StatusNotFound, fmt.Sprintf("There is no %s %s. There are %s and %s.",
		r.Method, r.URL.Path, strings.Join(endpoints[:last], ", "), endpoints[last]))
}

//go:embed openapi.yaml
var openapi []byte

// document answers GET /openapi.yaml.
func document(w http.ResponseWriter, _ *http.Request) int {
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(openapi) // a client that went away needs no answer
	return http.StatusOK
}
