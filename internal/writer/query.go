package writer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/access"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/pg"
	"github.com/weirhq/weir/internal/problem"
	"github.com/weirhq/weir/internal/shards"
)

// ask answers a query's JSON, which confine holds to what whoever asks may. If
// there is no answer, the details say why.
func (w *Writer) ask(ctx context.Context, body io.Reader, confine func(*pg.Query) error) (*pg.Answer, problem.Details) {
	began := time.Now()
	answer, err := w.decodeAndAsk(ctx, body, confine)
	details := problem.Details{Status: http.StatusOK}
	if err != nil {
		details = w.details(ctx, err)
	}
	w.metrics.querySeconds.Observe(time.Since(began).Seconds())
	w.metrics.queries.WithLabelValues(strconv.Itoa(details.Status)).Inc()
	return answer, details
}

func (w *Writer) decodeAndAsk(ctx context.Context, body io.Reader, confine func(*pg.Query) error) (*pg.Answer, error) {
	q, err := pg.DecodeQuery(body)
	if err != nil {
		return nil, err
	}
	if err := confine(q); err != nil {
		return nil, err
	}
	if q.WaitFor != nil && q.WaitFor.Now {
		n, err := shards.Find(ctx, w.js, w.config.Names, w.config.Shards)
		if err != nil {
			return nil, err
		}
		if q.WaitFor, err = Ends(ctx, w.js, w.config.Names, n, q.Tenant); err != nil {
			return nil, err
		}
	}
	return w.db.Query(ctx, q, time.Now())
}

// Ends says how far the journals, that of the tenant if there is one, and the
// stream of outcomes reach. What a gateway has seen is not beyond.
func Ends(ctx context.Context, js jetstream.JetStream, names events.Names, shards int, tenant string) (*pg.WaitFor, error) {
	streams := map[int]string{pg.OutcomesShard: names.OutcomesStream()}
	for number := range shards {
		if tenant == "" || number == events.Shard(tenant, shards) {
			streams[number] = names.JournalStream(number)
		}
	}
	var w pg.WaitFor
	for number, stream := range streams {
		l, err := journal.OpenLog(ctx, js, stream)
		if errors.Is(err, journal.ErrNone) {
			continue
		}
		if err != nil {
			return nil, err
		}
		extent, err := l.Extent(ctx)
		if err != nil {
			return nil, err
		}
		if extent.Blocks > 0 { // else there is nothing to store
			w.Positions = append(w.Positions, pg.Position{Shard: number, Seq: extent.Last, Stream: l.Identity()})
		}
	}
	return &w, nil
}

// details words why there is no answer.
func (w *Writer) details(ctx context.Context, err error) problem.Details {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return problem.Details{Status: http.StatusRequestEntityTooLarge, Detail: fmt.Sprintf("a query may have %d bytes", tooLarge.Limit)}
	}
	if denied, ok := errors.AsType[*access.DeniedError](err); ok {
		return problem.Details{Status: http.StatusForbidden, Detail: denied.Error()}
	}
	if wrong, ok := errors.AsType[*pg.QueryError](err); ok {
		return problem.Details{Status: http.StatusBadRequest, Detail: wrong.Error(), More: problem.Faults(faultsOf(wrong))}
	}
	if notYet, ok := errors.AsType[*pg.NotYetError](err); ok {
		return problem.Details{Status: http.StatusGatewayTimeout, Detail: notYet.Error()}
	}
	switch {
	case errors.Is(err, pg.ErrQueryTimeout):
		return problem.Details{Status: http.StatusGatewayTimeout, Detail: pg.ErrQueryTimeout.Error()}
	case errors.Is(err, pg.ErrQueriesBusy), errors.Is(err, pg.ErrQueryLocked):
		return problem.Details{Status: http.StatusServiceUnavailable, Detail: err.Error()}
	case ctx.Err() != nil:
		return problem.Details{Status: 499, Title: "Client Closed Request", Detail: "the client is gone"} // nginx' number for it
	}
	w.log.Error("query failed", zap.Error(err))
	return problem.Details{Status: http.StatusServiceUnavailable, Detail: "the database, or the journal that is waited for, does not answer"}
}

// faultsOf lists what is wrong with the fields of a query.
func faultsOf(wrong *pg.QueryError) (all []problem.Fault) {
	for _, err := range wrong.Errs {
		if f, ok := errors.AsType[*events.FieldError](err); ok {
			all = append(all, problem.Fault{Field: f.Field, Found: f.Value, Expected: f.Want})
		}
	}
	return all
}

// query answers POST /v1/query.
func (w *Writer) query(rw http.ResponseWriter, r *http.Request) {
	form, err := formOf(r)
	if err != nil {
		problem.Write(rw, problem.Details{Status: http.StatusBadRequest, Detail: err.Error()})
		return
	}
	answer, details := w.ask(r.Context(), http.MaxBytesReader(rw, r.Body, pg.MaxQuery), func(q *pg.Query) error {
		return permit(access.Of(r.Context()), q)
	})
	if answer == nil {
		if details.Status == http.StatusServiceUnavailable {
			rw.Header().Set("Retry-After", "1")
		}
		problem.Write(rw, details)
		return
	}
	if answer.Explain != nil {
		form = "json" // it is no table
	}
	var body bytes.Buffer
	if err := writeAnswer(&body, rw.Header(), answer, form); err != nil {
		w.log.Error("answer not written", zap.Error(err))
		problem.Write(rw, problem.Details{Status: http.StatusInternalServerError, Detail: "the answer cannot be written"})
		return
	}
	_, _ = body.WriteTo(rw) // whoever asked may be gone
}

// permit holds a query to the tenants of a token. The error is an
// *access.DeniedError.
func permit(g *access.Grant, q *pg.Query) error {
	if g == nil || g.Tenants == nil {
		return nil
	}
	if q.Explain {
		return &access.DeniedError{Err: &events.FieldError{Field: "explain", Value: "true", Want: "a token for all tenants, of whose rows a plan tells; " + g.Name + " is not"}}
	}
	q.Tenants = g.Tenants
	if q.Tenant == "" {
		return nil
	}
	_, err := g.Tenant(q.Tenant)
	return err
}

// forms are the media types of answers.
var forms = map[string]string{"json": "application/json", "ndjson": "application/x-ndjson", "csv": "text/csv"}

// formOf tells what form of an answer is wanted: the parameter format goes
// before the first of Accept that is known; JSON otherwise.
func formOf(r *http.Request) (string, error) {
	if form := r.URL.Query().Get("format"); form != "" {
		if forms[form] == "" {
			return "", &events.FieldError{Field: "format", Value: form, Want: "json, ndjson or csv"}
		}
		return form, nil
	}
	for one := range strings.SplitSeq(strings.Join(r.Header["Accept"], ","), ",") {
		one, _, _ = strings.Cut(one, ";")
		for form, media := range forms {
			if strings.EqualFold(strings.TrimSpace(one), media) {
				return form, nil
			}
		}
	}
	return "json", nil
}

// writeAnswer writes an answer in a form. What a form of lines has no room for
// is in the header.
func writeAnswer(body *bytes.Buffer, header http.Header, a *pg.Answer, form string) error {
	header.Set("Content-Type", forms[form])
	if form == "json" {
		text, err := json.Marshal(a)
		body.Write(append(text, '\n'))
		return err
	}
	header.Set("Weir-Source", a.Source)
	header.Set("Weir-As-Of", a.AsOf.UTC().Format(time.RFC3339Nano))
	if a.Next != "" {
		header.Set("Weir-Next", a.Next)
	}
	if form == "csv" {
		header.Set("Content-Type", forms[form]+"; charset=utf-8; header=present")
		return a.WriteCSV(body)
	}
	return a.WriteNDJSON(body)
}
