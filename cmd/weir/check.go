package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/events"
)

// client is a gateway's client with a connection of its own.
type client struct {
	*gateway.Client
	nc *nats.Conn
}

// client makes a client of a running system under a name that no other has.
func (f *natsFlags) client(ctx context.Context, data dataFlag, timeout time.Duration) (*client, error) {
	nc, err := f.connect(ctx, data)
	if err != nil {
		return nil, err
	}
	g, err := gateway.Connect(nc, gateway.Config{
		Name: "weir-cli-" + nuid.Next(), Prefix: f.Prefix, Shards: f.Shards, Timeout: timeout,
	})
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &client{g, nc}, nil
}

// Close reports what had no decision and ends the connection.
func (c *client) Close() error {
	defer c.nc.Close()
	return c.Client.Close()
}

type checkCommand struct {
	dataFlag
	natsFlags
	Tenant  string        `help:"Whose limits apply." required:""`
	ID      string        `help:"The request's id; asking again with the same one gives the same decision." name:"id"`
	User    string        `help:"Who makes the request."`
	APIKey  string        `help:"The API key it bears; it is hashed before it travels." name:"api-key"`
	IP      string        `help:"The client's address." name:"ip"`
	Method  string        `help:"HTTP method." default:"GET"`
	Host    string        `help:"Host that is asked."`
	Path    string        `help:"Path that is asked for." default:"/"`
	Route   string        `help:"The path's template, such as /users/{id}."`
	Cost    int64         `help:"Units the request weighs; 0 asks without charging." default:"1"`
	Attrs   string        `help:"Further attributes, a JSON object."`
	Timeout time.Duration `help:"How long to wait for the decision." default:"2s"`
	Explain bool          `help:"Tell what would be decided, and what each rule has to do with it; charges nothing."`
	JSON    bool          `help:"Print the decision as JSON." name:"json"`
}

// Run asks for one decision and prints it.
func (c *checkCommand) Run(ctx context.Context, out console) error {
	request := events.Request{
		ID: c.ID, Tenant: c.Tenant, User: c.User, APIKey: c.APIKey, Method: c.Method, Host: c.Host,
		Path: c.Path, Route: c.Route, Cost: c.Cost, Peek: c.Cost == 0, Attrs: c.Attrs,
	}
	if c.IP != "" {
		ip, err := netip.ParseAddr(c.IP)
		if err != nil {
			return fmt.Errorf("--ip: want an IPv4 or IPv6 address, found %q", c.IP)
		}
		request.IP = ip
	}
	g, err := c.client(ctx, c.dataFlag, c.Timeout)
	if err != nil {
		return err
	}
	if c.Explain {
		return errors.Join(c.explain(ctx, g, request, out.out), g.Close())
	}
	d, err := g.Check(ctx, request)
	if closeErr := g.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if d.Reason == gateway.ReasonTimeout {
		return fmt.Errorf("no decision within %v: is a limiter running? A gateway would now %s the request", c.Timeout, d.Verdict)
	}
	if c.JSON {
		_, err = fmt.Fprintf(out.out, "%s\n", events.AppendDecision(nil, &d))
		return err
	}
	_, err = fmt.Fprintln(out.out, sentence(&d))
	return err
}

// sentence says a decision in words.
func sentence(d *events.Decision) string {
	text := fmt.Sprintf("%s (%s)", d.Verdict, d.Reason)
	switch {
	case d.Reason == events.ReasonUnavailable:
		text += ": the windows cannot be asked, so on_error decides; is Redis there?"
	case d.Rule != "" && d.Limit == 0:
		text = fmt.Sprintf("%s by rule %s: key %q is banned", d.Verdict, d.Rule, d.Key)
	case d.Rule != "":
		text = fmt.Sprintf("%s by rule %s: key %q, %d of %d left in %v", d.Verdict, d.Rule, d.Key,
			d.Remaining, d.Limit, time.Duration(d.WindowMS)*time.Millisecond)
	}
	switch {
	case d.Verdict == events.Allow || d.Rule == "":
	case d.RetryAfterMS > 0:
		text += fmt.Sprintf("; would pass in %v", time.Duration(d.RetryAfterMS)*time.Millisecond)
	case d.Limit == 0:
		text += " for good"
	default:
		text += "; it can never pass: it costs more than the limit"
	}
	if len(d.Shadow) > 0 {
		text += "; in shadow, denied by " + strings.Join(d.Shadow, ", ")
	}
	return text
}
