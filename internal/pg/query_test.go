package pg_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/pg"
)

func TestQuery(t *testing.T) {
	db, _ := mustMigrated(t)
	var b pg.Batch
	b.Reset(mustCursor(t, db))
	for seq := range uint64(20) {
		r := record("x")
		r.Request.IP = netip.AddrFrom4([4]byte{10, 0, byte(seq % 2), 1})
		r.Request.Route = []string{"/a", "/b"}[seq%2]
		r.Request.LatencyUS = int64(seq+1) * 100
		if seq%5 == 0 {
			r.Decision.Verdict, r.Request.Count = events.Deny, 3
		}
		add(t, &b, seq+1, stored.Add(time.Duration(seq)*time.Minute), r)
	}
	// What was done by hand is no request, also where there is nothing else.
	add(t, &b, 21, stored.Add(30*time.Minute), events.Record{Control: &events.Control{Kind: events.ControlReset, ID: "c", Tenant: "acme", Rule: "r", Key: "42", By: "ann", At: stored}})
	if _, err := db.Commit(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ query, want string }{
		{`{}`, `[{"count":28}]`},
		{`{"tenant":"other"}`, `[{"count":0}]`},
		{`{"select":["sum(cost)","deny_share","min(latency_us)","max(latency_us)","avg(latency_us)","p50(latency_us)"]}`,
			`[{"sum(cost)":20,"deny_share":0.42857142857142855,"min(latency_us)":100,"max(latency_us)":2000,"avg(latency_us)":1050,"p50(latency_us)":1050}]`},
		{`{"group_by":["route"],"where":[{"col":"ip","op":"=","value":"10.0.0.0/24"}]}`, `[{"route":"/a","count":14}]`},
		{`{"group_by":["ip"],"order":["+ip"]}`, `[{"ip":"10.0.0.1","count":14},{"ip":"10.0.1.1","count":14}]`},
		{`{"bucket":"10m","group_by":["verdict"],"limit":3}`, `[{"bucket":"2026-11-23T14:30:00Z","verdict":"allow","count":6},` +
			`{"bucket":"2026-11-23T14:30:00Z","verdict":"deny","count":6},{"bucket":"2026-11-23T14:40:00Z","verdict":"allow","count":8}]`},
		{`{"where":[{"col":"latency_us","op":"in","value":[100,200,7]},{"col":"degraded","op":"=","value":false}]}`, `[{"count":4}]`},
		{`{"where":[{"col":"user_id","op":"=","value":null},{"col":"occurred_at","op":"=","value":null}]}`, `[{"count":28}]`},
		{`{"where":[{"col":"id","op":"=","value":"AO3272652345-000001000"}],"group_by":["id"]}`, `[{"id":"AO3272652345-000001000","count":3}]`},
		{`{"from":"2026-11-23T14:32:26Z","to":"2026-11-23T14:33:26Z"}`, `[{"count":1}]`},
		{`{"where":[{"col":"path","op":"!=","value":"x"}]}`, `[{"count":0}]`},
		{`{"where":[{"col":"reason","op":"=","value":"reset"}],"group_by":["rule"],"select":["deny_share"]}`, `[]`},
		{`{"select":["rate","distinct(ip)","min(ts)","p25(latency_us)"],"from":"2026-11-23T14:00:00Z","to":"2026-11-23T15:00:00Z"}`,
			`[{"rate":0.0077777777777777776,"distinct(ip)":2,"min(ts)":"2026-11-23T14:32:25.123456Z","p25(latency_us)":575}]`},
		{`{"bucket":"1h","zone":"Asia/Kolkata","select":["count","rate"],"from":"2026-11-23T14:32:00Z","to":"2026-11-23T14:42:00Z"}`,
			`[{"bucket":"2026-11-23T20:00:00+05:30","count":14,"rate":0.023333333333333334}]`},
		{`{"bucket":"1d","zone":"Asia/Kolkata","select":["count"]}`, `[{"bucket":"2026-11-23T00:00:00+05:30","count":28}]`},
		{`{"where":[{"col":"ip","op":"in","value":["10.0.1.0/24","10.9.0.0/16"]}],"group_by":["route"]}`, `[{"route":"/b","count":14}]`},
		{`{"where":[{"col":"ip","op":"not in","value":["10.0.1.0/24","10.9.0.0/16"]}],"group_by":["route"]}`, `[{"route":"/a","count":14}]`},
		{`{"where":[{"col":"route","op":"prefix","value":"/a"},{"col":"verdict","op":"not in","value":["deny"]}]}`, `[{"count":8}]`},
		{`{"select":["ts","route","count","latency_us"],"limit":2}`, `[{"ts":"2026-11-23T14:51:25.123456Z","route":"/b","count":1,"latency_us":2000},` +
			`{"ts":"2026-11-23T14:50:25.123456Z","route":"/a","count":1,"latency_us":1900}]`},
		{`{"select":["id","ip"],"order":["ip"],"limit":1}`, `[{"id":"AO3272652345-000001000","ip":"10.0.0.1"}]`},
	} {
		q, err := pg.DecodeQuery(strings.NewReader(tt.query))
		if err != nil {
			t.Fatal(err)
		}
		a, err := db.Query(t.Context(), q, stored.Add(30*time.Minute))
		if err != nil {
			t.Errorf("%s: %v", tt.query, err)
			continue
		}
		text, err := json.Marshal(a)
		if err != nil || !strings.HasPrefix(string(text), `{"rows":`+tt.want+`,"source":"rows","as_of":"2`) {
			t.Errorf("%s:\n%s, %v\nwant\n%s", tt.query, text, err, tt.want)
		}
	}
}

func TestSlowQueryIsEnded(t *testing.T) {
	writer, conn := mustMigrated(t)
	var b pg.Batch
	b.Reset(mustCursor(t, writer))
	add(t, &b, 1, stored, record("a"))
	if _, err := writer.Commit(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	config := pg.DefaultConfig()
	config.URL, config.QueryTimeout = conn.Config().ConnString(), 20*time.Millisecond
	db, err := pg.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	mustExec(t, conn, `CREATE OR REPLACE VIEW requests_with_outcomes AS SELECT requests.*, ts AS outcome_ts FROM requests, pg_sleep(5)`)
	_, err = db.Query(t.Context(), &pg.Query{}, stored.Add(time.Minute))
	if !errors.Is(err, pg.ErrQueryTimeout) {
		t.Errorf("slow query: %v", err)
	}
}
