package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/user"
	"text/tabwriter"
	"time"

	"github.com/weirhq/weir/gateway"
)

// commandFlags are for commands that act on a tenant's keys.
type commandFlags struct {
	dataFlag
	natsFlags
	Tenant string `help:"Whose limits are meant." required:""`
	JSON   bool   `help:"Print what is done as JSON." name:"json"`
}

// keyFlags name one key.
type keyFlags struct {
	Key []string `help:"What the rule counts by; of several attributes once for each, in the rule's order." required:"" sep:"none" placeholder:"VALUE"`
	By  string   `help:"Who asks for it; default: the user of this system."`
}

// who returns who asks.
func (f *keyFlags) who() (string, error) {
	if f.By != "" {
		return f.By, nil
	}
	u, err := user.Current()
	if err != nil {
		return "", fmt.Errorf("who asks? say --by NAME: %w", err)
	}
	return u.Username, nil
}

// send has a command done and prints what was done.
func (f *commandFlags) send(ctx context.Context, command gateway.Command, out io.Writer, show func(io.Writer, []gateway.Control) error) error {
	g, err := f.client(ctx, f.dataFlag, 0)
	if err != nil {
		return err
	}
	done, err := g.Command(ctx, f.Tenant, command)
	if closeErr := g.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if !f.JSON {
		return show(out, done)
	}
	text, err := json.Marshal(done)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "%s\n", text)
	return err
}

type resetCommand struct {
	commandFlags
	keyFlags
	Rule string `help:"The rule; default: all whose keys have as many values."`
}

// Run forgets what a key was charged.
func (c *resetCommand) Run(ctx context.Context, out console) error {
	by, err := c.who()
	if err != nil {
		return err
	}
	return c.send(ctx, gateway.Command{Kind: gateway.Reset, Rule: c.Rule, Key: c.Key, By: by}, out.out, func(w io.Writer, done []gateway.Control) error {
		for _, d := range done {
			fmt.Fprintf(w, "Reset: key %q of rule %s has all of its limit again.\n", d.Key, d.Rule)
		}
		return nil
	})
}

type overrideCommand struct {
	Set  overrideSetCommand  `cmd:"" default:"withargs" help:"Give a key another limit until a time (the default)."`
	Lift overrideLiftCommand `cmd:"" help:"End a key's override now."`
	List overrideListCommand `cmd:"" help:"List the overrides in force."`
}

type overrideSetCommand struct {
	commandFlags
	keyFlags
	Rule  string `help:"The rule." required:""`
	Limit string `help:"Units per time, such as 3000/min; 0 bans." required:""`
	Until string `help:"When it ends: RFC 3339, or a while from now such as 90m or 24h." required:"" placeholder:"TIME"`
}

// Run gives a key another limit.
func (c *overrideSetCommand) Run(ctx context.Context, out console) error {
	until, err := parseUntil(c.Until, time.Now())
	if err != nil {
		return err
	}
	by, err := c.who()
	if err != nil {
		return err
	}
	command := gateway.Command{Kind: gateway.Override, Rule: c.Rule, Key: c.Key, Limit: c.Limit, Until: until, By: by}
	return c.send(ctx, command, out.out, func(w io.Writer, done []gateway.Control) error {
		for _, d := range done {
			fmt.Fprintf(w, "Override: key %q of rule %s has %s until %s.\n", d.Key, d.Rule, limitOf(&d), moment(d.Until))
		}
		return nil
	})
}

// parseUntil reads a time, or a duration from now.
func parseUntil(text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil {
		return now.Add(d), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, fmt.Errorf("--until: want a time such as 2026-12-31T00:00:00Z, or a while such as 90m or 24h, found %q", text)
	}
	return t, nil
}

type overrideLiftCommand struct {
	commandFlags
	keyFlags
	Rule string `help:"The rule." required:""`
}

// Run ends a key's override.
func (c *overrideLiftCommand) Run(ctx context.Context, out console) error {
	by, err := c.who()
	if err != nil {
		return err
	}
	return c.send(ctx, gateway.Command{Kind: gateway.Lift, Rule: c.Rule, Key: c.Key, By: by}, out.out, func(w io.Writer, done []gateway.Control) error {
		for _, d := range done {
			fmt.Fprintf(w, "Lifted: key %q of rule %s has the limit of the policy again.\n", d.Key, d.Rule)
		}
		return nil
	})
}

type overrideListCommand struct {
	commandFlags
}

// Run lists the overrides in force.
func (c *overrideListCommand) Run(ctx context.Context, out console) error {
	return c.send(ctx, gateway.Command{Kind: gateway.List}, out.out, func(w io.Writer, done []gateway.Control) error {
		if len(done) == 0 {
			fmt.Fprintln(w, "No override by hand is in force.")
			return nil
		}
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "RULE\tKEY\tLIMIT\tUNTIL\tBY\tSINCE")
		for _, d := range done {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", d.Rule, cell(d.Key), limitOf(&d), moment(d.Until), cell(d.By), moment(d.At))
		}
		return t.Flush()
	})
}

// limitOf says what an override allows.
func limitOf(c *gateway.Control) string {
	if c.Limit == 0 {
		return "no request (a ban)"
	}
	return fmt.Sprintf("%d in %s", c.Limit, span(c.WindowMS))
}
