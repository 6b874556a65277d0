package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/backtest"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/history"
	"github.com/weirhq/weir/internal/shards"
)

// historyFlags say which records of a running system are meant, and where to read
// them.
type historyFlags struct {
	dataFlag
	natsFlags
	postgresFlags
	Until string `help:"The moment after the last: RFC 3339, now, or a while ago such as 90m, 24h, 7d." default:"now" placeholder:"TIME"`
	From  string `help:"Where to read what was recorded: the journal has every field, postgres reaches back further; auto is the journal if that reaches back far enough." enum:"auto,journal,postgres" default:"auto"`
}

// span reads which moments are meant.
func (f *historyFlags) span(since string, now time.Time) (s history.Span, err error) {
	now = now.UTC().Truncate(time.Microsecond)
	if s.From, err = parseAgo("since", since, now); err != nil {
		return s, err
	}
	if s.Until, err = parseAgo("until", f.Until, now); err != nil {
		return s, err
	}
	if !s.From.Before(s.Until) {
		return s, fmt.Errorf("--since: want a time before %s, found %q", moment(s.Until), since)
	}
	return s, nil
}

// parseAgo reads a time, or a while back from now.
func parseAgo(flag, text string, now time.Time) (time.Time, error) {
	if text == "now" {
		return now, nil
	}
	if days, ok := strings.CutSuffix(text, "d"); ok {
		if n, err := strconv.Atoi(days); err == nil && n >= 0 && n < 10_000 {
			return now.AddDate(0, 0, -n), nil
		}
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t.UTC(), nil
	}
	return time.Time{}, fmt.Errorf("--%s: want a time such as 2026-12-31T00:00:00Z, or a while ago such as 90m, 24h or 7d, found %q", flag, text)
}

// source opens where a span is to be read from. Whoever asked must call close.
func (f *historyFlags) source(ctx context.Context, span history.Span, warn io.Writer) (s history.Source, closeIt func(), err error) {
	if f.From == "postgres" {
		return f.rows(ctx)
	}
	nc, err := f.connect(ctx, f.dataFlag)
	if err != nil {
		return nil, nil, err
	}
	journal, begins, err := f.journal(ctx, nc, span)
	if err == nil && f.From == "auto" && begins.After(span.From) {
		if s, closeIt, err := f.rows(ctx); err == nil {
			nc.Close()
			return s, closeIt, nil
		}
		fmt.Fprintf(warn, "The journal begins %s; what was before is in Postgres: say --postgres URL.\n", moment(begins))
	}
	if err != nil {
		nc.Close()
		return nil, nil, err
	}
	return journal, nc.Close, nil
}

func (f *historyFlags) rows(ctx context.Context) (history.Source, func(), error) {
	db, err := f.open(ctx, f.dataFlag)
	if err != nil {
		return nil, nil, err
	}
	return &history.Postgres{DB: db}, db.Close, nil
}

// journal finds the journal, and since when it is whole.
func (f *historyFlags) journal(ctx context.Context, nc *nats.Conn, span history.Span) (*history.Journal, time.Time, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, time.Time{}, err
	}
	names := events.Names{Prefix: f.Prefix}
	number, err := shards.Find(ctx, js, names, f.Shards)
	if err != nil {
		return nil, time.Time{}, err
	}
	if number == 0 {
		return nil, time.Time{}, errors.New("history: no limiter has said yet how many shards there are: say --shards N")
	}
	j := &history.Journal{JetStream: js, Names: names, Shards: number}
	begins, err := j.Begins(ctx, span.Tenant)
	return j, begins, err
}

// advise says what to do about a history that has nothing, or too much.
func advise(err error, tenant string, span history.Span) error {
	if several, ok := errors.AsType[*backtest.TenantsError](err); ok {
		return fmt.Errorf("%w: say --tenant", several)
	}
	if !errors.Is(err, backtest.ErrEmpty) {
		return err
	}
	of := ""
	if tenant != "" {
		of = " of tenant " + tenant
	}
	return fmt.Errorf("%w%s from %s until %s: go further back with --since, or see which tenants ask: weir query --from=-7d --by tenant",
		err, of, moment(span.From), moment(span.Until))
}
