package writer

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/pg"
	"github.com/weirhq/weir/internal/problem"
)

// askers is how many queries over NATS are answered at once, and those that
// wait for rows or for others among them; whoever comes on top is refused.
const askers = 32

// takeQueries takes queries over NATS until stop is called. Of several writers
// each gets some.
func (w *Writer) takeQueries() (asked <-chan micro.Request, stop func(), err error) {
	queue := make(chan micro.Request)
	take := micro.HandlerFunc(func(m micro.Request) {
		select {
		case queue <- m:
		default:
			w.refuse(m, problem.Details{Status: http.StatusServiceUnavailable, Detail: pg.ErrQueriesBusy.Error()})
		}
	})
	names := w.config.Names
	service, err := micro.AddService(w.js.Conn(), micro.Config{
		Name: names.Prefix + "-query", Version: "1.0.0",
		Description: "analytics queries about stored requests: the JSON of POST /v1/query",
	})
	if err != nil {
		return nil, nil, fmt.Errorf("take queries over NATS: %w", err)
	}
	stop = func() { _ = service.Stop() } // fails only if the connection is closed
	for name, subject := range map[string]string{"query": names.Query(), "query-of-tenant": names.QueriesOf()} {
		if err := service.AddEndpoint(name, take, micro.WithEndpointSubject(subject)); err != nil {
			stop()
			return nil, nil, fmt.Errorf("take queries over NATS: %w", err)
		}
	}
	return queue, stop, nil
}

// answerQueries answers those that are asked until ctx ends.
func (w *Writer) answerQueries(ctx context.Context, asked <-chan micro.Request) error {
	var g errgroup.Group
	for range askers {
		g.Go(func() error {
			for {
				select {
				case m := <-asked:
					w.serve(ctx, m)
				case <-ctx.Done():
					return nil
				}
			}
		})
	}
	return g.Wait()
}

// serve answers one query. It does not do so by the request's methods: they
// count what they do for a handler that has returned.
func (w *Writer) serve(ctx context.Context, m micro.Request) {
	answer, details := w.askOver(context.WithoutCancel(ctx), m)
	if answer == nil {
		w.refuse(m, details)
		return
	}
	text, err := json.Marshal(answer)
	if err == nil && int64(len(text)) > w.js.Conn().MaxPayload() {
		w.refuse(m, problem.Details{Status: http.StatusRequestEntityTooLarge, Detail: "the answer is larger than one message of NATS: ask for fewer rows, or over HTTP"})
		return
	}
	if err == nil {
		err = w.js.Conn().Publish(m.Reply(), text)
	}
	if err != nil {
		w.log.Warn("answer not sent", zap.Error(err))
	}
}

// askOver asks as the message's subject permits.
func (w *Writer) askOver(ctx context.Context, m micro.Request) (*pg.Answer, problem.Details) {
	if n := len(m.Data()); n > pg.MaxQuery {
		return nil, w.details(ctx, &http.MaxBytesError{Limit: pg.MaxQuery})
	}
	tenant, one := strings.CutPrefix(m.Subject(), w.config.Names.QueryOf(""))
	return w.ask(ctx, bytes.NewReader(m.Data()), func(q *pg.Query) error {
		if !one {
			return nil
		}
		return confine(q, tenant)
	})
}

// confine holds a query to one tenant. The error is a *pg.QueryError.
func confine(q *pg.Query, tenant string) error {
	var wrong pg.QueryError
	if q.Tenant != "" && q.Tenant != tenant {
		wrong.Errs = append(wrong.Errs, &events.FieldError{Field: "tenant", Value: q.Tenant, Want: "the subject's, " + tenant})
	}
	if q.Explain {
		wrong.Errs = append(wrong.Errs, &events.FieldError{Field: "explain", Value: "true", Want: "none here: a plan tells of all tenants' rows"})
	}
	if len(wrong.Errs) > 0 {
		return &wrong
	}
	q.Tenants = []string{tenant}
	return nil
}

// refuse answers with an error of the NATS services protocol with problem
// details, if somebody waits.
func (w *Writer) refuse(m micro.Request, details problem.Details) {
	if m.Reply() == "" {
		return
	}
	answer := &nats.Msg{Subject: m.Reply(), Data: details.Append(nil), Header: nats.Header{
		micro.ErrorHeader:     {http.StatusText(details.Status)},
		micro.ErrorCodeHeader: {strconv.Itoa(details.Status)},
	}}
	if err := w.js.Conn().PublishMsg(answer); err != nil {
		w.log.Debug("refusal not sent", zap.Error(err))
	}
}
