package ingest

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/weirhq/weir/internal/access"
	"github.com/weirhq/weir/internal/answer"
	"github.com/weirhq/weir/internal/events"
)

// statusGone is counted, never sent: the client did not wait for the answer.
const statusGone = 499

// buffers hold bodies and answers of checks.
var buffers = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// check answers POST /v1/check. The request's id is only ever the body's: an
// X-Request-Id often comes from the end user, who could repeat one to be
// charged once.
func (s *Server) check(w http.ResponseWriter, r *http.Request) int {
	buffer := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(buffer)
	buffer.Reset()
	if code := readBody(w, r, buffer, events.MaxPayload); code != 0 {
		return code
	}
	asked, err := asks(r, "strict", "explain")
	if err != nil {
		return s.refuseCheck(w, err)
	}
	request, err := events.DecodeRequest(buffer.Bytes(), s.config.Strict || asked["strict"])
	if err == nil {
		request.Tenant, err = access.Of(r.Context()).Tenant(request.Tenant)
	}
	if err != nil {
		return s.refuseCheck(w, err)
	}
	if asked["explain"] {
		return s.explain(w, r, request)
	}
	decision, code := s.decide(w, r, request)
	if code != 0 {
		return code
	}
	buffer.Reset()
	return s.decided(w, &decision, buffer.AvailableBuffer())
}

// decide asks for a decision. If there is none it answers and returns the
// status, else 0.
func (s *Server) decide(w http.ResponseWriter, r *http.Request, request events.Request) (events.Decision, int) {
	start := time.Now()
	decision, err := s.gateway.Check(r.Context(), request)
	switch _, wrong := errors.AsType[*events.FieldError](err); {
	case err == nil:
	case wrong:
		return decision, s.refuseCheck(w, err)
	case r.Context().Err() != nil:
		return decision, statusGone
	default:
		return decision, later(w, "No decision can be asked for: "+err.Error()+".")
	}
	s.metrics.decided(decision.Verdict, time.Since(start))
	return decision, 0
}

// asks tells which of some things the URL asks for, as ?name=1 or ?name=true. Who
// asks in other words is told so: a question must not become a charge.
func asks(r *http.Request, names ...string) (map[string]bool, error) {
	if r.URL.RawQuery == "" {
		return nil, nil
	}
	asked := map[string]bool{}
	for name, values := range r.URL.Query() {
		if !slices.Contains(names, name) {
			return nil, &events.FieldError{Value: "?" + name, Want: strings.Join(names, "=1 or ") + "=1 in the URL"}
		}
		yes, err := strconv.ParseBool(values[0])
		if err != nil {
			return nil, &events.FieldError{Field: name, Value: values[0], Want: "1 or 0, in the URL: ?" + name + "=1"}
		}
		asked[name] = yes
	}
	return asked, nil
}

// explain answers with what would be decided, and why. Nothing is charged, so
// the status is 200 also of what would be denied.
func (s *Server) explain(w http.ResponseWriter, r *http.Request, request events.Request) int {
	explanation, err := s.gateway.Explain(r.Context(), request)
	switch _, wrong := errors.AsType[*events.FieldError](err); {
	case wrong:
		return s.refuseCheck(w, err)
	case r.Context().Err() != nil:
		return statusGone
	case err != nil:
		return later(w, "No explanation can be asked for: "+err.Error()+".")
	}
	w.Header()["Content-Type"] = jsonType
	_ = json.NewEncoder(w).Encode(explanation) // a client that went away needs no answer
	return http.StatusOK
}

// decided answers with a decision, of which dst may hold the text.
func (s *Server) decided(w http.ResponseWriter, d *events.Decision, dst []byte) int {
	answer.SetLimits(w.Header(), d, s.config.Headers)
	if d.Verdict == events.Deny {
		return answer.Deny(w, d)
	}
	body := events.AppendDecision(dst, d)
	header := w.Header()
	header["Content-Type"] = jsonType
	header["Content-Length"] = []string{strconv.Itoa(len(body) + 1)}
	_, _ = w.Write(append(body, '\n')) // a client that went away needs no answer
	return http.StatusOK
}

var jsonType = []string{"application/json"}
