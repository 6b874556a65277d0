package pg

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/weirhq/weir/internal/events"
)

// clocks bounds how far the clock that stored a block and the one that decided it
// are apart: rows are found by the former.
const clocks = time.Hour

// longestOverride is how long an override by hand may last: the journal's default
// age is less.
const longestOverride = 25 * 24 * time.Hour

// The rows of $1, or of all tenants if that is empty, in the order in which they
// were decided shard by shard: the digits after the second are shard, block and
// place. What was done by hand is read from further back.
const recordsSQL = `SELECT decided_at, occurred_at, request_id, tenant, gateway, user_id, api_key, host(ip), method, host,
	path, route, cost, count, verdict, reason, rule, key, limit_count, policy, attrs::text
	FROM requests WHERE ($1 = '' OR tenant = $1) AND decided_at < $3 AND ts < $3 + $4::interval
	AND (decided_at >= $2 AND ts >= $2 - $4::interval OR count = 0 AND ts >= $2 - $5::interval)
	AND ts >= $2 - $5::interval
	ORDER BY ts, id`

// Records calls each with what was decided from one time until another, as records
// that tell as much as rows do, and before that with what was done by hand. The
// record is reused from call to call. It stops at the first error.
func (db *DB) Records(ctx context.Context, tenant string, from, until time.Time, each func(*events.Record) error) error {
	rows, err := db.pool.Query(ctx, recordsSQL, tenant, from, until, clocks, longestOverride)
	if err != nil {
		return fmt.Errorf("records: %w", err)
	}
	var r recordRow
	var record events.Record
	_, err = pgx.ForEachRow(rows, r.columns(), func() error {
		if err := r.record(&record); err != nil {
			return fmt.Errorf("row of request %q: %w", *r.id, err)
		}
		return each(&record)
	})
	if err != nil {
		return fmt.Errorf("records: %w", err)
	}
	return nil
}

// recordRow is a row as recordsSQL has it.
type recordRow struct {
	decided                           time.Time
	occurred                          *time.Time
	id, gateway, user, apiKey, ip     *string
	tenant                            string
	method, host, path, route         *string
	cost, count, policy               int64
	verdict, reason, rule, key, attrs *string
	limit                             *int64
}

func (r *recordRow) columns() []any {
	return []any{&r.decided, &r.occurred, &r.id, &r.tenant, &r.gateway, &r.user, &r.apiKey, &r.ip, &r.method, &r.host,
		&r.path, &r.route, &r.cost, &r.count, &r.verdict, &r.reason, &r.rule, &r.key, &r.limit, &r.policy, &r.attrs}
}

func (r *recordRow) record(dst *events.Record) error {
	if r.count == 0 {
		return r.control(dst)
	}
	*dst = events.Record{
		Request: events.Request{
			ID: value(r.id), Tenant: r.tenant, Gateway: value(r.gateway), User: value(r.user), APIKey: value(r.apiKey),
			Method: value(r.method), Host: value(r.host), Path: value(r.path), Route: value(r.route),
			Cost: r.cost, Count: r.count, Attrs: value(r.attrs),
		},
		Decision: events.Decision{
			ID: value(r.id), Verdict: events.Verdict(value(r.verdict)), Reason: events.Reason(value(r.reason)),
			Rule: value(r.rule), Key: value(r.key), Limit: value(r.limit), Cost: r.cost, Policy: uint64(r.policy), DecidedAt: r.decided.UTC(),
		},
	}
	q := &dst.Request
	if r.occurred != nil {
		q.Time = r.occurred.UTC()
	}
	switch dst.Decision.Reason {
	case events.ReasonLocal, events.ReasonTimeout: // decided by its gateway, charged what there was room for
		q.Verdict, q.Reason, q.Rule, q.Cost = dst.Decision.Verdict, dst.Decision.Reason, dst.Decision.Rule, 0
	default:
		q.Peek = r.cost == 0
	}
	if r.ip != nil {
		var err error
		if q.IP, err = netip.ParseAddr(*r.ip); err != nil {
			return err
		}
	}
	return nil
}

// control reads back what appendControl has written.
func (r *recordRow) control(dst *events.Record) error {
	c := &events.Control{
		Kind: events.ControlKind(value(r.reason)), ID: value(r.id), Tenant: r.tenant, Rule: value(r.rule), Key: value(r.key),
		Limit: value(r.limit), By: value(r.user), Policy: uint64(r.policy), At: r.decided.UTC(),
	}
	*dst = events.Record{Control: c}
	if c.Kind != events.ControlOverride {
		return nil
	}
	var more overrideMore
	if err := json.Unmarshal([]byte(value(r.attrs)), &more); err != nil {
		return fmt.Errorf("attrs: %w", err)
	}
	c.WindowMS, c.Until = more.WindowMS, more.Until
	return nil
}

// value is what a column holds, zero for null.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}
