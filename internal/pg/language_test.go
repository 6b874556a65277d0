package pg_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/internal/pg"
	"github.com/weirhq/weir/internal/testenv"
)

// mustStoreAttrs stores a request a minute, each with its attrs.
func mustStoreAttrs(t *testing.T, db *pg.DB, list ...string) {
	t.Helper()
	c := mustCursor(t, db)
	var b pg.Batch
	b.Reset(c)
	for i, attrs := range list {
		seq := c.LastSeq + uint64(i) + 1
		r := record("r")
		r.Request.Path, r.Request.Attrs = "/a,\"b\"\n", attrs
		add(t, &b, seq, stored.Add(time.Duration(seq)*time.Minute), r)
	}
	if got, err := db.Commit(t.Context(), &b); err != nil || got.Rows != len(list) {
		t.Fatalf("commit: %+v, %v", got, err)
	}
}

// ask sends a query as JSON, at a time when all rows of the tests are of the
// last hour.
func ask(t *testing.T, db *pg.DB, text string) (*pg.Answer, error) {
	t.Helper()
	q, err := pg.DecodeQuery(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return db.Query(t.Context(), q, stored.Add(50*time.Minute))
}

func TestAttrs(t *testing.T) {
	db, _ := mustMigrated(t)
	mustStoreAttrs(t, db,
		`{"plan":"free","ms":1.5,"addresses":[{"city":"Mumbai","pin":411001},{"city":"Delhi"}]}`,
		`{"plan":"pro","ms":2.5,"addresses":[{"city":"Pune"}],"big":12345678901234567890}`,
		`{"plan":"pro","ms":"slow","addresses":[]}`,
		``)
	for _, tt := range []struct{ query, want string }{
		{`{"where":[{"attr":"addresses[*].city","op":"any_of","value":["Mumbai","Pune"]}]}`, `[{"count":2}]`},
		{`{"where":[{"attr":"addresses[*].city","op":"all_of","value":["Mumbai","Delhi"]}]}`, `[{"count":1}]`},
		{`{"where":[{"attr":"addresses[*]","op":"contains","value":{"city":"Mumbai","pin":411001}}]}`, `[{"count":1}]`},
		{`{"where":[{"col":"attrs","op":"contains","value":{"plan":"pro"}}]}`, `[{"count":2}]`},
		{`{"where":[{"col":"attrs","op":"=","value":null}]}`, `[{"count":1}]`},
		{`{"where":[{"attr":"big","op":"exists"}],"select":["attrs"]}`, `[{"attrs":{"ms":2.5,"big":12345678901234567890,"plan":"pro","addresses":[{"city":"Pune"}]}}]`},
		{`{"where":[{"col":"attrs","op":"jsonpath","value":"$.addresses[*] ? (@.pin > 400000).city ? (@ == \"Mumbai\")"}]}`, `[{"count":1}]`},
		{`{"where":[{"col":"attrs","op":"jsonpath","value":"$.addresses[*].city ? (@ == $c[*])","vars":{"c":["Pune","Mumbai"]}}]}`, `[{"count":2}]`},
		{`{"group_by":["attrs.plan"],"select":["count","avg(attrs.ms)","p50(attrs.ms)","sum(attrs.ms)","distinct(attrs.ms)"]}`,
			`[{"attrs.plan":"pro","count":2,"avg(attrs.ms)":2.5,"p50(attrs.ms)":2.5,"sum(attrs.ms)":2.5,"distinct(attrs.ms)":2},` +
				`{"attrs.plan":"free","count":1,"avg(attrs.ms)":1.5,"p50(attrs.ms)":1.5,"sum(attrs.ms)":1.5,"distinct(attrs.ms)":1},` +
				`{"attrs.plan":null,"count":1,"avg(attrs.ms)":null,"p50(attrs.ms)":null,"sum(attrs.ms)":null,"distinct(attrs.ms)":0}]`},
		{`{"select":["attrs.plan"],"order":["ts"]}`, `[{"attrs.plan":"free"},{"attrs.plan":"pro"},{"attrs.plan":"pro"},{"attrs.plan":null}]`},
	} {
		a, err := ask(t, db, tt.query)
		if err != nil {
			t.Errorf("%s: %v", tt.query, err)
			continue
		}
		if text, err := json.Marshal(a); err != nil || !strings.HasPrefix(string(text), `{"rows":`+tt.want+`,`) {
			t.Errorf("%s:\n%s, %v\nwant\n%s", tt.query, text, err, tt.want)
		}
	}
	for _, tt := range []struct{ query, want string }{
		{`{"where":[{"col":"attrs","op":"jsonpath","value":"$.a[?"},{"col":"path","op":"=","value":"/"},{"col":"rules","op":"jsonpath","value":"a b"}]}`,
			"where[0].value: want a jsonpath such as $.addresses[*] ? (@.city == $city): syntax error at or near \"?\" of jsonpath input, found \"$.a[?\"\n" +
				"where[2].value: want a jsonpath such as"},
		{`{"where":[{"col":"attrs","op":"jsonpath","value":"$.plan ? (@ == $x)","vars":{}}]}`, `query: could not find jsonpath variable "x"`},
		{`{"where":[{"col":"attrs","op":"jsonpath","value":"$.plan ? (@ like_regex \"(\")"}]}`, "where[0].value: want a jsonpath such as"},
		{`{"where":[{"attr":"plan","op":"contains","value":{"a":"\u0000"}}]}`, "query: unsupported Unicode escape sequence"},
		{`{"where":[{"col":"attrs","op":"jsonpath","value":"$ ? (` + strings.Repeat("!(", 15_000) + "@ == 1" + strings.Repeat(")", 15_001) + `"}]}`, "where[0].value: want a jsonpath such as"},
	} {
		_, err := ask(t, db, tt.query)
		if _, ok := errors.AsType[*pg.QueryError](err); !ok || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.100s: %v\nwant %s", tt.query, err, tt.want)
		}
	}
}

func TestNextPageIsNotShiftedByNewRows(t *testing.T) {
	db, _ := mustMigrated(t)
	mustStoreAttrs(t, db, `{"n":1}`, `{"n":2}`, `{"n":3}`, `{"n":4}`)
	const query = `{"select":["attrs.n"],"limit":2,"next":"NEXT"}`
	first, err := ask(t, db, strings.Replace(query, "NEXT", "", 1))
	if err != nil || len(first.Rows) != 2 || first.Next == "" {
		t.Fatalf("first page: %v, %v", first, err)
	}
	mustStoreAttrs(t, db, `{"n":5}`, `{"n":6}`)
	second, err := ask(t, db, strings.Replace(query, "NEXT", first.Next, 1))
	if err != nil || second.Next != "" {
		t.Fatalf("second page: %v, %v", second, err)
	}
	if got := []any{first.Rows[0][0], first.Rows[1][0], second.Rows[0][0], second.Rows[1][0]}; got[0] != "4" || got[1] != "3" || got[2] != "2" || got[3] != "1" {
		t.Errorf("pages %v", got)
	}
	_, err = ask(t, db, `{"select":["attrs.n"],"order":["ts"],"next":"`+first.Next+`"}`)
	if _, ok := errors.AsType[*pg.QueryError](err); !ok {
		t.Errorf("next of another query: %v", err)
	}
}

func TestWaitForRows(t *testing.T) {
	db, conn := mustMigrated(t)
	mustStoreAttrs(t, db, ``)
	var g errgroup.Group
	g.Go(func() error {
		a, err := ask(t, db, `{"wait_for":{"shard":0,"seq":2}}`)
		if err == nil && a.Rows[0][0] != int64(2) {
			return errors.New("answered before the row was there")
		}
		return err
	})
	mustStoreAttrs(t, db, ``)
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	config := pg.DefaultConfig()
	config.URL, config.QueryTimeout = conn.Config().ConnString(), 50*time.Millisecond
	hasty, err := pg.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer hasty.Close()
	for text, want := range map[string]string{
		`{"shard":0,"seq":3}`:                                "not yet stored: shard 0 is at 2, 3 is waited for",
		`[{"shard":0,"seq":2},{"shard":-1,"seq":1}]`:         "not yet stored: outcomes is at 0, 1 is waited for",
		`{"shard":0,"seq":1,"stream":7}`:                     "not yet stored: shard 0 is at 2, 1 is waited for",
		`[{"shard":0,"seq":2,"stream":1700000000000000001}]`: "",
	} {
		_, err := ask(t, hasty, `{"wait_for":`+text+`}`)
		_, notYet := errors.AsType[*pg.NotYetError](err)
		if notYet != (want != "") || err != nil && err.Error() != want {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func TestExplain(t *testing.T) {
	db, conn := mustMigrated(t)
	mustStoreAttrs(t, db, ``)
	mustExec(t, conn, `SET statement_timeout = '1min'`)
	a, err := ask(t, db, `{"where":[{"col":"path","op":"=","value":"secret"}],"explain":true}`)
	if err != nil || len(a.Rows) != 0 || !strings.Contains(a.Explain.SQL, `path = $3::text`) || strings.Contains(a.Explain.SQL, "secret") {
		t.Fatalf("%+v, %v", a, err)
	}
	var plan []struct{ Plan map[string]any }
	if err := json.Unmarshal(a.Explain.Plan, &plan); err != nil || len(plan) != 1 || plan[0].Plan["Node Type"] == nil {
		t.Errorf("plan %s, %v", a.Explain.Plan, err)
	}
	// A page of requests is read from the primary key's end, not sorted.
	a, err = ask(t, db, `{"select":["path"],"explain":true}`)
	if err != nil || !strings.Contains(string(a.Explain.Plan), `"Scan Direction": "Backward"`) {
		t.Errorf("plan %s, %v", a.Explain.Plan, err)
	}
}

func TestQueryWaitsForNoLock(t *testing.T) {
	db, conn := mustMigrated(t)
	mustStoreAttrs(t, db, ``)
	mustExec(t, conn, `BEGIN`)
	mustExec(t, conn, `LOCK TABLE requests`)
	if _, err := ask(t, db, `{}`); !errors.Is(err, pg.ErrQueryLocked) {
		t.Errorf("while the table is locked: %v", err)
	}
}

func TestAnswersAsLines(t *testing.T) {
	db, _ := mustMigrated(t)
	mustStoreAttrs(t, db, `{"n":1}`, ``)
	a, err := ask(t, db, `{"select":["ts","path","attrs","late"],"order":["ts"]}`)
	if err != nil {
		t.Fatal(err)
	}
	var csv, ndjson strings.Builder
	if err := errors.Join(a.WriteCSV(&csv), a.WriteNDJSON(&ndjson)); err != nil {
		t.Fatal(err)
	}
	const wantCSV = "ts,path,attrs,late\n" + `2026-11-23T14:33:25.123456Z,"/a,""b""` + "\n" + `","{""n"": 1}",false` + "\n" + `2026-11-23T14:34:25.123456Z,"/a,""b""` + "\n" + `",,false` + "\n"
	if csv.String() != wantCSV {
		t.Errorf("CSV\n%s\nwant\n%s", &csv, wantCSV)
	}
	const wantNDJSON = `{"ts":"2026-11-23T14:33:25.123456Z","path":"/a,\"b\"\n","attrs":{"n":1},"late":false}` + "\n" +
		`{"ts":"2026-11-23T14:34:25.123456Z","path":"/a,\"b\"\n","attrs":null,"late":false}` + "\n"
	if ndjson.String() != wantNDJSON {
		t.Errorf("NDJSON\n%s\nwant\n%s", &ndjson, wantNDJSON)
	}
}

// TestBucketsWhereClocksAreSet: the night of 25 October 2026 has an hour twice
// in Berlin, at 00:00 and at 01:00 UTC, and its day 25 of them.
func TestBucketsWhereClocksAreSet(t *testing.T) {
	db, _ := mustMigrated(t)
	var b pg.Batch
	b.Reset(mustCursor(t, db))
	for i, at := range []string{"2026-10-24T21:59:00Z", "2026-10-24T22:00:00Z", "2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T22:59:00Z", "2026-10-25T23:00:00Z"} {
		ts, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		add(t, &b, uint64(i+1), ts, record("r"))
	}
	if _, err := db.Commit(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ query, want string }{
		{`{"bucket":"1d","select":["count","rate"],"zone":"Europe/Berlin","from":"2026-10-24T00:00:00Z","to":"2026-10-27T00:00:00Z"}`,
			`[{"bucket":"2026-10-24T00:00:00+02:00","count":1,"rate":0.000012626262626262626},{"bucket":"2026-10-25T00:00:00+02:00","count":4,"rate":0.000044444444444444447},` +
				`{"bucket":"2026-10-26T00:00:00+01:00","count":1,"rate":0.000011574074074074073}]`},
		{`{"bucket":"1h","zone":"Europe/Berlin","from":"2026-10-25T00:00:00Z","to":"2026-10-25T03:00:00Z"}`,
			`[{"bucket":"2026-10-25T02:00:00+02:00","count":1},{"bucket":"2026-10-25T02:00:00+01:00","count":1}]`},
		{`{"bucket":"1h","zone":"Asia/Kolkata","from":"2026-10-25T00:00:00Z","to":"2026-10-25T01:00:00Z"}`, `[{"bucket":"2026-10-25T06:00:00+05:30","count":1}]`},
	} {
		a, err := ask(t, db, tt.query)
		if err != nil {
			t.Errorf("%s: %v", tt.query, err)
			continue
		}
		if text, err := json.Marshal(a); err != nil || !strings.HasPrefix(string(text), `{"rows":`+tt.want+`,`) {
			t.Errorf("%s:\n%s, %v\nwant\n%s", tt.query, text, err, tt.want)
		}
	}
}

// TestQueriesAtOnce: of three connections one is for queries, and whoever comes
// on top waits for it as long as the client does.
func TestQueriesAtOnce(t *testing.T) {
	migrated, conn := mustMigrated(t)
	mustStoreAttrs(t, migrated, ``)
	mustExec(t, conn, `CREATE OR REPLACE VIEW requests_with_outcomes AS SELECT requests.*, ts AS outcome_ts FROM requests, pg_sleep(600)`)
	config := pg.DefaultConfig()
	config.URL, config.MaxConns = conn.Config().ConnString(), 3
	db, err := pg.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx, leave := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error {
		_, err := db.Query(ctx, &pg.Query{}, stored.Add(time.Hour))
		if !errors.Is(err, context.Canceled) {
			return fmt.Errorf("one whose client leaves: %w", err)
		}
		return nil
	})
	testenv.Eventually(t, 20*time.Second, func() error {
		if n := count(t, conn, `pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'`); n != 1 {
			return fmt.Errorf("%d queries run", n)
		}
		return nil
	})
	hasty, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := db.Query(hasty, &pg.Query{}, stored.Add(time.Hour)); !errors.Is(err, pg.ErrQueriesBusy) {
		t.Errorf("one more: %v", err)
	}
	leave()
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}
