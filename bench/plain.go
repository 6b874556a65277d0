package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/idgen"
	"github.com/weirhq/weir/internal/pg"
)

// pulled is how many blocks are on their way at a time, of 150 kB or so: what a
// connection keeps by default, 64 MB, has room for them.
const pulled = 100

// plain is what one would write who does without the writer, and not badly: a
// durable consumer that decodes each of the journal's blocks, inserts its records
// with one statement of many VALUES, which its connection has prepared, and
// acknowledges it then. ON CONFLICT makes what comes again do no harm.
func (s *stage) plain(ctx context.Context) (took time.Duration, err error) {
	if err := s.clear(ctx); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, copyWithin)
	defer cancel()
	stream := s.config.Names.JournalStream(0)
	began := time.Now()
	consumer, err := s.js.CreateConsumer(ctx, stream, jetstream.ConsumerConfig{Durable: "plain", AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, s.js.DeleteConsumer(context.WithoutCancel(ctx), stream, "plain")) }()
	messages, err := consumer.Messages(jetstream.PullMaxMessages(pulled))
	if err != nil {
		return 0, err
	}
	defer messages.Stop()
	for done := int64(0); done < int64(s.rows); {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return 0, err
		}
		rows, err := s.insert(ctx, m)
		if err != nil {
			return 0, err
		}
		if err := m.Ack(); err != nil {
			return 0, err
		}
		done += rows
	}
	return time.Since(began), s.complete(ctx)
}

// insert inserts the records of a block, and tells how many are new.
func (s *stage) insert(ctx context.Context, m jetstream.Msg) (int64, error) {
	meta, err := m.Metadata()
	if err != nil {
		return 0, err
	}
	stored := meta.Timestamp.UTC().Truncate(time.Microsecond)
	var values []any
	index := 0
	for line := range strings.Lines(string(m.Data())) {
		var r events.Record
		if err := events.DecodeRecord(strings.TrimSuffix(line, "\n"), &r); err != nil {
			return 0, err
		}
		id, err := idgen.Derive(stored, 0, meta.Sequence.Stream, index)
		if err != nil {
			return 0, err
		}
		charges, err := json.Marshal(r.Charges)
		if err != nil {
			return 0, err
		}
		q, d := &r.Request, &r.Decision
		values = append(values, int64(id), stored, d.DecidedAt, known(q.Time), known(q.ID), q.Tenant, q.Gateway, q.Identity(), known(q.User), known(q.APIKey),
			known(q.IP), known(q.Method), known(q.Host), known(q.Path), known(q.Route), d.Cost, max(q.Count, 1), string(d.Verdict), string(d.Reason),
			known(d.Rule), known(d.Key), known(d.Limit), known(d.Remaining), known(d.RetryAfterMS), int64(d.Policy), d.Degraded, d.Reason == events.ReasonLate,
			known(q.Status), known(q.LatencyUS), known(q.BytesIn), known(q.BytesOut), unless(len(r.Charges) == 0, string(charges)), known(q.Attrs))
		index++
	}
	tag, err := s.conn.Exec(ctx, s.statement(index), values...)
	return tag.RowsAffected(), err
}

// statement returns the INSERT of so many rows.
func (s *stage) statement(rows int) string {
	if sql, ok := s.inserts[rows]; ok {
		return sql
	}
	var sql strings.Builder
	columns := pg.Columns()
	sql.WriteString(`INSERT INTO requests (` + strings.Join(columns, `, `) + `) VALUES `)
	for i := range rows * len(columns) {
		switch {
		case i == 0:
			sql.WriteString(`(`)
		case i%len(columns) == 0:
			sql.WriteString(`), (`)
		default:
			sql.WriteString(`, `)
		}
		fmt.Fprintf(&sql, `$%d`, i+1)
	}
	sql.WriteString(`) ON CONFLICT DO NOTHING`)
	s.inserts[rows] = sql.String()
	return s.inserts[rows]
}

// known returns null for what is not known.
func known[T comparable](value T) any {
	var zero T
	return unless(value == zero, value)
}

func unless[T any](null bool, value T) any {
	if null {
		return nil
	}
	return value
}
