package writer

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/pg"
	"github.com/weirhq/weir/internal/problem"
)

// Handler serves POST /v1/query, /healthz, /readyz and /metrics. What goes
// wrong is answered with problem details.
func (w *Writer) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/query", w.query)
	mux.HandleFunc("/v1/query", func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Allow", http.MethodPost)
		problem.Write(rw, problem.Details{Status: http.StatusMethodNotAllowed, Detail: "want POST, found " + r.Method})
	})
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) { writeText(rw, "ok\n") })
	mux.HandleFunc("GET /readyz", w.ready)
	mux.Handle("GET /metrics", promhttp.HandlerFor(w.gather, promhttp.HandlerOpts{}))
	mux.HandleFunc("/", func(rw http.ResponseWriter, r *http.Request) {
		problem.Write(rw, problem.Details{Status: http.StatusNotFound, Detail: "nothing is served at this path"})
	})
	return mux
}

const (
	// stopWithin is how long requests under way may take when Serve ends: a
	// query with the longest timeout that is usual.
	stopWithin = 15 * time.Second
	readWithin = 10 * time.Second
)

// Serve answers HTTP on l until ctx ends and what is under way is answered.
func (w *Writer) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           w.Handler(),
		ReadHeaderTimeout: readWithin,
		ReadTimeout:       readWithin,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          zap.NewStdLog(w.log.Named("http")),
	}
	stopped := make(chan error, 1)
	defer context.AfterFunc(ctx, func() {
		bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWithin)
		defer cancel()
		stopped <- server.Shutdown(bound)
	})()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}

func writeText(rw http.ResponseWriter, text string) {
	rw.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = rw.Write([]byte(text)) // a client that is gone needs no answer
}

// ready answers whether queries can be answered and rows are being stored.
func (w *Writer) ready(rw http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), time.Second)
	defer cancel()
	switch err := w.db.Ping(ctx); {
	case err != nil:
		w.log.Debug("not ready", zap.Error(err))
		problem.Write(rw, problem.Details{Status: http.StatusServiceUnavailable, Detail: "Postgres does not answer"})
	case w.held.Load() > 0:
		problem.Write(rw, problem.Details{Status: http.StatusServiceUnavailable, Detail: "nothing is stored until the configuration is mended: see the log"})
	default:
		writeText(rw, "ok\n")
	}
}

func (w *Writer) query(rw http.ResponseWriter, r *http.Request) {
	began := time.Now()
	status := w.answer(rw, r)
	w.metrics.querySeconds.Observe(time.Since(began).Seconds())
	w.metrics.queries.WithLabelValues(strconv.Itoa(status)).Inc()
}

// answer answers a query and returns the status.
func (w *Writer) answer(rw http.ResponseWriter, r *http.Request) int {
	fail := func(status int, detail string) int {
		problem.Write(rw, problem.Details{Status: status, Detail: detail})
		return status
	}
	var answer *pg.Answer
	q, err := pg.DecodeQuery(http.MaxBytesReader(rw, r.Body, pg.MaxQuery))
	if err == nil {
		answer, err = w.db.Query(r.Context(), q, time.Now())
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return fail(http.StatusRequestEntityTooLarge, "a query may have "+strconv.FormatInt(tooLarge.Limit, 10)+" bytes")
	}
	if wrong, ok := errors.AsType[*pg.QueryError](err); ok {
		return fail(http.StatusBadRequest, wrong.Error())
	}
	var body []byte
	if err == nil {
		body, err = json.Marshal(answer)
	}
	switch {
	case errors.Is(err, pg.ErrQueryTimeout):
		return fail(http.StatusGatewayTimeout, pg.ErrQueryTimeout.Error())
	case errors.Is(err, pg.ErrQueriesBusy):
		rw.Header().Set("Retry-After", "1")
		return fail(http.StatusServiceUnavailable, pg.ErrQueriesBusy.Error())
	case r.Context().Err() != nil:
		return fail(499, "the client is gone") // nginx' number for it
	case err != nil:
		w.log.Error("query failed", zap.Error(err))
		return fail(http.StatusServiceUnavailable, "the database does not answer")
	}
	rw.Header().Set("Content-Type", "application/json")
	_, _ = rw.Write(append(body, '\n'))
	return http.StatusOK
}
