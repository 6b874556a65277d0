package main

import (
	"fmt"

	"github.com/weirhq/weir/internal/access"
)

type tokenCommand struct {
	Name   string        `help:"Name of the token, to know it by." required:""`
	Tenant []string      `help:"Tenants that it is for, separated by commas; * for all." required:""`
	Role   []access.Role `help:"What it is for, separated by commas: gateway asks for decisions and reports, analyst queries, metrics reads /metrics." default:"gateway"`
}

// Run prints the token's line on standard output, for the file of tokens, and
// the token itself, which nobody can tell again, on standard error.
func (c *tokenCommand) Run(out console) error {
	grant := access.Grant{Name: c.Name, Roles: c.Role, Tenants: c.Tenant}
	if len(c.Tenant) == 1 && c.Tenant[0] == "*" {
		grant.Tenants = nil
	}
	token, line, err := access.NewToken(grant)
	if err != nil {
		return err
	}
	fmt.Fprintln(out.err, "The token, which is told only now:", token)
	fmt.Fprintln(out.out, line)
	return nil
}
