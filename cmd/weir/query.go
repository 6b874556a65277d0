package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/pg"
	"github.com/weirhq/weir/internal/shards"
	"github.com/weirhq/weir/internal/writer"
)

type queryCommand struct {
	dataFlag
	natsFlags
	postgresFlags
	File    string   `help:"File with a query as JSON, as POST /v1/query takes it; - for standard input. Other flags replace what it says; --where adds to it." placeholder:"FILE"`
	From    string   `help:"First moment: RFC 3339, or back from now such as -5m, -1h, -7d; default: -1h."`
	To      string   `help:"The moment after the last; default: now."`
	Tenant  string   `help:"Only this tenant's requests."`
	Where   []string `help:"Only requests for which this holds, such as status>=500, 'method in GET,HEAD', 'path prefix /api/' or 'attrs.addresses[*].city any_of Mumbai,Pune'; may be repeated." sep:"none" placeholder:"COND"`
	By      []string `help:"Group by these columns, or paths such as attrs.plan." placeholder:"COLUMN"`
	Bucket  string   `help:"Also group by time, in steps such as 30s, 5m, 1h, 1d."`
	Zone    string   `help:"Time zone of the buckets, such as Asia/Kolkata; default: UTC."`
	Select  []string `help:"What to compute: count, rate, deny_share, or sum, avg, min, max, distinct, p50, p90, p99 of a column as in p99(latency_us); or, of each request, columns; default: count." placeholder:"MEASURE"`
	Order   []string `help:"Order by these outputs, the largest first with a leading minus." placeholder:"OUTPUT"`
	Limit   *int     `help:"Rows at most; default: 100."`
	Next    string   `help:"The rows after those of an answer to the same query, which told this." placeholder:"NEXT"`
	Wait    bool     `help:"Wait until all is stored that the journals hold now."`
	Explain bool     `help:"Print the SQL and Postgres' plan, as JSON, in place of rows."`
	Format  string   `help:"table, json, ndjson or csv." enum:"table,json,ndjson,csv" default:"table"`
	JSON    bool     `help:"Print the answer as JSON: --format=json." name:"json"`
}

// Run asks Postgres and prints the answer.
func (c *queryCommand) Run(ctx context.Context, out console) error {
	q, err := c.query(out.in)
	if err != nil {
		return err
	}
	if c.Wait || q.WaitFor != nil && q.WaitFor.Now {
		if q.WaitFor, err = c.ends(ctx, q.Tenant); err != nil {
			return err
		}
	}
	db, err := c.open(ctx, c.dataFlag)
	if err != nil {
		return err
	}
	defer db.Close()
	answer, err := db.Query(ctx, q, time.Now())
	if err != nil {
		return err
	}
	switch {
	case c.JSON || c.Format == "json" || q.Explain:
		text, err := json.Marshal(answer)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out.out, "%s\n", text)
		return err
	case c.Format == "table":
		err = printTable(out.out, answer)
	case c.Format == "csv":
		err = answer.WriteCSV(out.out)
	default:
		err = answer.WriteNDJSON(out.out)
	}
	if err == nil && answer.Next != "" {
		_, err = fmt.Fprintln(out.err, "There are more: the same with a larger --limit, or with --next="+answer.Next)
	}
	return err
}

// query is what the file and the flags ask.
func (c *queryCommand) query(in io.Reader) (*pg.Query, error) {
	q := new(pg.Query)
	if c.File != "" {
		if c.File != "-" {
			text, err := os.ReadFile(c.File)
			if err != nil {
				return nil, err
			}
			in = bytes.NewReader(text)
		}
		var err error
		if q, err = pg.DecodeQuery(io.LimitReader(in, pg.MaxQuery)); err != nil {
			return nil, fmt.Errorf("%s: %w", c.File, err)
		}
	}
	for _, text := range c.Where {
		condition, err := pg.ParseCondition(text)
		if err != nil {
			return nil, err
		}
		q.Where = append(q.Where, condition)
	}
	for flag, field := range map[*string]*string{&c.From: &q.From, &c.To: &q.To, &c.Tenant: &q.Tenant, &c.Bucket: &q.Bucket, &c.Zone: &q.Zone, &c.Next: &q.Next} {
		if *flag != "" {
			*field = *flag
		}
	}
	for flag, field := range map[*[]string]*[]string{&c.By: &q.GroupBy, &c.Select: &q.Select, &c.Order: &q.Order} {
		if *flag != nil {
			*field = *flag
		}
	}
	if c.Limit != nil {
		q.Limit = c.Limit
	}
	q.Explain = q.Explain || c.Explain
	return q, nil
}

// ends asks how far the journals reach.
func (c *queryCommand) ends(ctx context.Context, tenant string) (*pg.WaitFor, error) {
	nc, err := c.connect(ctx, c.dataFlag)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	names := events.Names{Prefix: c.Prefix}
	n, err := shards.Find(ctx, js, names, c.Shards)
	if err != nil {
		return nil, err
	}
	return writer.Ends(ctx, js, names, n, tenant)
}

func printTable(w io.Writer, a *pg.Answer) error {
	if len(a.Rows) == 0 {
		_, err := fmt.Fprintln(w, "No requests. (They count by when they were stored; --from and --to say when, the last hour otherwise.)")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.Join(a.Columns(), "\t"))
	for _, row := range a.Rows {
		cells := make([]string, len(row))
		for i, v := range row {
			cells[i] = cell(v)
		}
		fmt.Fprintln(t, strings.Join(cells, "\t"))
	}
	return t.Flush()
}

// cell shows one value on one line.
func cell(v any) string {
	switch v := v.(type) {
	case nil:
		return "-"
	case time.Time:
		return v.Format("2006-01-02 15:04:05")
	case float64:
		return fmt.Sprintf("%.4g", v)
	case json.RawMessage:
		return cell(string(v))
	case string:
		return strings.Map(func(r rune) rune {
			if r < ' ' || r == 0x7f {
				return '·' // a stored path must not move the cursor
			}
			return r
		}, v)
	}
	return fmt.Sprint(v)
}
