package crashtest

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/audit"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/pg"
	"github.com/weirhq/weir/internal/testenv"
)

// check is what every fault ends with. It holds the journal to what the load was
// told: each decision that somebody has seen is there to the last byte, no
// request was decided twice, nothing is missing; and to the oracle, which says
// that no limit was passed and nobody refused without need. Where there is a
// writer, Postgres has all of it.
func (s *system) check(l *load) {
	s.Helper()
	js, err := jetstream.New(testenv.Connect(s.T, s.nats))
	if err != nil {
		s.Fatal(err)
	}
	decided, timedOut := map[string][]string{}, map[string][]string{}
	for shard := range s.shards {
		j, err := journal.Open(s.Context(), js, names, shard)
		if err != nil {
			s.Fatal(err)
		}
		s.awaitReports(js, j)
		if s.postgres == "" {
			report, err := audit.Decisions(s.Context(), j)
			s.found(report, err)
		}
		s.recorded(j, decided, timedOut)
	}
	l.mu.Lock() // of a straggler that observes
	defer l.mu.Unlock()
	if s.postgres != "" {
		s.audit(js)
		s.checkOutcomes(l, js)
	}
	for id, d := range l.decided {
		s.holds(l, decided[id], string(events.AppendDecision(nil, &d)))
	}
	degraded := 0
	for at, texts := range l.seen {
		records := decided[at.id]
		if at.timeout {
			records = timedOut[at.id]
		}
		for text := range texts {
			s.holds(l, records, text)
			if strings.Contains(text, degradedMark) {
				degraded++
			}
		}
	}
	for id, records := range decided {
		if len(records) != 1 {
			l.wrong("%s is decided more than once: %v", id, records)
		}
	}
	for id := range l.timedOut {
		if n := len(timedOut[id]); n != 1 {
			l.wrong("%s had no decision in time: want one record that says so, found %d", id, n)
		}
	}
	for id := range l.reported {
		if n := len(decided[id]) + len(timedOut[id]); n != 1 {
			l.wrong("report %s: want one record, found %d", id, n)
		}
	}
	s.Logf("%d decided, %d without a decision in time, %d reported, %d seen as degraded, %d faults",
		len(l.decided), len(l.timedOut), len(l.reported), degraded, l.faults.Load())
}

// checkOutcomes finds each outcome that was told once in Postgres, and joined to
// its request.
func (s *system) checkOutcomes(l *load, js jetstream.JetStream) {
	s.Helper()
	stream, err := js.Stream(s.Context(), names.OutcomesStream())
	if err != nil {
		s.Fatal(err)
	}
	last := stream.CachedInfo().State.LastSeq
	testenv.Eventually(s.T, patience, func() error {
		var at uint64
		err := s.conn.QueryRow(s.Context(), `SELECT last_seq FROM writer_cursor WHERE shard = $1`, pg.OutcomesShard).Scan(&at)
		if err == nil && at < last {
			err = fmt.Errorf("%d outcomes of %d", at, last)
		}
		return err
	})
	rows, err := s.conn.Query(s.Context(), `SELECT tenant, request_id, latency_us FROM outcomes`)
	if err != nil {
		s.Fatal(err)
	}
	stored, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (o gateway.Outcome, err error) {
		return o, row.Scan(&o.Tenant, &o.ID, &o.LatencyUS)
	})
	if err != nil {
		s.Fatal(err)
	}
	for _, o := range stored {
		if told, ok := l.told[o.ID]; !ok || o.Tenant != told.Tenant || o.LatencyUS != told.LatencyUS {
			l.wrong("outcome %+v is stored, want %+v", o, told)
		}
	}
	if len(stored) != len(l.told) {
		l.wrong("%d outcomes were told, and %d are stored", len(l.told), len(stored))
	}
	var letters, gaps, bare int
	err = s.conn.QueryRow(s.Context(), `SELECT (SELECT count(*) FROM dead_letters WHERE shard = $1), (SELECT count(*) FROM gaps WHERE shard = $1),
		(SELECT count(*) FROM requests_with_outcomes WHERE request_id = ANY ($2) AND latency_us IS NULL)`,
		pg.OutcomesShard, slices.Collect(maps.Keys(l.told))).Scan(&letters, &gaps, &bare)
	if err != nil || letters != 0 || gaps != 0 || bare != 0 {
		l.wrong("of outcomes %d are dead letters, %d in gaps, and %d requests are without theirs, %v", letters, gaps, bare, err)
	}
	s.Logf("%d outcomes", len(stored))
}

const degradedMark = `,"degraded":true`

// holds tells of a decision that somebody saw and the records of its id do not
// hold. That it went out before it was stored the record may not know.
func (s *system) holds(l *load, records []string, text string) {
	if slices.Contains(records, text) {
		return
	}
	plain := strings.Replace(text, degradedMark, "", 1)
	if plain != text && (s.forgives || slices.Contains(records, plain)) {
		return
	}
	l.wrong("somebody saw %s: want it in the journal, found %v", text, records)
}

// awaitReports waits until a shard's limiter has taken all reports.
func (s *system) awaitReports(js jetstream.JetStream, j *journal.Journal) {
	s.Helper()
	reports, err := js.Stream(s.Context(), names.ReportsStream())
	if err != nil {
		s.Fatal(err)
	}
	newest, err := reports.GetLastMsgForSubject(s.Context(), names.Reports(j.Shard()))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return
	}
	if err != nil {
		s.Fatal(err)
	}
	last := newest.Sequence
	testenv.Eventually(s.T, patience, func() error {
		extent, err := j.Extent(s.Context())
		if err != nil || extent.Blocks == 0 {
			return errors.Join(err, errors.New("no block"))
		}
		return j.Read(s.Context(), journal.Start{Seq: extent.Last}, extent.Last, func(b journal.Block) error {
			if b.ReportSeq < last {
				return fmt.Errorf("%d reports of %d", b.ReportSeq, last)
			}
			return nil
		})
	})
}

// audit proves the promises over all that is stored.
func (s *system) audit(js jetstream.JetStream) {
	s.Helper()
	config := pg.DefaultConfig()
	config.URL = s.postgres
	db, err := pg.Open(s.Context(), config)
	if err != nil {
		s.Fatal(err)
	}
	defer db.Close()
	report, err := audit.Run(s.Context(), audit.Options{DB: db, JetStream: js, Names: names, Shards: s.shards, Wait: patience})
	s.found(report, err)
}

func (s *system) found(report audit.Report, err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
	if !report.OK() {
		s.Errorf("audit:\n%s", &report)
	}
}

// recorded adds the decisions of all records by their request's id: those that
// were decided, and those that tell of a gateway that did without.
func (s *system) recorded(j *journal.Journal, decided, timedOut map[string][]string) {
	s.Helper()
	extent, err := j.Extent(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	err = j.Read(s.Context(), journal.Start{Seq: extent.First}, extent.Last, func(b journal.Block) error {
		return b.Records(func(_ int, r *events.Record) error {
			of := decided
			if r.Decision.Reason == gateway.ReasonTimeout {
				of = timedOut
			}
			of[r.Request.ID] = append(of[r.Request.ID], string(events.AppendDecision(nil, &r.Decision)))
			return nil
		})
	})
	if err != nil {
		s.Fatal(err)
	}
}
