// Package access says who may do what over HTTP and gRPC.
//
// A caller shows a token, of which a file holds the hash, the tenants that it
// is for and what it may do for them. Who can be reached from elsewhere needs
// TLS as well, as whoever reads a token has it. A client certificate says only
// that its bearer may talk at all: which tenant it may act for is a token's to
// say.
package access

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/weirhq/weir/internal/events"
)

// Role is what a token is for.
type Role string

// The roles.
const (
	Gateway Role = "gateway" // asks for decisions and reports, at the ingest edge
	Analyst Role = "analyst" // queries what is stored
	Metrics Role = "metrics" // reads /metrics, which is of all tenants
)

var roles = []Role{Gateway, Analyst, Metrics}

// Grant is what a token permits. Nil permits everything: nobody needs a token.
type Grant struct {
	Name    string   // of the token
	Roles   []Role   // at least one
	Tenants []string // nil: all
}

// validate names every fault as a *FieldError.
func (g *Grant) validate() error {
	faults := []error{events.CheckToken("name", g.Name)}
	for _, role := range g.Roles {
		if !slices.Contains(roles, role) {
			faults = append(faults, &events.FieldError{Field: "role", Value: string(role), Want: "one or more of " + join(roles)})
		}
	}
	for _, tenant := range g.Tenants {
		faults = append(faults, events.CheckToken("tenant", tenant))
	}
	if slices.Contains(g.Roles, Metrics) && g.Tenants != nil {
		faults = append(faults, &events.FieldError{Field: "tenant", Value: strings.Join(g.Tenants, ","),
			Want: "* for role metrics, whose figures are of all tenants"})
	}
	return errors.Join(faults...)
}

// DeniedError says that a token is not for what is asked.
type DeniedError struct{ Err *events.FieldError }

func (e *DeniedError) Error() string { return e.Err.Error() }
func (e *DeniedError) Unwrap() error { return e.Err }

// Tenant returns the tenant that a request is for. One that names none is for
// the only one of the token, if it has only one. The error is a *DeniedError if
// the request names, or may not leave out, another.
func (g *Grant) Tenant(asked string) (string, error) {
	switch {
	case g == nil || g.Tenants == nil || slices.Contains(g.Tenants, asked):
		return asked, nil
	case asked == "" && len(g.Tenants) == 1:
		return g.Tenants[0], nil
	}
	return "", &DeniedError{&events.FieldError{Field: "tenant", Value: asked,
		Want: fmt.Sprintf("%s, as token %s is for", strings.Join(g.Tenants, " or "), g.Name)}}
}

// allows tells whether the token has a role. The error is a *DeniedError.
func (g *Grant) allows(role Role) error {
	if slices.Contains(g.Roles, role) {
		return nil
	}
	return &DeniedError{&events.FieldError{Field: "role", Value: join(g.Roles),
		Want: fmt.Sprintf("%s in what token %s may do", role, g.Name)}}
}

func join(list []Role) string {
	var b strings.Builder
	for i, r := range list {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(string(r))
	}
	return b.String()
}

type contextKey struct{}

// With returns a context of a request that was let in by the grant.
func With(ctx context.Context, g *Grant) context.Context {
	return context.WithValue(ctx, contextKey{}, g)
}

// Of returns the grant that a request was let in by.
func Of(ctx context.Context) *Grant {
	g, _ := ctx.Value(contextKey{}).(*Grant)
	return g
}
