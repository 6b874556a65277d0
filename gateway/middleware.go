package gateway

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/weirhq/weir/internal/answer"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/problem"
)

// MiddlewareConfig says what Weir is asked about the requests to a service.
type MiddlewareConfig struct {
	Tenant  string  // of each request; may be empty where Describe sets one
	Proxies Proxies // in front of the service; the zero value: none
	Headers string  // that tell of the limit: x-ratelimit, ietf, both with a comma between, or none; empty: both

	// Describe completes what is asked about r. It finds the tenant, the client's
	// address, method, host, path and route filled in, and sets what else the
	// rules count by: the user, the API key, attrs, a cost. What it takes for the
	// user should be proven, as anybody could use up the limit of another. If it
	// is nil, nothing is added.
	Describe func(r *http.Request, request *Request)
}

// Middleware returns what limits the requests to a handler: it asks [Client.Check]
// about each. Those that may pass reach the handler, with headers that tell of the
// limit already set; it may look at the decision with [DecisionFrom]. Those that
// are denied are answered with status 429, the same headers, Retry-After and
// problem details (RFC 9457). A request that cannot be asked about, as Describe
// has made it, is answered with 400. A client that goes away meanwhile gets no
// answer. Once c is closed every request passes.
//
// The route of a request is the path of the pattern in r.Pattern, or of the
// handler's own if that is an [http.ServeMux]. Status, latency since the arrival
// and bytes of what has passed are told to Weir as its outcome, in the background;
// see [Client.LostOutcomes].
//
// The error tells of a wrong tenant, or of headers that there are not.
func (c *Client) Middleware(config MiddlewareConfig) (func(http.Handler) http.Handler, error) {
	if config.Tenant != "" || config.Describe == nil {
		if err := events.CheckToken("tenant", config.Tenant); err != nil {
			return nil, err
		}
	}
	headers := answer.AllHeaders
	if config.Headers != "" {
		if err := headers.UnmarshalText([]byte(config.Headers)); err != nil {
			return nil, err
		}
	}
	return func(next http.Handler) http.Handler {
		mux, _ := next.(*http.ServeMux)
		return &limited{client: c, config: config, headers: headers, next: next, mux: mux}
	}, nil
}

// limited is a handler behind the middleware.
type limited struct {
	client  *Client
	config  MiddlewareConfig
	headers answer.Headers
	next    http.Handler
	mux     *http.ServeMux // next, if it is one
}

func (l *limited) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	arrived := time.Now()
	request := l.request(r)
	decision, err := l.client.Check(r.Context(), request)
	switch wrong, ok := errors.AsType[*FieldError](err); {
	case ok:
		problem.Write(w, problem.Details{Status: http.StatusBadRequest, Detail: wrong.Error()})
		return
	case errors.Is(err, ErrClosed):
		l.next.ServeHTTP(w, r) // never the outage
		return
	case err != nil:
		return // the client has gone
	}
	answer.SetLimits(w.Header(), &decision, l.headers)
	if decision.Verdict == Deny {
		answer.Deny(w, &decision)
		return
	}
	response := &response{ResponseWriter: w}
	returned := false // else it panics
	defer func() {
		l.client.tell(Outcome{
			ID: decision.ID, Tenant: request.Tenant, Time: time.Now(),
			Status:    response.final(returned),
			LatencyUS: min(time.Since(arrived).Microseconds(), events.MaxLatency),
			BytesIn:   min(max(r.ContentLength, 0), events.MaxBytes), // as the client has said
			BytesOut:  min(response.bytes, events.MaxBytes),
		})
	}()
	l.next.ServeHTTP(response.as(), r.WithContext(context.WithValue(r.Context(), decisionKey{}, &decision)))
	returned = true
}

// request is what is asked. What the client may choose is made fit: what cannot
// be asked about must not be a way around the limits.
func (l *limited) request(r *http.Request) Request {
	request := Request{
		Tenant: l.config.Tenant,
		IP:     l.config.Proxies.Client(r.RemoteAddr, r.Header),
		Method: r.Method,
		Host:   events.Host(r.Host),
		Path:   cmp.Or(r.URL.Path, "/"), // of http://example.org?x it is empty
		Route:  l.route(r),
	}
	if l.config.Describe != nil {
		l.config.Describe(r, &request)
	}
	request.User = events.Cut(request.User, events.MaxName)
	request.Method = events.Cut(request.Method, events.MaxName)
	request.Host = events.Cut(request.Host, events.MaxName)
	request.Path = events.Cut(request.Path, events.MaxPath)
	request.Route = events.Cut(request.Route, events.MaxPath)
	return request
}

// route is the path of a pattern such as GET example.org/users/{id}.
func (l *limited) route(r *http.Request) string {
	pattern := r.Pattern
	if l.mux != nil {
		_, pattern = l.mux.Handler(r)
	}
	return pattern[max(strings.IndexByte(pattern, '/'), 0):]
}

type decisionKey struct{}

// DecisionFrom returns the decision under which the middleware has let a request
// pass, given the request's context.
func DecisionFrom(ctx context.Context) (Decision, bool) {
	decision, ok := ctx.Value(decisionKey{}).(*Decision)
	if !ok {
		return Decision{}, false
	}
	return *decision, true
}
