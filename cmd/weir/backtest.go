package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/weirhq/weir/internal/accesslog"
	"github.com/weirhq/weir/internal/backtest"
	"github.com/weirhq/weir/internal/policy"
)

type backtestCommand struct {
	historyFlags
	Policy string   `help:"Policy file; default: the built-in policy." env:"WEIR_POLICY" placeholder:"FILE"`
	Since  string   `help:"Take what a running system has recorded since this time, RFC 3339 or a while ago such as 24h or 7d, and compare with what it decided." placeholder:"TIME"`
	Tenant string   `help:"Whose requests: the logs hold, default if not said, or were recorded, those of the only tenant if not said."`
	Top    int      `help:"Keys to list of every rule, the most denied first." default:"10"`
	JSON   bool     `help:"Print one JSON object." name:"json"`
	Logs   []string `help:"Access logs, gzipped or not, taken as one; - is standard input." arg:"" optional:"" name:"log"`
}

// Help explains the columns.
func (*backtestCommand) Help() string {
	return `The requests of logs are decided in the order of the logs' own times, each as if it had just arrived. With --since the requests are those that a running system has recorded, in the order in which they were asked; denied ones have asked, too. What was done by hand, resets and overrides of rules that the policy has, is done again: it would have been under another policy. The windows begin with what had been admitted before, as if the policy had been applied at that time.

KEY is what a rule counts by. BY OTHERS are requests that the rule had room for and another rule denied. HIGHEST USE is the most a key asked for in any one window, denied or not, and LIMIT FOR ALL the least limit that would have denied nobody. NEWLY DENIED are requests that were admitted and that this rule has no room for, NEWLY ADMITTED those that were denied and that all rules admit.`
}

// Run decides the requests and prints what became of them.
func (c *backtestCommand) Run(ctx context.Context, out console) error {
	if c.Top < 0 {
		return fmt.Errorf("--top: want 0 or more, found %d", c.Top)
	}
	if (c.Since == "") == (len(c.Logs) == 0) {
		return errors.New("want either access logs, or --since for what a running system has recorded")
	}
	p, err := c.policy()
	if err != nil {
		return err
	}
	decide := c.decideLogs
	if c.Since != "" {
		decide = c.decideHistory
	}
	report, err := decide(ctx, p, out)
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(out.out).Encode(report)
	}
	return report.WriteText(out.out)
}

func (c *backtestCommand) decideLogs(ctx context.Context, p *policy.Policy, _ console) (*backtest.Report, error) {
	b, err := backtest.New(p, cmp.Or(c.Tenant, "default"))
	if err != nil {
		return nil, err
	}
	for _, path := range c.Logs {
		if err := readLog(ctx, b, path); err != nil {
			return nil, err
		}
	}
	return b.Decide(ctx, c.Top)
}

func (c *backtestCommand) decideHistory(ctx context.Context, p *policy.Policy, out console) (*backtest.Report, error) {
	span, err := c.span(c.Since, time.Now())
	if err != nil {
		return nil, err
	}
	b, err := backtest.NewHistory(p, c.Tenant, span.From)
	if err != nil {
		return nil, err
	}
	whole := span
	whole.Tenant, whole.From = c.Tenant, span.From.Add(-p.LongestWindow())
	source, end, err := c.source(ctx, whole, out.err)
	if err != nil {
		return nil, err
	}
	defer end()
	if err := source.Read(ctx, whole, b.Record); err != nil {
		return nil, advise(err, c.Tenant, span)
	}
	report, err := b.Decide(ctx, c.Top)
	if err != nil {
		return nil, advise(err, c.Tenant, span)
	}
	report.Source, report.From, report.Until = source.Name(), span.From, span.Until
	return report, nil
}

func (c *backtestCommand) policy() (*policy.Policy, error) {
	if c.Policy == "" {
		return policy.Default(), nil
	}
	text, err := os.ReadFile(c.Policy)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	p, err := policy.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("policy %s: %w", c.Policy, err)
	}
	return p, nil
}

func readLog(ctx context.Context, b *backtest.Backtest, path string) (err error) {
	log, err := accesslog.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, log.Close()) }()
	return b.Read(ctx, path, log)
}
