package pg

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var now = time.Date(2026, 11, 23, 14, 0, 0, 0, time.UTC)

func mustDecode(t *testing.T, text string) *Query {
	t.Helper()
	q, err := DecodeQuery(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func TestBuild(t *testing.T) {
	s, err := build(mustDecode(t, `{"from":"-1h","to":"now","tenant":"acme","bucket":"5m","group_by":["route"],
		"where":[{"col":"status","op":">=","value":500},{"col":"ip","op":"!=","value":"10.0.0.0/8"},
			{"col":"user_id","op":"in","value":["a","b"]},{"col":"rule","op":"=","value":null}],
		"select":["count","deny_share","p99(latency_us)"],"order":["-count"],"limit":7}`), now)
	if err != nil {
		t.Fatal(err)
	}
	const want = `SELECT date_bin(make_interval(secs => $7::float8), ts, '2001-01-01T00:00:00Z'), route, ` +
		`coalesce(sum(count), 0)::bigint, ` +
		`coalesce(sum(count) FILTER (WHERE verdict = 'deny'), 0)::float8 / sum(count)::float8, ` +
		`percentile_cont(0.99) WITHIN GROUP (ORDER BY latency_us) FROM requests_with_outcomes ` +
		`WHERE ts >= $1::timestamptz AND ts < $2::timestamptz AND count > 0 AND tenant = $3::text AND status >= $4::bigint AND ` +
		`NOT ip <<= $5::inet AND user_id = ANY ($6::text[]) AND rule IS NULL ` +
		`GROUP BY 1, 2 ORDER BY 3 DESC NULLS LAST, 1, 2 LIMIT $8::bigint`
	if s.sql != want {
		t.Errorf("SQL\n%s\nwant\n%s", s.sql, want)
	}
	if got := fmt.Sprint(s.columns); got != "[bucket route count deny_share p99(latency_us)]" {
		t.Errorf("columns %s", got)
	}
}

func TestWrongQueriesAreNamed(t *testing.T) {
	for _, tt := range []struct{ query, want string }{
		{`{"form":"-1h"}`, `query: want a known field; the nearest is from, found "form"`},
		{`{"select":["p99(latency)"]}`, `select[0]: want a column; the nearest is latency_us, found "latency"`},
		{`{"select":["cuont"]}`, `select[0]: want a measure; the nearest is count, found "cuont"`},
		{`{"select":["p95(latency_us)"]}`, `the nearest is p90(col)`},
		{`{"select":["sum(path)"]}`, `want a column of numbers in the brackets`},
		{`{"select":["count","count"]}`, `every output once`},
		{`{"group_by":["rout"]}`, `group_by[0]: want a column; the nearest is route, found "rout"`},
		{`{"where":[{"col":"stauts","op":"=","value":1}]}`, `where[0].col: want a column; the nearest is status, found "stauts"`},
		{`{"where":[{"col":"status","op":"==","value":1}]}`, `where[0].op: want one of = != < <= > >= in; the nearest is =`},
		{`{"where":[{"col":"status","op":"=","value":"500"}]}`, `where[0].value: want a whole number, found "\"500\""`},
		{`{"where":[{"col":"status","op":"in","value":[]}]}`, `where[0].value: want a list of 1 to 1000 values`},
		{`{"where":[{"col":"status","op":"="}]}`, `where[0].value: want a value`},
		{`{"where":[{"col":"status","op":"<","value":null}]}`, `null only with = or !=`},
		{`{"where":[{"col":"ip","op":"=","value":"10.0.0.0/99"}]}`, `an address or a network`},
		{`{"where":[{"col":"id","op":"=","value":"17"}]}`, `an id such as`},
		{`{"where":[{"col":"user_id","op":"=","value":"\u0000"}]}`, `text without NUL`},
		{`{"where":[{"attr":"plan","op":"any_of","value":["x"]}]}`, `where[0].attr: want no attr: this version compares columns only`},
		{`{"order":["-cnt"]}`, `order[0]: want an output of the query; the nearest is count`},
		{`{"limit":0}`, `limit: want 1 to 10000, found "0"`},
		{`{"limit":1.5}`, `limit: want JSON that fits int`},
		{`{"bucket":"5x"}`, `bucket: want a span`},
		{`{"bucket":"4000000000w"}`, `bucket: want a span`},
		{`{"from":"yesterday"}`, `from: want a time (RFC 3339), now, or one back from now`},
		{`{"from":"now","to":"-1h"}`, `from: want a time before to`},
		{`{"tenant":"a.b"}`, `tenant: want`},
		{`{} {}`, `nothing after it`},
		{`[`, `want a JSON object`},
		{`{"limit":0,"bucket":"x","select":["y"]}`, "limit: "},
	} {
		q, err := DecodeQuery(strings.NewReader(tt.query))
		if err == nil {
			_, err = build(q, now)
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v; want %s", tt.query, err, tt.want)
		}
	}
	q := mustDecode(t, `{"limit":0,"bucket":"x","select":["y"]}`)
	if _, err := build(q, now); strings.Count(fmt.Sprint(err), "\n") != 2 {
		t.Errorf("three faults: %v", err)
	}
}

// ownWords is every text that build may put together: names of columns, and
// words that stand in this package.
var ownWords = func() *regexp.Regexp {
	words := append(columnNames(), `SELECT`, `FROM requests_with_outcomes`, `WHERE`, `AND`, `NOT`, `GROUP BY`, `ORDER BY`, `DESC NULLS LAST`, `LIMIT`,
		`IS NULL`, `IS NOT NULL`, `= ANY`, `<<=`, `[=<>]+`, `\$\d+::(text|bigint|boolean|timestamptz|inet|float8)(\[\])?`, `\d+`,
		`date_bin\(make_interval\(secs => `, `'2001-01-01T00:00:00Z'`, `coalesce\(sum\(count\)`, `FILTER \(WHERE verdict = 'deny'\)`,
		`::bigint`, `::float8`, `(sum|avg|min|max|percentile_cont)\(`, `0\.(5|9)(0|9)`, `WITHIN GROUP`, `[(),/]`)
	return regexp.MustCompile(`^(?:(?:` + strings.Join(words, `|`) + `)\s*)+$`)
}()

// Whatever a query holds, its SQL consists of this package's words.
func TestNothingFromAQueryGetsIntoTheSQL(t *testing.T) {
	wild := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{`'; DROP TABLE requests; --`, `"`, `\`, "$1", "count", "status", "null",
		"-count", "+route", "count); --", "sum(cost)", "sum(cost) --", "-1h", "5m", "10.0.0.0/8", "2026-01-01T00:00:00Z", "in", "=", "!=", "<"}))
	mostly := func(right ...string) *rapid.Generator[string] {
		g := rapid.SampledFrom(right)
		return rapid.OneOf(g, g, g, g, g, g, g, wild)
	}
	name := mostly(columnNames()...)
	op := mostly(operatorNames...)
	measure := mostly("count", "deny_share", "sum(cost)", "avg(status)", "p50(latency_us)", "max(count)")
	values := rapid.Custom(func(t *rapid.T) json.RawMessage {
		var v any
		switch rapid.IntRange(0, 4).Draw(t, "kind") {
		case 0:
			v = wild.Draw(t, "text")
		case 1:
			v = rapid.Int().Draw(t, "number")
		case 2:
			v = []int{rapid.Int().Draw(t, "item")}
		case 3:
			v = rapid.SliceOfN(wild, 0, 3).Draw(t, "list")
		}
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	})
	condition := rapid.Custom(func(t *rapid.T) Condition {
		return Condition{Col: name.Draw(t, "col"), Op: op.Draw(t, "op"), Value: values.Draw(t, "value")}
	})
	var built int
	rapid.Check(t, func(t *rapid.T) {
		q := &Query{
			From:    mostly("", "-2h", "2026-01-01T00:00:00Z").Draw(t, "from"),
			To:      mostly("", "now", "-1m").Draw(t, "to"),
			Tenant:  mostly("", "acme").Draw(t, "tenant"),
			Bucket:  mostly("", "5m").Draw(t, "bucket"),
			Where:   rapid.SliceOfN(condition, 0, 2).Draw(t, "where"),
			GroupBy: rapid.SliceOfN(name, 0, 2).Draw(t, "group_by"),
			Select:  rapid.SliceOfN(measure, 0, 2).Draw(t, "select"),
		}
		q.Order = rapid.SliceOfN(mostly(append(q.Select, "-count")...), 0, 1).Draw(t, "order")
		s, err := build(q, now)
		if err != nil {
			return
		}
		built++
		if !ownWords.MatchString(s.sql) {
			t.Fatalf("foreign words in %s", s.sql)
		}
	})
	if built == 0 {
		t.Error("no query was right")
	}
}
