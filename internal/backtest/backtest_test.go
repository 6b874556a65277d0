package backtest_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"pgregory.net/rapid"

	"github.com/weirhq/weir/internal/backtest"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/policy"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// failer is a test, a benchmark or a property under test.
type failer interface {
	rapid.TB
	Context() context.Context
}

// parse reads a policy of the given rules for every tenant.
func parse(t failer, rules ...string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse([]byte("version: 1\ntenants:\n  \"*\":\n    rules:\n      - " + strings.Join(rules, "\n      - ") + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func begin(t failer, p *policy.Policy) *backtest.Backtest {
	t.Helper()
	b, err := backtest.New(p, "acme")
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// run decides logs, which are called log-0, log-1 and so on.
func run(t failer, p *policy.Policy, top int, logs ...string) *backtest.Report {
	t.Helper()
	b := begin(t, p)
	for i, log := range logs {
		if err := b.Read(t.Context(), fmt.Sprintf("log-%d", i), strings.NewReader(log)); err != nil {
			t.Fatal(err)
		}
	}
	report, err := b.Decide(t.Context(), top)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// line is a line of a log, of a request some seconds after noon.
func line(second int, ip, request string) string {
	return fmt.Sprintf("%s - - [%s] \"%s HTTP/1.1\" 200 1\n", ip, at(second).Format("02/Jan/2006:15:04:05 -0700"), request)
}

func at(second int) time.Time { return noon.Add(time.Duration(second) * time.Second) }

var twoRules = []string{
	"{ name: client, limit: 2 per 10s, key: [ip], exempt: { methods: [POST] }, match: { paths: [\"/api/**\"] } }",
	"{ name: path, limit: 3/min, key: [path], match: { paths: [\"/api/**\"] }, exempt: { methods: [POST] } }",
}

const (
	one, two = "192.0.2.1", "192.0.2.2"
	a, b     = "GET /api/a", "GET /api/b"
)

var twoLogs = []string{
	line(3, one, a) + "not a line\n" + line(1, one, a) + line(2, one, b) + line(11, one, a),
	line(12, two, a) + line(0, two, "GET /") + line(5, two, "POST /api/a") + line(13, two, b),
}

func TestReport(t *testing.T) {
	got := run(t, parse(t, twoRules...), 10, twoLogs...)
	want := &backtest.Report{
		Tenant: "acme", First: at(0), Last: at(13), Requests: 8, BadLines: 1,
		Admitted: 5, Denied: 1, Exempt: 1, NoRule: 1,
		Rules: []backtest.Rule{{
			Tenant: "acme", Rule: "client", Limit: 2, WindowMS: 10_000,
			Admitted: 5, Denied: 1, Keys: 2, KeysDenied: 1, LimitForAll: 3,
			Top: []backtest.Key{
				{Key: one, Admitted: 3, Denied: 1, FirstDenied: at(3), LastDenied: at(3), HighestUse: 3},
				{Key: two, Admitted: 2, HighestUse: 2},
			},
		}, {
			Tenant: "acme", Rule: "path", Limit: 3, WindowMS: 60_000,
			Admitted: 5, DeniedByOthers: 1, Keys: 2, LimitForAll: 4,
			Top: []backtest.Key{
				{Key: "/api/a", Admitted: 3, DeniedByOthers: 1, HighestUse: 4},
				{Key: "/api/b", Admitted: 2, HighestUse: 2},
			},
		}},
		Bad: []backtest.BadLine{{Log: "log-0", Line: 2, Text: "not a line",
			Error: `time: want a time such as [17/May/2015:10:05:03 +0000] after the user, found "line"`}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// Of requests at one instant the one that was read first goes first.
func TestEqualTimes(t *testing.T) {
	p := parse(t, "{ name: all, limit: 1/min, key: [method] }", "{ name: client, limit: 9/min, key: [ip] }")
	got := run(t, p, 2, line(0, two, a)+line(0, one, a), line(0, one, b))
	for _, key := range got.Rules[1].Top {
		if wasFirst := key.Key == two; (key.Admitted > 0) != wasFirst {
			t.Errorf("key %s: %d admitted", key.Key, key.Admitted)
		}
	}
}

// A client that two rules count is two keys.
func TestRulesWithEqualKeys(t *testing.T) {
	p := parse(t, "{ name: reads, limit: 1/min, key: [ip], match: { methods: [GET] } }",
		"{ name: writes, limit: 1/min, key: [ip], match: { methods: [POST] } }")
	got := run(t, p, 1, line(0, one, "GET /")+line(1, one, "POST /")+line(2, one, "POST /"))
	if reads, writes := got.Rules[0], got.Rules[1]; reads.Admitted != 1 || reads.Denied != 0 || writes.Admitted != 1 || writes.Denied != 1 {
		t.Errorf("%+v", got)
	}
}

func TestTenantsOwnRules(t *testing.T) {
	p, err := policy.Parse([]byte(`{version: 1, tenants: {"*": {rules: [{name: everybody, limit: 1/s, key: [ip]}]}, acme: {rules: []}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if got := run(t, p, 1, line(0, one, a)); got.NoRule != 1 || len(got.Rules) != 0 {
		t.Errorf("%+v", got)
	}
	if _, err := backtest.New(p, "no.token"); err == nil {
		t.Error("no error")
	}
}

// The names that scripts read.
func TestJSON(t *testing.T) {
	text, err := json.Marshal(run(t, parse(t, twoRules...), 1, twoLogs...))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"tenant":"acme","first":"2026-03-01T12:00:00Z","last":"2026-03-01T12:00:13Z","requests":8,"bad_lines":1,` +
		`"admitted":5,"denied":1,"exempt":1,"no_rule":1,"rules":[` +
		`{"tenant":"acme","rule":"client","limit":2,"window_ms":10000,"admitted":5,"denied":1,"denied_by_others":0,` +
		`"keys":2,"keys_denied":1,"limit_for_all":3,"top":[{"key":"192.0.2.1","admitted":3,"denied":1,"denied_by_others":0,` +
		`"first_denied":"2026-03-01T12:00:03Z","last_denied":"2026-03-01T12:00:03Z","highest_use":3}]},` +
		`{"tenant":"acme","rule":"path","limit":3,"window_ms":60000,"admitted":5,"denied":0,"denied_by_others":1,` +
		`"keys":2,"keys_denied":0,"limit_for_all":4,"top":[{"key":"/api/a","admitted":3,"denied":0,"denied_by_others":1,` +
		`"highest_use":4}]}],"bad":[{"log":"log-0","line":2,"text":"not a line",` +
		`"error":"time: want a time such as [17/May/2015:10:05:03 +0000] after the user, found \"line\""}]}`
	if string(text) != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	text, err = json.Marshal(run(t, parse(t, "{ name: r, limit: 1/s, key: [user] }"), 0, line(0, one, a)))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), `"top":[]`) || !strings.HasSuffix(string(text), `"bad":[]}`) {
		t.Errorf("lists without entries: %s", text)
	}
}

func TestBadLinesAreBounded(t *testing.T) {
	got := run(t, parse(t, twoRules...), 1, strings.Repeat("?\n", 25), line(0, one, a)+"?\n")
	if got.BadLines != 26 || len(got.Bad) != 10 || got.Bad[9].Line != 10 || got.Requests != 1 {
		t.Errorf("%+v", got)
	}
}

func TestFailures(t *testing.T) {
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	for i := range 100 {
		if _, err := io.WriteString(w, line(i, one, a)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		log  io.Reader
		want string
	}{
		"a broken reader":  {iotest.ErrReader(errors.New("disk on fire")), "x.log: disk on fire"},
		"a cut gzip":       {bytes.NewReader(zipped.Bytes()[:zipped.Len()/2]), "x.log: "},
		"nothing":          {strings.NewReader(""), "no request to decide: the logs are empty"},
		"blank lines":      {strings.NewReader("\n\n"), "no request to decide: the logs are empty"},
		"no readable line": {strings.NewReader("a\nb\n"), "no request to decide: none of 2 lines can be read, the first is x.log:1: line: want"},
	} {
		b := begin(t, policy.Default())
		err := b.Read(t.Context(), "x.log", tt.log)
		if err == nil {
			_, err = b.Decide(t.Context(), 1)
		}
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %s…", name, err, tt.want)
		}
	}
	b := begin(t, policy.Default())
	if err := b.Read(t.Context(), "whole", &zipped); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Read(ctx, "x.log", strings.NewReader(line(0, one, a))); !errors.Is(err, context.Canceled) {
		t.Errorf("reading after the end of its context: %v", err)
	}
	if _, err := b.Decide(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("deciding after the end of its context: %v", err)
	}
}

// What a request takes does not grow with its line, nor what a client takes.
func TestMemory(t *testing.T) {
	heap := func() int {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	p, long := parse(t, "{ name: user, limit: 10/min, key: [user], exempt: { methods: [POST] } }"), strings.Repeat("x", 2000)
	for _, tt := range []struct{ requests, users, most int }{
		{50_000, 100, 64}, // 16, what the list has in reserve, and the users
		{10_000, 10_000, 1000},
	} {
		before, b := heap(), begin(t, p)
		for i := range tt.requests {
			line := fmt.Sprintf("%08d /%s%d", i%tt.users, long, i)
			r := events.Request{Time: at(i), User: line[:8], Method: "GET", Path: line[9:]}
			if err := b.Add(&r); err != nil {
				t.Fatal(err)
			}
		}
		if each := (heap() - before) / tt.requests; each > tt.most {
			t.Errorf("%d requests of %d users: %d bytes each, want at most %d", tt.requests, tt.users, each, tt.most)
		}
		if _, err := b.Decide(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
	}
}

func client(n int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
}

// A log like a real one: most requests of few clients, times a little out of
// order, long lines.
func madeLog(lines int) string {
	var log strings.Builder
	random := rand.New(rand.NewPCG(1, 2))
	for i := range lines {
		ip := client(int(1000 * random.Float64() * random.Float64() * random.Float64()))
		log.WriteString(strings.TrimSuffix(line(i/3+random.IntN(60), ip.String(), fmt.Sprintf("GET /articles/%d", random.IntN(500))), "\n"))
		log.WriteString(" \"https://example.com/where/it/came/from\" \"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/126.0 Safari/537.36\"\n")
	}
	return log.String()
}

func BenchmarkBacktest(b *testing.B) {
	const lines = 10_000
	log := madeLog(lines)
	for name, rules := range map[string][]string{
		"one-rule":  {"{ name: client, limit: 10/min, key: [ip], exempt: { methods: [POST] } }"},
		"two-rules": {"{ name: client, limit: 10/min, key: [ip] }", "{ name: path, limit: 100/hour, key: [path, attrs.user_agent] }"},
	} {
		p := parse(b, rules...)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(log)))
			for b.Loop() {
				if got := run(b, p, 10, log); got.Requests != lines {
					b.Fatalf("%d requests", got.Requests)
				}
			}
			b.ReportMetric(lines*float64(b.N)/b.Elapsed().Seconds(), "lines/s")
		})
	}
}

// The part that is not reading: what a million requests take to be decided.
func BenchmarkDecide(b *testing.B) {
	const requests = 1_000_000
	p := parse(b, "{ name: client, limit: 10/min, key: [ip] }")
	random := rand.New(rand.NewPCG(1, 2))
	for b.Loop() {
		b.StopTimer()
		test := begin(b, p)
		for i := range requests {
			r := events.Request{Time: at(i/100 + random.IntN(60)), IP: client(random.IntN(100_000)), Method: "GET"}
			if err := test.Add(&r); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		if _, err := test.Decide(b.Context(), 10); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(requests*float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}
