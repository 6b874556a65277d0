package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/weirhq/weir/internal/backtest"
	"github.com/weirhq/weir/internal/events"
)

type suggestCommand struct {
	historyFlags
	Since  string          `help:"Take what was recorded since this time: RFC 3339, or a while ago such as 24h or 7d." default:"24h" placeholder:"TIME"`
	Tenant string          `help:"Whose requests; default: those of the only tenant."`
	By     []string        `help:"What a rule counts by: user, ip, identity, route or any other attribute, or several with commas between; may be repeated." default:"identity" sep:"none" placeholder:"KEY"`
	Window []time.Duration `help:"Length of a limit's window; may be repeated." default:"1s,1m,1h"`
	Share  string          `help:"Share of the keys that may be denied." default:"0.1%"`
	Exempt []string        `help:"Methods that are not limited, such as POST." placeholder:"METHOD"`
	Top    int             `help:"Keys to list of every limit, the most denied first." default:"5"`
	JSON   bool            `help:"Print one JSON object." name:"json" xor:"form"`
	YAML   bool            `help:"Print the policy alone." name:"yaml" xor:"form"`
}

// Help explains the columns.
func (*suggestCommand) Help() string {
	return `For every key the most that it asked for in any one window is found, wherever that begins; denied requests have asked, too. P99 is what 99% of the keys stayed within, and LIMIT the least limit that only the chosen share of the keys exceeded. What it would have denied is decided as the limiter decides, each limit by itself.`
}

// Run finds limits and prints them.
func (c *suggestCommand) Run(ctx context.Context, out console) error {
	if c.Top < 0 {
		return fmt.Errorf("--top: want 0 or more, found %d", c.Top)
	}
	share, err := parseShare(c.Share)
	if err != nil {
		return err
	}
	span, err := c.span(c.Since, time.Now())
	if err != nil {
		return err
	}
	config := backtest.SuggestConfig{
		Tenant: c.Tenant, From: span.From, By: c.By, Windows: c.Window, Share: share, Exempt: c.Exempt, Top: c.Top,
	}
	if err := config.Validate(); err != nil {
		return err
	}
	whole := span
	whole.Tenant = c.Tenant
	for _, w := range c.Window {
		whole.From = earlier(whole.From, span.From.Add(-w))
	}
	source, end, err := c.source(ctx, whole, out.err)
	if err != nil {
		return err
	}
	defer end()
	s, err := backtest.Suggest(ctx, config, func(ctx context.Context, each func(*events.Record) error) error {
		return source.Read(ctx, whole, each)
	})
	if err != nil {
		return advise(err, c.Tenant, span)
	}
	s.Source, s.From, s.Until = source.Name(), span.From, span.Until
	switch {
	case c.JSON:
		return json.NewEncoder(out.out).Encode(s)
	case c.YAML:
		_, err := io.WriteString(out.out, s.Policy)
		return err
	}
	return s.WriteText(out.out)
}

// parseShare reads a share such as 0.1%, or 0.001.
func parseShare(text string) (float64, error) {
	number, percent := strings.CutSuffix(text, "%")
	share, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return 0, fmt.Errorf("--share: want a share such as 0.1%%, found %q", text)
	}
	if percent {
		share /= 100
	}
	return share, nil
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}
