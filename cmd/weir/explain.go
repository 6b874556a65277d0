package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/weirhq/weir/internal/events"
)

// explain prints what would be decided of a request, and what each rule has to
// do with it.
func (c *checkCommand) explain(ctx context.Context, g *client, r events.Request, out io.Writer) error {
	x, err := g.Explain(ctx, r)
	if err != nil {
		return err
	}
	if c.JSON {
		text, err := json.Marshal(x)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "%s\n", text)
		return err
	}
	return printExplanation(out, &x)
}

func printExplanation(w io.Writer, x *events.Explanation) error {
	fmt.Fprintf(w, "Would be decided: %s\nNothing was charged.\n\n", sentence(&x.Decision))
	if len(x.Rules) == 0 {
		_, err := fmt.Fprintln(w, "No rule binds the tenant.")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "RULE\tSAYS\tKEY\tUSED\tCOST\tFREES\tNOTE")
	for i := range x.Rules {
		r := &x.Rules[i]
		name := r.Rule
		if r.Mode == events.ModeShadow {
			name += " (shadow)"
		}
		if r.Charge == nil {
			fmt.Fprintf(t, "%s\t-\t\t\t\t\t%s\n", cell(name), cell(r.Why))
			continue
		}
		c := r.Charge
		fmt.Fprintf(t, "%s\t%s\t%s\t%d of %d in %s\t%d\t%s\t%s\n", cell(name), says(c), cell(c.Key), c.Used, c.Limit, span(c.WindowMS), c.Cost, frees(c), remark(c))
	}
	return t.Flush()
}

func says(c *events.ExplainedCharge) string {
	if c.Passes {
		return "pass"
	}
	return "deny"
}

// frees says when the oldest unit counts no more.
func frees(c *events.ExplainedCharge) string {
	if c.Used == 0 {
		return "-"
	}
	return "in " + span(c.ResetMS)
}

// remark says what is not in the columns.
func remark(c *events.ExplainedCharge) (text string) {
	switch {
	case c.Passes:
	case c.RetryAfterMS > 0:
		text = "would pass in " + span(c.RetryAfterMS)
	default:
		text = "can never pass"
	}
	if c.Override != "" {
		from := "override of the policy"
		if c.Override == events.OverrideCommand {
			from = "override by hand"
		}
		if !c.Until.IsZero() {
			from += " until " + moment(c.Until)
		}
		if text != "" {
			text += "; "
		}
		text += from
	}
	return text
}

// span is a duration as people write it: 1m, not 1m0s.
func span(ms int64) string {
	text := (time.Duration(ms) * time.Millisecond).String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-len("0s")]
		}
	}
	return text
}

func moment(t time.Time) string { return t.UTC().Format(time.DateTime) + " UTC" }
