package audit_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap/zaptest"

	"github.com/weirhq/weir/internal/audit"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/pg"
	"github.com/weirhq/weir/internal/testenv"
	"github.com/weirhq/weir/internal/writer"
)

var names = events.Names{Prefix: "weir"}

// env is a journal, a database and a writer between them.
type env struct {
	*testing.T
	js       jetstream.JetStream
	db       *pg.DB
	conn     *pgx.Conn
	journal  *journal.Journal
	appender *journal.Appender
	stop     func() // ends the writer
}

func newEnv(t *testing.T) *env {
	t.Helper()
	js, err := jetstream.New(testenv.Connect(t, testenv.NATS(t)))
	if err != nil {
		t.Fatal(err)
	}
	config := pg.DefaultConfig()
	config.URL = testenv.Postgres(t)
	e := &env{T: t, js: js}
	if e.db, err = pg.Open(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.db.Close)
	if err := e.db.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if e.conn, err = pgx.Connect(t.Context(), config.URL); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.conn.Close(context.Background()) })
	if e.journal, err = journal.Create(t.Context(), js, journal.Config{Names: names}); err != nil {
		t.Fatal(err)
	}
	e.appender, err = e.journal.Appender(0, func(err error) { t.Logf("append: %v", err) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.appender.Close)
	e.write()
	return e
}

// write runs a writer until the test ends or stop is called.
func (e *env) write() {
	c := writer.DefaultConfig()
	c.WatchInterval = 50 * time.Millisecond
	w := writer.New(c, writer.Parts{DB: e.db, JetStream: e.js, Log: zaptest.NewLogger(e), Metrics: prometheus.NewRegistry()})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()
	running := true
	e.stop = func() {
		if cancel(); running {
			running = false
			if err := <-ended; err != nil {
				e.Error(err)
			}
		}
	}
	e.Cleanup(e.stop)
}

func (e *env) append(records ...events.Record) {
	e.Helper()
	var body []byte
	for i := range records {
		body = append(events.AppendRecord(body, &records[i]), '\n')
	}
	if _, err := e.appender.Append(e.Context(), body, len(records), 0); err != nil {
		e.Fatal(err)
	}
}

func (e *env) exec(sql string, args ...any) {
	e.Helper()
	tag, err := e.conn.Exec(e.Context(), sql, args...)
	if err != nil || tag.RowsAffected() == 0 {
		e.Fatalf("%s: %v, %v", sql, tag, err)
	}
}

func (e *env) audit(wait time.Duration) audit.Report {
	e.Helper()
	r, err := audit.Run(e.Context(), audit.Options{DB: e.db, JetStream: e.js, Names: names, Shards: 1, Wait: wait})
	if err != nil {
		e.Fatal(err)
	}
	return r
}

// finds checks that an audit names faults that contain the texts, and no more.
func (e *env) finds(wait time.Duration, texts ...string) {
	e.Helper()
	r := e.audit(wait)
	for _, want := range texts {
		found := false
		for _, f := range r.Faults {
			found = found || strings.Contains(f.String(), want)
		}
		if !found {
			e.Errorf("audit does not name %q:\n%s", want, r.String())
		}
	}
	if r.OK() != (len(texts) == 0) || int(r.FaultCount) != len(texts) {
		e.Errorf("want %d faults:\n%s", len(texts), r.String())
	}
}

// limiter decides by one rule, plainly: it looks at all it has admitted.
type limiter struct {
	now      time.Time
	admitted map[string][]time.Time
	requests int
}

const (
	limit  = 3
	length = time.Second
)

func newLimiter() *limiter {
	return &limiter{now: time.Now().UTC().Truncate(time.Microsecond), admitted: map[string][]time.Time{}}
}

func (l *limiter) decide(user string) events.Record {
	var inWindow []time.Time
	for _, at := range l.admitted[user] {
		if at.After(l.now.Add(-length)) {
			inWindow = append(inWindow, at)
		}
	}
	l.requests++
	r := decided(fmt.Sprint("r", l.requests), user, l.now, len(inWindow) < limit)
	r.Decision.Remaining = max(0, limit-int64(len(inWindow))-1)
	if r.Decision.Verdict == events.Allow {
		l.admitted[user] = append(l.admitted[user], l.now)
	} else {
		r.Decision.RetryAfterMS = 1
	}
	return r
}

func decided(id, user string, at time.Time, allow bool) events.Record {
	r := events.Record{
		Request: events.Request{ID: id, Tenant: "acme", Gateway: "g", User: user},
		Decision: events.Decision{Verdict: events.Deny, Reason: events.ReasonRule, Rule: "per-second", Key: user,
			Limit: limit, WindowMS: length.Milliseconds(), Cost: 1, DecidedAt: at},
	}
	if allow {
		r.Decision.Verdict = events.Allow
	}
	return r
}

// varied fills the request with whatever a gateway may send.
func varied(rng *rand.Rand, r *events.Record) {
	q := &r.Request
	q.Path = []string{"", "/", "/ü/\"quoted\"", "/a\nb"}[rng.IntN(4)]
	q.IP = []netip.Addr{{}, netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8:0:1:1:1:1:1"), netip.MustParseAddr("::1.2.3.4")}[rng.IntN(4)]
	q.Attrs = []string{"", `{}`, `{"a":1e2,"b":[true,null,"\u00e9"],"a":1.50}`, `{"n":{"x":-0,"y":123456789012345678901234567890}}`}[rng.IntN(4)]
	q.Status, q.LatencyUS, q.BytesOut = rng.Int64N(2)*200, rng.Int64N(2)*1e6, rng.Int64N(3)
	q.Count, q.APIKey, q.Method = rng.Int64N(3), []string{"", "0123456789abcdef"}[rng.IntN(2)], "GET"
	if rng.IntN(2) == 0 {
		q.Time = r.Decision.DecidedAt.Add(-time.Duration(rng.IntN(2000)) * time.Millisecond)
	}
}

// traffic appends blocks of what the limiter decides.
func (e *env) traffic(l *limiter, blocks int) {
	e.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	for range blocks {
		records := make([]events.Record, 1+rng.IntN(40))
		for i := range records {
			records[i] = l.decide(fmt.Sprint("u", rng.IntN(12)))
			varied(rng, &records[i])
		}
		l.now = l.now.Add(time.Duration(rng.IntN(300)) * time.Millisecond)
		if rng.IntN(4) == 0 {
			l.now = l.now.Add(length).Truncate(length) // admissions exactly one window old
		}
		e.append(records...)
	}
}

func TestCleanRun(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.traffic(newLimiter(), 300)
	r := e.audit(time.Minute)
	if !r.OK() {
		t.Fatal(r.String())
	}
	s := r.Shards[0]
	if s.Records < 5000 || s.Rows != s.Records || s.TotalRows != s.Records || s.Admitted == 0 || s.Denied == 0 ||
		s.Admitted+s.Denied != s.Records || s.Unjudged != 0 || s.Rules != 1 || s.Unwritten != 0 {
		t.Errorf("%+v", s)
	}
	if !strings.HasSuffix(r.String(), "OK\n") {
		t.Error(r.String())
	}
}

func TestEmpty(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.finds(time.Minute)
	if err := e.js.DeleteStream(t.Context(), names.JournalStream(0)); err != nil {
		t.Fatal(err)
	}
	e.finds(time.Second, "there is a cursor but no journal")
}

// What somebody does to the tables by hand is named.
func TestChangesByHandAreNamed(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.traffic(newLimiter(), 20)
	refused := events.Record{Refused: &events.Refusal{Subject: "s", Payload: []byte("x"), Error: "bad", At: time.Now()}}
	e.append(refused, refused)
	e.finds(time.Minute)
	e.stop()

	e.exec(`CREATE TABLE saved AS SELECT * FROM requests`)
	e.exec(`CREATE TABLE saved_letters AS SELECT * FROM dead_letters`)
	restore := func() {
		t.Helper()
		e.exec(`DELETE FROM requests`)
		e.exec(`INSERT INTO requests SELECT * FROM saved`)
		e.exec(`DELETE FROM dead_letters`)
		e.exec(`INSERT INTO dead_letters SELECT * FROM saved_letters`)
		e.finds(0)
	}
	restore()
	for _, tt := range []struct {
		sql    string
		faults []string
	}{
		{`UPDATE requests SET verdict = 'maybe' WHERE request_id = 'r7'`, []string{`is changed: verdict: want "`}},
		{`UPDATE requests SET attrs = '{"x":1}', ip = '10.0.0.0/8' WHERE request_id = 'r7'`, []string{`found "10.0.0.0/8"; attrs: want `}},
		{`UPDATE requests SET user_id = NULL WHERE request_id = 'r7'`, []string{`found null`}},
		{`UPDATE requests SET ts = ts + '1us' WHERE request_id = 'r7'`, []string{`no row AO`, `has no record in the journal`}},
		{`DELETE FROM requests WHERE request_id = 'r7'`, []string{`record 6: no row AO`, `but the cursor has counted`}},
		{`INSERT INTO requests (id, ts, decided_at, tenant, gateway, cost, count, verdict, reason, policy, degraded, late)
			SELECT id + 500, ts, ts, 'a', 'g', 1, 1, 'allow', 'rule', 0, false, false FROM saved WHERE request_id = 'r7'`,
			[]string{`has no record in the journal`, `but the cursor has counted`}},
		{`INSERT INTO requests (id, ts, decided_at, tenant, gateway, cost, count, verdict, reason, policy, degraded, late)
			SELECT id, (SELECT min(ts) FROM saved) - '1us'::interval, ts, 'a', 'g', 1, 1, 'allow', 'rule', 0, false, false FROM saved WHERE request_id = 'r7'`,
			[]string{`has no record in the journal`, `but the cursor has counted`}},
		{`INSERT INTO requests (id, ts, decided_at, tenant, gateway, cost, count, verdict, reason, policy, degraded, late)
			SELECT id, ts + '1h', ts, 'a', 'g', 1, 1, 'allow', 'rule', 0, false, false FROM saved WHERE request_id = 'r7'`,
			[]string{`is beyond the cursor`, `but the cursor has counted`}},
		{`INSERT INTO requests (id, ts, decided_at, tenant, gateway, cost, count, verdict, reason, policy, degraded, late)
			SELECT id + 70000000, ts, ts, 'a', 'g', 1, 1, 'allow', 'rule', 0, false, false FROM saved WHERE request_id = 'r7'`,
			[]string{`1 rows have ids of no shard`}},
		{`INSERT INTO dead_letters SELECT 0, (SELECT stream FROM writer_cursor), 1, 0, now(), 'x', 'y'`, []string{`both a row, AO`, `but the cursor has counted`}},
		{`DELETE FROM dead_letters WHERE record_index = 1`, []string{`not a dead letter, although it cannot be a row`, `but the cursor has counted`}},
		{`UPDATE dead_letters SET record = 'x' WHERE record_index = 1`, []string{`its dead letter holds another text`}},
		{`UPDATE dead_letters SET record_index = 9 WHERE record_index = 1`, []string{`not a dead letter, although`, `a dead letter without a record`}},
	} {
		e.exec(tt.sql)
		e.finds(0, tt.faults...)
		restore()
	}

	e.exec(`UPDATE writer_cursor SET last_seq = last_seq - 1`)
	e.finds(0, `the cursor is at this block`, `records up to the cursor, which has counted`)
	e.exec(`UPDATE writer_cursor SET last_seq = last_seq + 2`)
	e.finds(0, `the cursor is at block 22, the journal ends at 21`)
	e.exec(`UPDATE writer_cursor SET last_seq = last_seq - 1, records = records - 1`)
	e.finds(0, `but the cursor has counted`, `records up to the cursor, which has counted`)
}

// Outcomes are no records of a journal: neither what became of them nor how far
// they are written has a say.
func TestOutcomesAreNoRecords(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.traffic(newLimiter(), 5)
	e.finds(time.Minute)
	e.exec(`INSERT INTO outcomes SELECT tenant, request_id, 'g', ts, NULL, 500 FROM requests`)
	e.exec(`INSERT INTO dead_letters SELECT $1, stream, 1, 0, now(), 'x', 'y' FROM writer_cursor`, pg.OutcomesShard)
	e.exec(`INSERT INTO gaps (shard, stream, first_seq, last_seq, reason) SELECT $1, stream, 2, 9, 'trimmed' FROM writer_cursor`, pg.OutcomesShard)
	e.exec(`INSERT INTO writer_cursor (shard, stream, last_seq, records) SELECT $1, stream, 10, 7 FROM writer_cursor`, pg.OutcomesShard)
	e.finds(0)
}

func TestALagIsTold(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	l := newLimiter()
	e.traffic(l, 3)
	e.finds(time.Minute)
	e.stop()
	e.append(l.decide("late"), l.decide("late"))
	e.finds(100*time.Millisecond, "2 records are not written after 100ms")
	if r := e.audit(0); !r.OK() || r.Shards[0].Unwritten != 2 {
		t.Error(r.String())
	}
	e.write()
	e.finds(time.Minute)
}

// Blocks that the journal has dropped are no fault; denials that rest on them
// cannot be judged.
func TestTrimmedJournal(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.traffic(newLimiter(), 40)
	e.finds(time.Minute)
	stream, err := e.js.Stream(t.Context(), names.JournalStream(0))
	if err == nil {
		err = stream.Purge(t.Context(), jetstream.WithPurgeSequence(20))
	}
	if err != nil {
		t.Fatal(err)
	}
	r := e.audit(time.Minute)
	if s := r.Shards[0]; !r.OK() || s.FirstBlock != 20 || s.Unjudged == 0 || s.Denied == 0 || s.TotalRows <= s.Rows {
		t.Errorf("%s%+v", r.String(), s)
	}
}

// Decisions that should not have been made, in a journal made for it.
func TestWrongDecisionsAreNamed(t *testing.T) {
	t.Parallel()
	now := time.Now().UTC().Truncate(time.Microsecond)
	at := now.Add
	several := func(id string, when time.Time, allow bool, denied ...bool) events.Record {
		r := decided(id, "u", when, allow)
		for i, d := range denied {
			r.Charges = append(r.Charges, events.Charge{Rule: fmt.Sprint("rule", i), Key: "u", Limit: 1, WindowMS: 1000, Cost: 1, Denied: d})
		}
		return r
	}
	let := decided("let", "u", at(0), true)
	let.Decision.Reason = events.ReasonTimeout
	local := decided("local", "u", at(0), false)
	local.Decision.Reason = events.ReasonLocal
	peek := decided("peek", "u", at(0), true)
	peek.Decision.Cost = 0
	exempt := decided("exempt", "u", at(1000), true)
	exempt.Decision.Reason, exempt.Decision.Rule = events.ReasonExempt, ""
	for _, tt := range []struct {
		name    string
		records []events.Record
		faults  []string
	}{
		{"exactly at the limit", []events.Record{decided("1", "u", at(0), true), decided("2", "u", at(0), true), decided("3", "u", at(1), true), decided("4", "u", at(1), false)}, nil},
		{"over the limit", []events.Record{decided("1", "u", at(0), true), decided("2", "u", at(0), true), decided("3", "u", at(1), true), decided("4", "u", at(length-time.Microsecond), true)},
			[]string{`promise 1, shard 0, block 1, record 3: admitted over the limit: rule per-second, key "u": 3 of 3 used in the 1s before`}},
		{"one window later", []events.Record{decided("1", "u", at(0), true), decided("2", "u", at(0), true), decided("3", "u", at(0), true), decided("4", "u", at(length), true)}, nil},
		{"denial one window later", []events.Record{decided("1", "u", at(0), true), decided("2", "u", at(0), true), decided("3", "u", at(0), true), decided("4", "u", at(length), false)},
			[]string{"record 3: denied although there was room"}},
		{"denial of another key", []events.Record{decided("1", "v", at(0), true), decided("2", "v", at(0), true), decided("3", "v", at(0), true), decided("4", "u", at(0), false)},
			[]string{"record 3: denied although there was room"}},
		{"let through counts", []events.Record{let, decided("1", "u", at(0), true), decided("2", "u", at(0), true), decided("3", "u", at(0), true)},
			[]string{"record 3: admitted over the limit"}},
		{"let through is not judged", []events.Record{decided("1", "u", at(0), true), decided("2", "u", at(0), true), decided("3", "u", at(0), true), let}, nil},
		{"local denials and peeks are free", []events.Record{local, peek, peek, peek, peek, decided("1", "u", at(0), true), decided("2", "u", at(0), true), decided("3", "u", at(0), true)}, nil},
		{"clock goes back", []events.Record{decided("1", "u", at(1000), true), decided("2", "u", at(0), true)}, []string{"record 1: decided at"}},
		{"a clock that charges nothing is ahead", []events.Record{exempt, decided("2", "u", at(0), true)}, nil},
		{"charged twice", []events.Record{decided("1", "u", at(0), true), decided("1", "v", at(0), true)}, []string{`request id "1" is charged twice`}},
		{"charged again after the horizon", []events.Record{decided("1", "u", at(0), true), decided("1", "v", at(2*time.Minute+time.Second), true)}, nil},
		{"several rules", []events.Record{several("1", at(0), true, false, false), several("2", at(1), false, true, true), several("3", at(length), true, false, false)}, nil},
		{"several rules, one over", []events.Record{several("1", at(0), true, false), several("2", at(1), true, false, false)}, []string{"admitted over the limit: rule rule0"}},
		{"several rules, one denied without need", []events.Record{several("1", at(0), true, false), several("2", at(1), false, true, true)}, []string{"denied although there was room: rule rule1"}},
		{"several rules, none denied", []events.Record{several("1", at(0), false, false, false)}, []string{"denied although no charge was"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			e := newEnv(t)
			e.append(tt.records...)
			e.finds(time.Minute, tt.faults...)
		})
	}
}
