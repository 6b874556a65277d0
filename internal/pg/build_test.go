package pg

import (
	"fmt"
	"strings"
	"testing"
	"time"
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
	const want = `SELECT * FROM (SELECT date_bin(make_interval(secs => $7::float8), ts, '2001-01-01T00:00:00Z'), route, ` +
		`coalesce(sum(count), 0)::bigint, ` +
		`coalesce(sum(count) FILTER (WHERE verdict = 'deny'), 0)::float8 / sum(count)::float8, ` +
		`percentile_cont($8::float8) WITHIN GROUP (ORDER BY latency_us)::float8 FROM requests_with_outcomes ` +
		`WHERE ts >= $1::timestamptz AND ts < $2::timestamptz AND count > 0 AND tenant = $3::text AND status >= $4::bigint AND ` +
		`NOT ip <<= $5::inet AND user_id = ANY ($6::text[]) AND rule IS NULL ` +
		`GROUP BY 1, 2) AS q (c1, c2, c3, c4, c5) ORDER BY c3 DESC NULLS LAST, c1, c2 LIMIT $9::bigint`
	if s.sql != want {
		t.Errorf("SQL\n%s\nwant\n%s", s.sql, want)
	}
	if got := fmt.Sprint((&Answer{outputs: s.outputs}).Columns()); got != "[bucket route count deny_share p99(latency_us)]" {
		t.Errorf("columns %s", got)
	}
}

func TestTenantsOfWhoeverAsks(t *testing.T) {
	for _, text := range []string{`{}`, `{"tenant":"other"}`, `{"where":[{"col":"tenant","op":"!=","value":"acme"}]}`, `{"select":["tenant"]}`} {
		q := mustDecode(t, text)
		q.Tenants = []string{"acme"}
		s, err := build(q, now)
		if err != nil || !strings.Contains(s.sql, ` AND count > 0 AND tenant = ANY ($3::text[])`) || fmt.Sprint(s.args[2]) != "[acme]" {
			t.Errorf("%s: %v, %v", text, s, err)
		}
	}
	if _, err := DecodeQuery(strings.NewReader(`{"Tenants":["acme"]}`)); err == nil {
		t.Error("a query says itself what it may")
	}
}

func TestWrongQueriesAreNamed(t *testing.T) {
	for _, tt := range []struct{ query, want string }{
		{`{"form":"-1h"}`, `query: want a known field; the nearest is from, found "form"`},
		{`{"select":["p99(latency)"]}`, `select[0]: want a column; the nearest is latency_us, found "latency"`},
		{`{"select":["cuont"]}`, `select[0]: want a measure; the nearest is count, found "cuont"`},
		{`{"select":["p100(latency_us)"]}`, `the nearest is p50(x)`},
		{`{"select":["summ(cost)"]}`, `want a measure; the nearest is sum(x)`},
		{`{"select":["ts","rate"]}`, `select[1]: want a column, as others are selected`},
		{`{"select":["path"],"group_by":["route"]}`, `select[0]: want a measure: a column goes into group_by`},
		{`{"select":["max(path)"]}`, `want a column of numbers in the brackets`},
		{`{"select":["sum(attrs.)"]}`, `select[0]: want a path into attrs such as plan, address.city`},
		{`{"group_by":["attrs.tags[*]"]}`, `group_by[0]: want a path without [*]`},
		{`{"group_by":["attrs.a..b"]}`, `group_by[0]: want a path into attrs`},
		{`{"zone":"Asia/Kolkata"}`, `zone: want a bucket too`},
		{`{"bucket":"1d","zone":"Asia/Calcuttta"}`, `zone: want a time zone such as Asia/Kolkata, found "Asia/Calcuttta"`},
		{`{"bucket":"1d","zone":"Local"}`, `zone: want a time zone`},
		{`{"next":"x"}`, `next: want what the answer to the same query gave as next`},
		{`{"wait_for":"then"}`, `wait_for: want "now", or positions such as {"shard":0,"seq":1234}`},
		{`{"wait_for":{"shard":100,"seq":1}}`, `wait_for.shard: want 0 to 99, or -1 for outcomes`},
		{`{"select":["sum(path)"]}`, `want a column of numbers in the brackets`},
		{`{"select":["count","count"]}`, `every output once`},
		{`{"group_by":["rout"]}`, `group_by[0]: want a column; the nearest is route, found "rout"`},
		{`{"where":[{"col":"stauts","op":"=","value":1}]}`, `where[0].col: want a column; the nearest is status, found "stauts"`},
		{`{"where":[{"col":"status","op":"==","value":1}]}`, `where[0].op: want for status one of =, !=, <, <=, >, >=, in, not in; the nearest is =`},
		{`{"where":[{"col":"status","op":"=","value":"500"}]}`, `where[0].value: want a whole number, found "\"500\""`},
		{`{"where":[{"col":"status","op":"in","value":[]}]}`, `where[0].value: want a list of 1 to 1000 values`},
		{`{"where":[{"col":"status","op":"="}]}`, `where[0].value: want a value`},
		{`{"where":[{"col":"status","op":"<","value":null}]}`, `null only with = or !=`},
		{`{"where":[{"col":"ip","op":"=","value":"10.0.0.0/99"}]}`, `an address or a network`},
		{`{"where":[{"col":"id","op":"=","value":"17"}]}`, `an id such as`},
		{`{"where":[{"col":"user_id","op":"=","value":"\u0000"}]}`, `text without NUL`},
		{`{"where":[{"col":"status","op":"prefix","value":"5"}]}`, `where[0].op: want for status one of`},
		{`{"where":[{"col":"path","op":"not in","value":["a",7]}]}`, `where[0].value[1]: want a string, found "7"`},
		{`{"where":[{"col":"attrs","op":"=","value":{}}]}`, `null; contains looks into attrs`},
		{`{"where":[{"col":"attrs","op":"jsonpath","value":"$.a","vars":[]}]}`, `where[0].vars: want an object such as`},
		{`{"where":[{"col":"path","op":"=","value":"/","vars":{}}]}`, `where[0].vars: want no vars but with jsonpath`},
		{`{"where":[{"col":"path","attr":"plan","op":"=","value":"x"}]}`, `where[0].col: want col or attr, not both`},
		{`{"where":[{"attr":"plan","op":"in","value":["x"]}]}`, `where[0].op: want for attr one of =, !=, <, <=, >, >=, any_of`},
		{`{"where":[{"attr":"plan","op":"any_of","value":"x"}]}`, `where[0].value: want a list of 1 to 1000 values`},
		{`{"where":[{"attr":"plan","op":"=","value":{"a":1}}]}`, `contains takes objects and lists`},
		{`{"where":[{"attr":"plan","op":"=","value":1e999}]}`, `a float64 can hold`},
		{`{"where":[{"attr":"plan","op":"<","value":true}]}`, `a string or a number`},
		{`{"where":[{"attr":"plan","op":"prefix","value":1}]}`, `where[0].value: want a string`},
		{`{"where":[{"attr":"plan","op":"exists","value":1}]}`, `true, false or nothing`},
		{`{"where":[{"attr":"a[0]","op":"exists"}]}`, `where[0].attr: want a path into attrs`},
		{`{"where":[{"attr":"plan","op":"=","value":"\u0000"}]}`, `text without NUL`},
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
