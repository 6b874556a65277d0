package writer_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/pg"
)

// stream makes the stream of outcomes, of two shards.
func (e *env) stream() jetstream.Stream {
	e.Helper()
	s, err := e.js.CreateOrUpdateStream(e.Context(), jetstream.StreamConfig{
		Name: names.OutcomesStream(), Subjects: []string{names.Outcomes(0), names.Outcomes(1)}, Duplicates: 100 * time.Millisecond,
	})
	if err != nil {
		e.Fatal(err)
	}
	return s
}

// tell publishes an outcome of a request of a shard.
func (e *env) tell(shard int, payload string) {
	e.Helper()
	if _, err := e.js.Publish(e.Context(), names.Outcome(shard, "acme", "g"), []byte(payload)); err != nil {
		e.Fatal(err)
	}
}

// written waits until the cursor is at the stream's end.
func (e *env) written() {
	e.Helper()
	s, err := e.js.Stream(e.Context(), names.OutcomesStream())
	if err != nil {
		e.Fatal(err)
	}
	info := s.CachedInfo()
	e.reached(info.Created.UnixNano(), info.State.LastSeq)
}

func outcome(id string) string { return fmt.Sprintf(`{"id":%q,"status":200,"latency_us":1500}`, id) }

// Connections die at every moment, writers come and go, two at a time, and some
// outcomes are told again when the stream has forgotten them: each is one row.
func TestOutcomesAreWrittenOnce(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	w := e.start(e.url) // before there is a stream
	e.eventually("the schema", func() bool { return e.number(`SELECT count(*) FROM pg_tables WHERE tablename = 'outcomes'`) == 1 })
	e.stream()
	const rounds, each = 30, 60
	for round := range rounds {
		for i := range each {
			e.tell(i%2, outcome(fmt.Sprint(round*each+i)))
		}
		e.tell(0, outcome(fmt.Sprint(round)))
		time.Sleep(rand.N(6 * time.Millisecond)) // anywhere in the transaction
		_ = e.number(`SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
		if round%10 == 9 {
			next := e.start(e.url)
			if err := w.stop(); err != nil {
				t.Fatal(err)
			}
			w = next
		}
	}
	e.written()
	if rows, counted := e.number(`SELECT count(*) FROM outcomes WHERE status = 200 AND latency_us = 1500`), e.number(`SELECT records FROM writer_cursor WHERE shard = -1`); rows != rounds*each || counted != rows {
		t.Errorf("%d rows, %d by the cursor; want %d", rows, counted, rounds*each)
	}
	if n := e.number(`SELECT count(*) FROM dead_letters`); n != 0 || e.gaps() != "" {
		t.Errorf("%d dead letters, gaps %q", n, e.gaps())
	}
	before := w.metric(t, "outcomes_total")
	e.tell(1, outcome("one more"))
	e.tell(1, outcome("7"))
	e.written()
	e.eventually("the metrics", func() bool { return w.metric(t, "outcomes_total") == before+1 })
	if n := w.metric(t, "rows_total"); n != 0 {
		t.Errorf("%v outcomes are counted as records", n)
	}
}

// An outcome comes before its request, after it, or for none.
func TestOutcomesAreJoined(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.stream()
	e.start(e.url)
	e.tell(0, outcome("0"))
	e.tell(0, outcome("unknown"))
	e.written()
	e.blocks(1, 3)
	e.caughtUp()
	e.tell(0, outcome("1"))
	e.written()
	if n := e.number(`SELECT count(*) FROM requests_with_outcomes WHERE (status, latency_us) = (200, 1500) AND outcome_ts IS NOT NULL AND request_id IN ('0', '1')`); n != 2 {
		t.Errorf("%d of 2 requests have their outcomes", n)
	}
	if n := e.number(`SELECT count(*) FROM requests_with_outcomes`); n != 3 {
		t.Errorf("%d requests in the view, want 3", n)
	}
}

func TestWhatCannotBeAnOutcomeIsADeadLetter(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	e.stream()
	w := e.start(e.url)
	e.tell(0, outcome("good"))
	e.tell(0, `not JSON`)
	e.tell(0, `{"status":200}`)
	e.tell(0, `{"id":"a","tenant":"globex"}`)
	e.tell(0, `{"id":"a\u0000"}`)
	e.tell(0, "\xff")
	e.tell(0, `{"id":"a","status":1000}`)
	e.tell(0, `{"id":"a"}`+strings.Repeat(" ", 5000))
	for _, subject := range []string{"weir.outcome.0.acme", "weir.outcome.0.ac*me.g", "weir.outcome.0.acme.g.h"} {
		if _, err := e.js.Publish(t.Context(), subject, []byte(outcome("a"))); err != nil {
			t.Fatal(err)
		}
	}
	e.tell(0, `{"id":"also good","later":[{}]}`)
	e.written()
	if got := e.number(`SELECT count(*) FROM outcomes WHERE request_id IN ('good', 'also good')`); got != 2 || e.number(`SELECT count(*) FROM outcomes`) != 2 {
		t.Errorf("%d rows", got)
	}
	rows, err := e.conn.Query(t.Context(), `SELECT format('%s %s', seq, error) FROM dead_letters WHERE shard = $1 AND record <> '' ORDER BY seq`, pg.OutcomesShard)
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"2 weir.outcome.0.acme.g: not an outcome: want a JSON object",
		"3 weir.outcome.0.acme.g: id: want the request's",
		"4 weir.outcome.0.acme.g: tenant: want the subject's, acme",
		"5 weir.outcome.0.acme.g: not an outcome: id: want a string without NUL",
		"6 weir.outcome.0.acme.g: not an outcome: want UTF-8",
		"7 weir.outcome.0.acme.g: not an outcome: status: want a whole number from 0 to 999",
		"8 weir.outcome.0.acme.g: not an outcome: want at most 4096 bytes",
		"9 weir.outcome.0.acme: subject: want weir.",
		"10 weir.outcome.0.ac*me.g: tenant: want 1 to 64 characters",
		"11 weir.outcome.0.acme.g.h: gateway: want 1 to 64 characters",
	}
	if len(got) != len(want) {
		t.Fatalf("%d dead letters, want %d:\n%s", len(got), len(want), strings.Join(got, "\n"))
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("dead letter %q, want %q", got[i], want[i])
		}
	}
	e.eventually("the metrics", func() bool { return w.metric(t, "outcomes_total") == 2 })
}

// Outcomes that are gone before they are written, or with their stream, are a
// gap.
func TestLostOutcomesAreAGap(t *testing.T) {
	t.Parallel()
	e := newEnv(t)
	s := e.stream()
	for i := range 10 {
		e.tell(0, outcome(fmt.Sprint(i)))
	}
	if err := s.Purge(t.Context(), jetstream.WithPurgeSequence(5)); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteMsg(t.Context(), 8); err != nil {
		t.Fatal(err)
	}
	e.start(e.url)
	e.written()
	if err := e.js.DeleteStream(t.Context(), names.OutcomesStream()); err != nil {
		t.Fatal(err)
	}
	e.stream()
	for i := range 10 {
		e.tell(0, outcome(fmt.Sprint("new-", i)))
	}
	e.written()
	if got := e.gaps(); got != "trimmed 1-4, trimmed 8-8, replaced 11-?" {
		t.Errorf("gaps: %s", got)
	}
	if n := e.number(`SELECT count(*) FROM outcomes`); n != 15 {
		t.Errorf("%d rows", n)
	}
}
