package history_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap/zaptest"

	"github.com/weirhq/weir/internal/backtest"
	"github.com/weirhq/weir/internal/decide"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/history"
	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/pg"
	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/testenv"
	"github.com/weirhq/weir/internal/window"
	"github.com/weirhq/weir/internal/writer"
)

var names = events.Names{Prefix: "weir"}

// env is a journal of one shard and what decides into it.
type env struct {
	testing.TB
	source   *history.Journal
	appender *journal.Appender
	decider  *decide.Decider
	random   *rand.Rand
	now      time.Time // of the next block
	records  int
	denied   *events.Request // of the last block, one that had no room: its gateway denies what is like it
}

const rules = `version: 1
tenants:
  "*":
    rules:
      - { name: user, limit: %d per 10s, key: [user] }
      - { name: writes, limit: 3 per 10s, key: [ip/24, route], match: { methods: [POST] } }
      - { name: plan, limit: 20 per 10s, key: [attrs.plan], mode: shadow }
`

func parse(tb testing.TB, limit int) *policy.Policy {
	tb.Helper()
	p, err := policy.Parse(fmt.Appendf(nil, rules, limit))
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

func newEnv(tb testing.TB) *env {
	tb.Helper()
	js, err := jetstream.New(testenv.Connect(tb, testenv.NATS(tb)))
	if err != nil {
		tb.Fatal(err)
	}
	j, err := journal.Create(tb.Context(), js, journal.Config{Names: names})
	if err != nil {
		tb.Fatal(err)
	}
	e := &env{TB: tb, source: &history.Journal{JetStream: js, Names: names, Shards: 1}, random: rand.New(rand.NewPCG(1, 2)),
		decider: decide.New(parse(tb, 5), window.NewMemory()), now: time.Now().UTC().Truncate(time.Second)}
	if e.appender, err = j.Appender(0, func(err error) { tb.Logf("append: %v", err) }); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(e.appender.Close)
	return e
}

func (e *env) append(records []events.Record) {
	e.Helper()
	var body []byte
	for i := range records {
		body = append(events.AppendRecord(body, &records[i]), '\n')
	}
	if _, err := e.appender.Append(e.Context(), body, len(records), 0); err != nil {
		e.Fatal(err)
	}
}

// block appends a block of what is decided of the requests of some users.
func (e *env) block(requests, users int) {
	e.Helper()
	records := make([]events.Record, requests)
	for i := range records {
		r := &records[i]
		user := e.random.IntN(users)
		r.Request = events.Request{ID: fmt.Sprint("r", e.records), Tenant: "acme", Gateway: "g", User: fmt.Sprint("u", user),
			IP: netip.AddrFrom4([4]byte{10, 0, byte(user), 1}), Method: []string{"GET", "POST"}[e.random.IntN(2)],
			Path: "/api/orders", Route: "/api/{what}", Time: e.now.Add(-time.Millisecond),
			Attrs: []string{"", `{"plan":"free"}`, `{"n": [1, 2], "plan": "paid"}`}[e.random.IntN(3)]}
		switch e.random.IntN(20) {
		case 0:
			r.Request.Cost = 3
		case 1:
			r.Request.Peek = true
		case 2:
			r.Request.Tenant = "other"
		case 3:
			if e.denied != nil {
				r.Request.User, r.Request.IP, r.Request.Method = e.denied.User, e.denied.IP, "GET"
				r.Request.Time, r.Request.Rule, r.Request.Count = e.now.Add(-time.Second), "user", 4
				r.Request.Verdict, r.Request.Reason = events.Deny, events.ReasonLocal
				e.decider.Report(r, false)
				e.records++
				continue
			}
		}
		e.records++
		e.decider.Check(r)
	}
	if err := e.decider.Decide(e.Context(), e.now); err != nil {
		e.Fatal(err)
	}
	e.append(records)
	e.denied = nil
	for i := range records {
		if d := &records[i].Decision; d.Verdict == events.Deny && d.Rule == "user" && records[i].Request.Units() == 1 && records[i].Request.Tenant == "acme" {
			e.denied = &records[i].Request
		}
	}
	e.now = e.now.Add(time.Second)
}

// override gives a user another limit for a minute.
func (e *env) override(user string, limit int64) {
	e.Helper()
	c := events.Control{Kind: events.ControlOverride, ID: "c" + user, Tenant: "acme", Rule: "user", Key: user, By: "ann", At: e.now,
		Limit: limit, WindowMS: 10_000, Until: e.now.Add(time.Minute)}
	if err := e.decider.Apply(e.Context(), &c); err != nil {
		e.Fatal(err)
	}
	e.append([]events.Record{{Control: &c}})
	if limit == 100 {
		e.appender.Overrides(e.appender.Last())
	}
}

// write stores what the journal holds, and returns where.
func (e *env) write(t *testing.T) *history.Postgres {
	t.Helper()
	config := pg.DefaultConfig()
	config.URL = testenv.Postgres(t)
	db, err := pg.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	if err := db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	w := writer.New(writer.DefaultConfig(), writer.Parts{DB: db, JetStream: e.source.JetStream, Log: zaptest.NewLogger(t), Metrics: prometheus.NewRegistry()})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	testenv.Eventually(t, time.Minute, func() error {
		c, _, err := db.Cursor(t.Context(), 0)
		if err == nil && c.LastSeq < e.appender.Last() {
			err = fmt.Errorf("stored up to block %d", c.LastSeq)
		}
		return err
	})
	return &history.Postgres{DB: db}
}

func run(tb testing.TB, s history.Source, p *policy.Policy, span history.Span, from time.Time) *backtest.Report {
	tb.Helper()
	b, err := backtest.NewHistory(p, span.Tenant, from)
	if err != nil {
		tb.Fatal(err)
	}
	if err := s.Read(tb.Context(), span, b.Record); err != nil {
		tb.Fatal(err)
	}
	r, err := b.Decide(tb.Context(), 100)
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// Both sources tell the same, what was done by hand before the span included: the
// policy that decided changes nothing, and another one changes the same.
func TestSources(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.override("u1", 100)
	began := e.now
	for range 40 {
		e.block(60, 20)
	}
	rows := e.write(t)
	from := began.Add(20 * time.Second)
	span := history.Span{Tenant: "acme", From: from.Add(-10 * time.Second), Until: began.Add(35 * time.Second)}
	var seen [2]*backtest.Report
	for i, s := range []history.Source{e.source, rows} {
		same := run(t, s, parse(t, 5), span, from)
		if same.NewlyDenied+same.NewlyAdmitted != 0 || same.Same < 15*50 || same.Denied == 0 || same.First != from || same.Last != span.Until.Add(-time.Second) {
			t.Errorf("%s: %+v", s.Name(), same.History)
			for _, k := range same.Rules[0].Changed {
				t.Logf("%+v %+v", k, k.Changes)
			}
		}
		seen[i] = run(t, s, parse(t, 4), span, from)
	}
	a, err := json.Marshal(seen[0])
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(seen[1])
	if err != nil {
		t.Fatal(err)
	}
	if string(a) != string(b) || seen[0].NewlyDenied == 0 {
		t.Errorf("journal  %s\npostgres %s", a, b)
	}
}

// A record says in Postgres what it says in the journal, but for what a row does
// not hold.
func TestRecords(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.override("u1", 100)
	began := e.now
	for range 5 {
		e.block(30, 10)
	}
	rows := e.write(t)
	all := history.Span{From: began.Add(-time.Hour), Until: began.Add(time.Hour)}
	read := func(s history.Source) (list []events.Record) {
		err := s.Read(t.Context(), all, func(r *events.Record) error {
			c := *r
			if c.Control != nil {
				c.Control.Block = 0
			}
			c.Request.Attrs = strings.ReplaceAll(c.Request.Attrs, " ", "")
			c.Request.Cost, c.Request.Count = max(c.Request.Cost, 1), max(c.Request.Count, 1)
			if c.Request.Peek || c.Control != nil {
				c.Request.Cost, c.Request.Count = 0, 0
			}
			c.Charges, c.Decision.Violated, c.Decision.Shadow = nil, nil, nil
			c.Decision.WindowMS, c.Decision.Remaining, c.Decision.ResetMS, c.Decision.RetryAfterMS = 0, 0, 0, 0
			list = append(list, c)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	a, b := read(e.source), read(rows)
	if len(a) != len(b) || len(a) != 151 {
		t.Fatalf("%d records of the journal, %d of Postgres", len(a), len(b))
	}
	for i := range a {
		if !reflect.DeepEqual(a[i], b[i]) {
			t.Fatalf("record %d:\n%+v %+v\n%+v %+v", i, a[i], a[i].Control, b[i], b[i].Control)
		}
	}
	stop := errors.New("enough")
	for _, s := range []history.Source{e.source, rows} {
		if err := s.Read(t.Context(), all, func(*events.Record) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("%s: %v", s.Name(), err)
		}
	}
}

// Since when the journal is whole.
func TestBegins(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	if at, err := e.source.Begins(t.Context(), ""); err != nil || !at.IsZero() {
		t.Errorf("%v, %v", at, err)
	}
	for range 3 {
		e.block(2, 2)
	}
	if at, err := e.source.Begins(t.Context(), "acme"); err != nil || !at.IsZero() {
		t.Errorf("%v, %v", at, err)
	}
	stream, err := e.source.JetStream.Stream(t.Context(), names.JournalStream(0))
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(3)); err != nil {
		t.Fatal(err)
	}
	if at, err := e.source.Begins(t.Context(), ""); err != nil || time.Since(at) > time.Hour {
		t.Errorf("%v, %v", at, err)
	}
}

// What many recorded requests take, reading included: a backtest of three rules, and
// limits by one key for three windows.
func BenchmarkHistory(b *testing.B) {
	const blocks, each = 400, 500
	e := newEnv(b)
	began := e.now
	for range blocks {
		e.block(each, 20_000)
	}
	p := parse(b, 4)
	span := history.Span{Tenant: "acme", From: began.Add(-time.Hour), Until: e.now}
	c := backtest.SuggestConfig{Tenant: "acme", From: began, By: []string{"user"}, Share: 0.001,
		Windows: []time.Duration{time.Second, time.Minute, time.Hour}}
	for name, requests := range map[string]func() int64{
		"backtest": func() int64 { return run(b, e.source, p, span, began).Requests },
		"suggest": func() int64 {
			s, err := backtest.Suggest(b.Context(), c, func(ctx context.Context, each func(*events.Record) error) error {
				return e.source.Read(ctx, span, each)
			})
			if err != nil {
				b.Fatal(err)
			}
			return s.Requests
		},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if n := requests(); n < blocks*each/2 {
					b.Fatalf("%d requests", n)
				}
			}
			b.ReportMetric(blocks*each*float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}
