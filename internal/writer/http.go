package writer

import (
	"context"
	"errors"
	"net/http"
	"time"

	"go.uber.org/zap"

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
	if w.held.Load() > 0 { // first: a refused login is no answer either
		return errors.New("nothing is stored until the configuration is mended: see the log")
	}
	if err := w.db.Ping(ctx); err != nil {
		w.log.Debug("not ready", zap.Error(err))
		return errors.New("no answer from Postgres")
	}
	return nil
}
