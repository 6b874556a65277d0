package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/weirhq/weir/internal/accesslog"
	"github.com/weirhq/weir/internal/backtest"
	"github.com/weirhq/weir/internal/policy"
)

type backtestCommand struct {
	Policy string   `help:"Policy file; default: the built-in policy." env:"WEIR_POLICY" placeholder:"FILE"`
	Tenant string   `help:"Whose requests the logs hold." default:"default"`
	Top    int      `help:"Keys to list of every rule, the most denied first." default:"10"`
	JSON   bool     `help:"Print one JSON object." name:"json"`
	Logs   []string `help:"Access logs, gzipped or not, taken as one; - is standard input." arg:"" name:"log"`
}

// Help explains the columns.
func (*backtestCommand) Help() string {
	return `The requests are decided in the order of the logs' own times, each as if it had just arrived.

KEY is what a rule counts by. BY OTHERS are requests that the rule had room for and another rule denied. HIGHEST USE is the most a key asked for in any one window, denied or not, and LIMIT FOR ALL the least limit that would have denied nobody.`
}

// Run decides the requests of the logs and prints what became of them.
func (c *backtestCommand) Run(ctx context.Context, out console) error {
	if c.Top < 0 {
		return fmt.Errorf("--top: want 0 or more, found %d", c.Top)
	}
	p, err := c.policy()
	if err != nil {
		return err
	}
	b, err := backtest.New(p, c.Tenant)
	if err != nil {
		return err
	}
	for _, path := range c.Logs {
		if err := readLog(ctx, b, path); err != nil {
			return err
		}
	}
	report, err := b.Decide(ctx, c.Top)
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(out.out).Encode(report)
	}
	return report.WriteText(out.out)
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
