package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/weirhq/weir/internal/pg"
)

type queryCommand struct {
	dataFlag
	postgresFlags
	From   string   `help:"First moment: RFC 3339, or back from now such as -5m, -1h, -7d." default:"-1h"`
	To     string   `help:"The moment after the last." default:"now"`
	Tenant string   `help:"Only this tenant's requests."`
	Where  []string `help:"Only requests for which this holds, such as status>=500 or 'method in GET,HEAD'; may be repeated." sep:"none" placeholder:"COND"`
	By     []string `help:"Group by these columns." placeholder:"COLUMN"`
	Bucket string   `help:"Also group by time, in steps such as 30s, 5m, 1h, 1d."`
	Select []string `help:"What to compute: count, deny_share, or sum, avg, min, max, p50, p90, p99 of a column as in p99(latency_us)." default:"count" placeholder:"MEASURE"`
	Order  []string `help:"Order by these outputs, the largest first with a leading minus." placeholder:"OUTPUT"`
	Limit  int      `help:"Rows at most." default:"100"`
	JSON   bool     `help:"Print the answer as JSON." name:"json"`
}

// Run asks Postgres and prints the answer.
func (c *queryCommand) Run(ctx context.Context, out console) error {
	q := pg.Query{From: c.From, To: c.To, Tenant: c.Tenant, GroupBy: c.By, Bucket: c.Bucket, Select: c.Select, Order: c.Order, Limit: &c.Limit}
	for _, text := range c.Where {
		condition, err := pg.ParseCondition(text)
		if err != nil {
			return err
		}
		q.Where = append(q.Where, condition)
	}
	db, err := c.open(ctx, c.dataFlag)
	if err != nil {
		return err
	}
	defer db.Close()
	answer, err := db.Query(ctx, &q, time.Now())
	if err != nil {
		return err
	}
	if c.JSON {
		text, err := json.Marshal(answer)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out.out, "%s\n", text)
		return err
	}
	return printTable(out.out, answer)
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
		return v.UTC().Format("2006-01-02 15:04:05")
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
