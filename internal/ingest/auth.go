package ingest

import (
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/weirhq/weir/internal/access"
	"github.com/weirhq/weir/internal/answer"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/problem"
)

// auth answers /v1/auth, whatever the method: whether a request that a proxy
// holds may pass. It is for nginx's auth_request, Traefik's ForwardAuth, Caddy's
// forward_auth and what speaks like them.
//
// The query is the proxy's configuration and believed. Of the headers most are
// the end user's, as these proxies pass them all on: only those speak that the
// query names, which is to say that the proxy sets them, and those that the
// proxy always sets. These are nginx's or those of all others, never whichever
// is there: the end user could send the other ones.
func (s *Server) auth(w http.ResponseWriter, r *http.Request) int {
	q, err := readQuery(r)
	if err != nil {
		return s.refuseCheck(w, err)
	}
	request, nginx, err := q.request()
	if err != nil {
		return s.refuseCheck(w, err)
	}
	if request.Tenant, err = access.Of(r.Context()).Tenant(request.Tenant); err != nil {
		return s.refuseCheck(w, errors.Unwrap(err)) // as a fault of the proxy's: 403 is for end users
	}
	request.IP = s.config.Proxies.Client(r.RemoteAddr, r.Header)
	decision, code := s.decide(w, r, request)
	if code != 0 {
		return code
	}
	if decision.Verdict == events.Deny && !nginx {
		return s.decided(w, &decision, nil)
	}
	answer.SetLimits(w.Header(), &decision, s.config.Headers)
	if decision.Verdict == events.Deny {
		return denyForNginx(w, &decision)
	}
	w.WriteHeader(http.StatusOK) // the proxy throws a body away
	return http.StatusOK
}

// denyForNginx denies in the only way that auth_request understands. nginx drops
// the body, and takes from headers what it answers.
func denyForNginx(w http.ResponseWriter, d *events.Decision) int {
	denied := answer.Problem(d)
	w.Header().Set("X-Weir-Problem", string(denied.Append(nil)))
	denied.Status = http.StatusForbidden
	problem.Write(w, denied)
	return denied.Status
}

// authQuery is the query of /v1/auth, of which what is read is taken out.
type authQuery struct {
	values url.Values
	header http.Header
	faults []error
}

func readQuery(r *http.Request) (authQuery, error) {
	values, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return authQuery{}, &events.FieldError{Field: "query", Value: r.URL.RawQuery, Want: "name=value, several joined by &, with %XX for what is no letter or digit"}
	}
	return authQuery{values: values, header: r.Header}, nil
}

// request is the request that the proxy holds, but for the client's address, and
// whether the proxy is nginx. What an end user can choose is made fit and never
// refused: to some proxies a refusal is a failure, which they let pass.
func (q *authQuery) request() (r events.Request, nginx bool, err error) {
	r.Tenant, r.ID, r.APIKey = q.take("tenant"), q.take("id"), q.take("api_key")
	r.User = events.Cut(q.take("user"), events.MaxName)
	r.Route = events.Cut(q.take("route"), events.MaxPath)
	if cost := q.take("cost"); cost != "" {
		r.Cost, err = strconv.ParseInt(cost, 10, 64)
		if r.Peek = r.Cost == 0; err != nil || r.Cost < 0 {
			q.fault("cost", cost, "a whole number")
		}
	}
	headers, resolves := "X-Forwarded-", true
	switch proxy := q.once("proxy"); proxy {
	case "":
		resolves = false // who asks has, or tells //api from /api
	case "nginx":
		headers, nginx = "X-Original-", true
	case "caddy":
	default:
		q.fault("proxy", proxy, "nginx, caddy, or nothing for other proxies that send X-Forwarded-Method and -Uri")
	}
	for _, name := range slices.Sorted(maps.Keys(q.values)) {
		q.fault("query", name, "tenant, id, user, api_key, route, cost, each also with _header, or proxy")
	}
	r.Method = events.Cut(q.header.Get(headers+"Method"), events.MaxName)
	r.Host = events.Cut(events.Host(q.header.Get(headers+"Host")), events.MaxName)
	target := q.header.Get(headers + "Uri")
	if nginx {
		target, _, _ = strings.Cut(target, "#") // where a path ends to nginx
	}
	target = events.Path(target)
	if resolves {
		target = events.Resolve(target)
	}
	r.Path = events.Cut(target, events.MaxPath)
	return r, nginx, errors.Join(q.faults...)
}

func (q *authQuery) fault(field, value, want string) {
	q.faults = append(q.faults, &events.FieldError{Field: field, Value: value, Want: want})
}

// take returns what the query says of a field, or the header that it names for
// it, of which several lines are one with commas between (RFC 9110, 5.3).
func (q *authQuery) take(field string) string {
	value, name := q.once(field), q.once(field+"_header")
	if name == "" {
		return value
	}
	if value != "" {
		q.fault(field, value, "either "+field+" or "+field+"_header")
	}
	return strings.Join(q.header.Values(name), ",")
}

// once returns a parameter. Who could add one to the query, where a proxy
// writes an unescaped value into it, cannot replace another.
func (q *authQuery) once(name string) string {
	values := q.values[name]
	delete(q.values, name)
	if len(values) > 1 {
		q.fault("query", name, "each parameter once")
	}
	return strings.Join(values, "")
}
