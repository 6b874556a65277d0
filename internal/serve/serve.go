// Package serve runs HTTP servers the way every service of Weir does: bound
// before anything else starts, with limits on time and size, drained at the
// end, and with the endpoints that operators expect.
package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/access"
	"github.com/weirhq/weir/internal/problem"
)

const (
	readHeaderTimeout = 5 * time.Second
	readTimeout       = 30 * time.Second // of a whole request
	writeTimeout      = 60 * time.Second // from the end of the header to the end of the answer
	idleTimeout       = 2 * time.Minute
	maxHeaderBytes    = 64 << 10         // more than proxies take by default: they pass on the end users' headers
	drainTimeout      = 15 * time.Second // what was read is answered
	// leaveTimeout is how long clients that keep their connections are told with
	// each answer to leave: one that is closed may have the next request on it.
	leaveTimeout = 250 * time.Millisecond
)

// Listen binds host:port, and serves TLS there if the guard has certificates. An
// address that other machines can reach is refused unless the guard says that
// they may. The error names the flag that the address came from.
func Listen(ctx context.Context, flag, addr string, guard *access.Guard) (net.Listener, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("%s: want host:port such as 127.0.0.1:8080, found %q", flag, addr)
	}
	if err := guard.Reach(loopback(host)); err != nil {
		return nil, fmt.Errorf("%s: want a loopback host such as 127.0.0.1, found %q: %w", flag, host, err)
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s: %s is taken by another program: stop that one or choose another port", flag, addr)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return guard.Listener(listener), nil
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// Run serves on the listener, which it closes, until ctx ends; then it answers
// what it has taken and returns nil.
func Run(ctx context.Context, listener net.Listener, handler http.Handler, log *zap.Logger) error {
	var leave atomic.Bool
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if leave.Load() {
				w.Header().Set("Connection", "close")
			}
			handler.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: readHeaderTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          zap.NewStdLog(log),
	}
	drained := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		leave.Store(true)
		time.Sleep(leaveTimeout)
		drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainTimeout)
		defer cancel()
		drained <- server.Shutdown(drain)
	})
	log.Info("serving", zap.Stringer("addr", listener.Addr()))
	err := server.Serve(listener)
	if stop() {
		return fmt.Errorf("serve on %s: %w", listener.Addr(), err)
	}
	if err := <-drained; err != nil {
		return fmt.Errorf("requests under way are cut off: %w", errors.Join(err, server.Close()))
	}
	return nil
}

// Operations adds what operators expect: /healthz says that the process lives,
// /readyz whether it can do its work, or why not, and /metrics how it does.
func Operations(mux *http.ServeMux, ready func(context.Context) error, registry *prometheus.Registry, log *zap.Logger) {
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { text(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := ready(r.Context()); err != nil {
			w.Header().Set("Retry-After", "1")
			problem.Write(w, problem.Details{Status: http.StatusServiceUnavailable, Detail: err.Error()})
			return
		}
		text(w, "ready")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{ErrorLog: zap.NewStdLog(log)}))
}

func text(w http.ResponseWriter, line string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = fmt.Fprintln(w, line) // whoever asked may be gone
}
