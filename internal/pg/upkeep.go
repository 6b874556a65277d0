package pg

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	daysAhead = 3 // partitions made before their day comes

	// sealedAfter is how long after a day its partition is taken to be complete:
	// longer than a writer is behind when nothing is wrong. Rows that come later
	// are stored all the same.
	sealedAfter = time.Hour

	// upkeepLock is the advisory lock of who does the upkeep: an arbitrary number.
	upkeepLock = 5_719_266_042

	// sweepPages is how many pages of outcomes one statement looks through.
	sweepPages = 4096
)

// Upkeep is what was done to the tables.
type Upkeep struct {
	Analyzed []time.Time // days whose partition is complete
	Dropped  []time.Time // days past the retention
	Outcomes int64       // outcomes past it
}

// Upkeep makes partitions before their day comes, has those of past days
// vacuumed and analysed, once each, and drops what is to be kept no longer:
// every day that has ended at or before expire; with the zero time none. Until
// then no writer may have a row to store of such a day.
//
// It neither waits long for queries and writers nor makes them wait: what is
// locked for long is left for the next time, and the error says so. Of several
// processes one does it at a time; the others do nothing.
func (db *DB) Upkeep(ctx context.Context, now, expire time.Time) (Upkeep, error) {
	u := upkeep{now: now.UTC(), expire: expire.UTC()}
	if err := u.run(ctx, db); err != nil {
		return u.done, fmt.Errorf("upkeep: %w", err)
	}
	return u.done, nil
}

type upkeep struct {
	now, expire time.Time
	conn        *pgx.Conn // of its own: it ends with all that was set and locked
	done        Upkeep
}

func (u *upkeep) run(ctx context.Context, db *DB) (err error) {
	if u.conn, err = pgx.ConnectConfig(ctx, db.pool.Config().ConnConfig); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, u.conn.Close(context.WithoutCancel(ctx))) }()
	var mine bool
	if err := u.conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1)`, upkeepLock).Scan(&mine); err != nil || !mine {
		return err
	}
	// The cost delay is autovacuum's: the writer goes first.
	if _, err := u.conn.Exec(ctx, setLockTimeout+`; SET statement_timeout = 0; SET vacuum_cost_delay = '2ms'`); err != nil {
		return err
	}
	if err := u.makeAhead(ctx); err != nil {
		return err
	}
	partitions, err := u.partitions(ctx)
	if err != nil {
		return err
	}
	return errors.Join(u.drop(ctx, partitions), u.analyze(ctx, partitions), u.sweepOutcomes(ctx))
}

func (u *upkeep) makeAhead(ctx context.Context) error {
	var days []time.Time
	for n := range daysAhead + 1 {
		days = append(days, u.now.Truncate(day).Add(time.Duration(n)*day))
	}
	return pgx.BeginFunc(ctx, u.conn, func(tx pgx.Tx) error { return makePartitions(ctx, tx, days) })
}

// partition is the table of one day. Attached and expired are independent: to
// detach and to drop are transactions of their own, and a process may end between
// any two.
type partition struct {
	Relation uint32
	Name     string // partitionLayout
	Attached bool   // to requests
	Pending  bool   // it is being detached, for queries it is gone already
	Expired  bool   // its rows are counted in expired_days
	Vacuumed *time.Time
	day      time.Time
}

func (p *partition) end() time.Time { return p.day.Add(day) }

func (u *upkeep) partitions(ctx context.Context) ([]partition, error) {
	rows, err := u.conn.Query(ctx, `SELECT c.oid, c.relname::text, i.inhrelid IS NOT NULL, coalesce(i.inhdetachpending, false),
			EXISTS (SELECT FROM expired_days e WHERE e.relation = c.oid), s.last_vacuum
		FROM pg_class c
		LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND i.inhparent = 'requests'::regclass
		LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
		WHERE c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'requests'::regclass)
			AND c.relkind = 'r' AND c.relname ~ '^requests_[0-9]{8}$'
		ORDER BY c.relname`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (p partition, err error) {
		if err = row.Scan(&p.Relation, &p.Name, &p.Attached, &p.Pending, &p.Expired, &p.Vacuumed); err == nil {
			p.day, err = time.Parse(partitionLayout, p.Name)
		}
		return p, err
	})
}

// drop drops the partitions of days past the retention. One that somebody has
// detached is theirs.
func (u *upkeep) drop(ctx context.Context, all []partition) error {
	for _, p := range all {
		if p.end().After(u.expire) || !p.Attached && !p.Expired {
			continue
		}
		if err := u.dropPartition(ctx, p); err != nil {
			return fmt.Errorf("drop %s: %w", p.Name, err)
		}
		u.done.Dropped = append(u.done.Dropped, p.day)
	}
	return nil
}

func (u *upkeep) dropPartition(ctx context.Context, p partition) error {
	if !p.Expired {
		if err := u.count(ctx, p); err != nil {
			return err
		}
	}
	if p.Attached {
		how := ` CONCURRENTLY`
		if p.Pending { // a query that may still look at it held it up
			how = ` FINALIZE`
		}
		if _, err := u.conn.Exec(ctx, `ALTER TABLE requests DETACH PARTITION `+p.Name+how); err != nil {
			return err
		}
	}
	_, err := u.conn.Exec(ctx, `DROP TABLE `+p.Name)
	return err
}

// count writes down how many rows go with a partition, so that rows, dead
// letters and what has expired still add up to what the cursor has counted.
func (u *upkeep) count(ctx context.Context, p partition) error {
	return pgx.BeginFunc(ctx, u.conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `LOCK TABLE `+p.Name+` IN SHARE MODE`); err != nil {
			return err
		}
		// Each shard has a row, so that the partition is known even if it is empty.
		_, err := tx.Exec(ctx, `INSERT INTO expired_days (relation, shard, day, rows)
			SELECT $1, c.shard, $2, coalesce(n.rows, 0)
			FROM writer_cursor c
			LEFT JOIN (SELECT id / 10000000 % 100 AS shard, count(*) AS rows FROM `+p.Name+` GROUP BY 1) n ON n.shard = c.shard
			WHERE c.shard >= 0`, p.Relation, p.day)
		return err
	})
}

// analyze vacuums and analyses partitions that are complete, once: frozen,
// nothing has to visit their pages again, and an index alone can answer.
func (u *upkeep) analyze(ctx context.Context, all []partition) error {
	for _, p := range all {
		sealed := p.end().Add(sealedAfter)
		if !p.Attached || p.Pending || sealed.After(u.now) || !p.end().After(u.expire) || p.Vacuumed != nil && !p.Vacuumed.Before(sealed) {
			continue
		}
		// Without truncation, which would want a lock that readers wait for.
		if _, err := u.conn.Exec(ctx, `VACUUM (FREEZE, ANALYZE, TRUNCATE FALSE) `+p.Name); err != nil {
			return fmt.Errorf("vacuum %s: %w", p.Name, err)
		}
		u.done.Analyzed = append(u.done.Analyzed, p.day)
	}
	if len(u.done.Analyzed) == 0 {
		return nil
	}
	// Autovacuum never looks at the table as a whole, and queries are planned by it.
	if _, err := u.conn.Exec(ctx, `ANALYZE requests`); err != nil {
		return fmt.Errorf("analyze requests: %w", err)
	}
	return nil
}

// sweepOutcomes deletes the outcomes of requests that are gone. One may be
// stored a while before its request, so a day more is kept. The table has no
// index on ts, which would cost more than to look through it when a day has
// gone; each statement takes a stretch of it, for moments.
func (u *upkeep) sweepOutcomes(ctx context.Context) error {
	if len(u.done.Dropped) == 0 {
		return nil
	}
	before := u.done.Dropped[len(u.done.Dropped)-1]
	var pages int64
	if err := u.conn.QueryRow(ctx, `SELECT pg_relation_size('outcomes') / current_setting('block_size')::bigint`).Scan(&pages); err != nil {
		return fmt.Errorf("outcomes: %w", err)
	}
	for page := int64(0); page < pages; page += sweepPages {
		tag, err := u.conn.Exec(ctx, `DELETE FROM outcomes WHERE ctid >= $1::text::tid AND ctid < $2::text::tid AND ts < $3`,
			fmt.Sprintf("(%d,0)", page), fmt.Sprintf("(%d,0)", page+sweepPages), before)
		if err != nil {
			return fmt.Errorf("outcomes: %w", err)
		}
		u.done.Outcomes += tag.RowsAffected()
	}
	return nil
}
