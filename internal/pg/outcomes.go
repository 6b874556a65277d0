package pg

import (
	"context"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/weirhq/weir/internal/events"
)

// OutcomesShard stands for the number of a shard where the stream of outcomes is
// meant, which is one for all shards: in a cursor, and so in its batches, their
// dead letters and gaps.
const OutcomesShard = -1

// logOf names a shard's journal, or the stream of outcomes, for a person.
func logOf(shard int) string {
	if shard == OutcomesShard {
		return "outcomes"
	}
	return "shard " + strconv.Itoa(shard)
}

// outcomes are rows of outcomes by column.
type outcomes struct {
	tenants, ids, gateways       []string
	stored, occurred             []pgtype.Timestamptz
	statuses                     []pgtype.Int2
	latencies, bytesIn, bytesOut []pgtype.Int8
}

func (o *outcomes) reset() {
	clear(o.tenants) // they hold on to the messages' memory
	clear(o.ids)
	clear(o.gateways)
	*o = o.slice(0, 0)
}

func (o *outcomes) slice(from, to int) outcomes {
	return outcomes{
		o.tenants[from:to], o.ids[from:to], o.gateways[from:to], o.stored[from:to], o.occurred[from:to],
		o.statuses[from:to], o.latencies[from:to], o.bytesIn[from:to], o.bytesOut[from:to],
	}
}

func (o *outcomes) add(stored time.Time, e *events.Outcome) {
	number := func(n int64) pgtype.Int8 { return pgtype.Int8{Int64: n, Valid: n != 0} }
	o.tenants = append(o.tenants, e.Tenant)
	o.ids = append(o.ids, e.ID)
	o.gateways = append(o.gateways, e.Gateway)
	o.stored = append(o.stored, pgtype.Timestamptz{Time: stored, Valid: true})
	o.occurred = append(o.occurred, pgtype.Timestamptz{Time: e.Time, Valid: !e.Time.IsZero()})
	o.statuses = append(o.statuses, pgtype.Int2{Int16: int16(e.Status), Valid: e.Status != 0})
	o.latencies = append(o.latencies, number(e.LatencyUS))
	o.bytesIn = append(o.bytesIn, number(e.BytesIn))
	o.bytesOut = append(o.bytesOut, number(e.BytesOut))
}

// insert stores the rows from one place up to another, and tells of how many
// requests there was an outcome already.
func (o *outcomes) insert(ctx context.Context, tx pgx.Tx, from, to int) (present int, err error) {
	part := o.slice(from, to)
	tag, err := tx.Exec(ctx, `INSERT INTO outcomes (tenant, request_id, gateway, ts, occurred_at, status, latency_us, bytes_in, bytes_out)
		SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::smallint[], $7::bigint[], $8::bigint[], $9::bigint[])
		ON CONFLICT DO NOTHING`,
		part.tenants, part.ids, part.gateways, part.stored, part.occurred, part.statuses, part.latencies, part.bytesIn, part.bytesOut)
	return to - from - int(tag.RowsAffected()), err
}
