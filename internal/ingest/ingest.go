// Package ingest is the HTTP edge: checks and reports for those who do not
// speak NATS. It holds nothing of its own; every answer is the gateway
// client's, and a report is acknowledged only once it is stored.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/problem"
)

// Config is what the edge can be told.
type Config struct {
	Addr     string // host:port to listen on
	Insecure bool   // Addr may be reached by other machines, without authentication
	Strict   bool   // requests with unknown fields are refused; else ?strict=1 asks for it
}

// DefaultConfig listens where only this machine can reach.
func DefaultConfig() Config { return Config{Addr: "127.0.0.1:8080"} }

// Validate names every fault at once.
func (c Config) Validate() error {
	host, port, err := net.SplitHostPort(c.Addr)
	if err != nil {
		return fmt.Errorf("http-addr: want host:port, found %q", c.Addr)
	}
	var faults []error
	if _, err := net.LookupPort("tcp", port); err != nil || port == "" {
		faults = append(faults, fmt.Errorf("http-addr: want a port from 0 to 65535, found %q", port))
	}
	if !c.Insecure && !loopback(host) {
		faults = append(faults, fmt.Errorf("http-addr: want a loopback host such as 127.0.0.1, found %q: "+
			"whoever reaches it can ask and report for every tenant; say --insecure if something else keeps strangers away", host))
	}
	return errors.Join(faults...)
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 30 * time.Second // of a whole request: maxReportBody from a slow line
	writeTimeout      = 60 * time.Second // from the end of the header: reading, storing, answering
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 16 << 10
	drainTimeout      = 15 * time.Second // above storeTimeout: what was read is answered
)

// decider is what the edge needs of a gateway client.
type decider interface {
	Check(ctx context.Context, r events.Request) (events.Decision, error)
	Report(ctx context.Context, requests ...events.Request) error
}

// Server is the edge. Make it with New.
type Server struct {
	config    Config
	gateway   decider
	connected func() bool
	log       *zap.Logger
	metrics   *metrics
	bodies    chan struct{} // a place for each report body in memory
	handler   http.Handler
}

// New makes an edge over a gateway client. It is ready while connected says so.
// What /metrics shows is the registry's, to which the edge adds its own.
func New(config Config, gateway decider, connected func() bool, registry *prometheus.Registry, log *zap.Logger) (*Server, error) {
	if err := config.Validate(); err != nil {
		return nil, fmt.Errorf("ingest: %w", err)
	}
	s := &Server{
		config: config, gateway: gateway, connected: connected, log: log.Named("ingest"),
		metrics: newMetrics(registry),
		bodies:  make(chan struct{}, maxReportBodies),
	}
	mux := http.NewServeMux()
	mux.Handle("/v1/check", s.handle("check", s.check, http.MethodPost))
	mux.Handle("/v1/reports", s.handle("reports", s.reports, http.MethodPost))
	mux.Handle("/healthz", s.handle("healthz", healthy, http.MethodGet, http.MethodHead))
	mux.Handle("/readyz", s.handle("readyz", s.ready, http.MethodGet, http.MethodHead))
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorLog: zap.NewStdLog(s.log)}))
	mux.Handle("/", s.handle("none", unknown))
	s.handler = mux
	return s, nil
}

// Handler serves the edge's endpoints.
func (s *Server) Handler() http.Handler { return s.handler }

// Run serves on the listener, which it closes, until ctx ends; then it answers
// what it has taken and returns nil.
func (s *Server) Run(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          zap.NewStdLog(s.log),
	}
	drained := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		drained <- server.Shutdown(drain)
	})
	s.log.Info("serving", zap.Stringer("addr", listener.Addr()), zap.Bool("strict", s.config.Strict))
	err := server.Serve(listener)
	if stop() {
		return fmt.Errorf("ingest: serve on %s: %w", listener.Addr(), err)
	}
	if err := <-drained; err != nil {
		return fmt.Errorf("ingest: requests under way are cut off: %w", errors.Join(err, server.Close()))
	}
	return nil
}

// handle wraps an endpoint: its methods, and the count of its answers. The
// endpoint returns the status it answered with.
func (s *Server) handle(name string, serve func(http.ResponseWriter, *http.Request) int, methods ...string) http.Handler {
	allow := strings.Join(methods, ", ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var code int
		if allow == "" || slices.Contains(methods, r.Method) {
			code = serve(w, r)
		} else {
			w.Header().Set("Allow", allow)
			code = refuse(w, http.StatusMethodNotAllowed, fmt.Sprintf("%s takes %s, found %s.", r.URL.Path, allow, r.Method))
		}
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

func healthy(w http.ResponseWriter, _ *http.Request) int { return plain(w, "ok\n") }

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) int {
	if !s.connected() {
		return later(w, "There is no connection to NATS.")
	}
	return plain(w, "ready\n")
}

func plain(w http.ResponseWriter, text string) int {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(w, text) // a client that went away needs no answer
	return http.StatusOK
}

func unknown(w http.ResponseWriter, r *http.Request) int {
	return refuse(w, http.StatusNotFound, fmt.Sprintf("There is no %s. There are POST /v1/check, POST /v1/reports, "+
		"GET /healthz, GET /readyz and GET /metrics.", r.URL.Path))
}
