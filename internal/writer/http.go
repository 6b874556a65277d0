package writer

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/access"
	"github.com/weirhq/weir/internal/pg"
	"github.com/weirhq/weir/internal/problem"
	"github.com/weirhq/weir/internal/serve"
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
	serve.Operations(mux, w.ready, w.registry, w.log)
	mux.HandleFunc("/", func(rw http.ResponseWriter, r *http.Request) {
		problem.Write(rw, problem.Details{Status: http.StatusNotFound, Detail: "nothing is served at this path"})
	})
	return mux
}

// ready tells why queries cannot be answered or rows are not being stored.
func (w *Writer) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := w.db.Ping(ctx); err != nil {
		w.log.Debug("not ready", zap.Error(err))
		return errors.New("no answer from Postgres")
	}
	if w.held.Load() > 0 {
		return errors.New("nothing is stored until the configuration is mended: see the log")
	}
	return nil
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
		q.Tenant, err = access.Of(r.Context()).Tenant(q.Tenant)
	}
	if err == nil {
		answer, err = w.db.Query(r.Context(), q, time.Now())
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return fail(http.StatusRequestEntityTooLarge, "a query may have "+strconv.FormatInt(tooLarge.Limit, 10)+" bytes")
	}
	if denied, ok := errors.AsType[*access.DeniedError](err); ok {
		return fail(http.StatusForbidden, denied.Error())
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
