package serve

import (
	"errors"
	"net/http"

	"github.com/weirhq/weir/internal/access"
	"github.com/weirhq/weir/internal/problem"
)

// tokenHeader takes the place of Authorization where that is the end user's:
// nginx, Traefik and Caddy ask about a request with the fields that it came
// with.
const tokenHeader = "Weir-Token"

// Admit serves those whom the guard lets in: with the role, with that for
// metrics at /metrics, and anybody at /healthz and /readyz, which tell nothing
// of any tenant. Whom it let in is in the request's context.
func Admit(guard *access.Guard, role access.Role, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		role := role
		switch r.URL.Path {
		case "/healthz", "/readyz":
			next.ServeHTTP(w, r)
			return
		case "/metrics":
			role = access.Metrics
		}
		grant, err := guard.Admit(authorization(r), role)
		if err != nil {
			refuse(w, r, err)
			return
		}
		if grant != nil {
			r = r.WithContext(access.With(r.Context(), grant))
		}
		next.ServeHTTP(w, r)
	})
}

func authorization(r *http.Request) []string {
	tokens, ok := r.Header[tokenHeader]
	if !ok {
		return r.Header["Authorization"]
	}
	shown := make([]string, len(tokens))
	for i, token := range tokens {
		shown[i] = "Bearer " + token
	}
	return shown
}

// refuse answers whom the guard does not let in. To a proxy that asks about an
// end user 401 and 403 are answers for that one: it is told, with 400, what is
// wrong with the proxy.
func refuse(w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusForbidden
	if unknown, ok := errors.AsType[*access.UnauthorizedError](err); ok {
		status = http.StatusUnauthorized
		w.Header().Set("WWW-Authenticate", unknown.Challenge())
	}
	if r.URL.Path == "/v1/auth" {
		status = http.StatusBadRequest
	}
	problem.Write(w, problem.Details{Status: status, Detail: err.Error()})
}
