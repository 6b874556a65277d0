package pg

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	day             = 24 * time.Hour
	partitionLayout = "requests_20060102"

	// partitionLock is the advisory lock under which partitions are made: an
	// arbitrary number.
	partitionLock = 5_719_266_041

	// setLockTimeout is how long anything here waits for a lock, and at most makes
	// others wait that come after it. It is longer than Postgres' deadlock_timeout,
	// after which autovacuum gives way.
	setLockTimeout      = `SET lock_timeout = '3s'`
	setLocalLockTimeout = `SET LOCAL lock_timeout = '3s'`
)

// partitions remembers which days have a partition.
type partitions struct {
	mu   sync.Mutex // guards days
	days map[time.Time]bool
}

// missing returns those of the days of which it is not known that they have a
// partition.
func (p *partitions) missing(days []time.Time) []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	var missing []time.Time
	for _, d := range days {
		if !p.days[d] {
			missing = append(missing, d)
		}
	}
	return missing
}

func (p *partitions) add(days []time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.days == nil {
		p.days = map[time.Time]bool{}
	}
	for _, d := range days {
		p.days[d] = true
	}
}

func (p *partitions) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.days = nil
}

// makePartitions makes the partitions of the days given, each a midnight in
// UTC, where they are missing.
func (db *DB) makePartitions(ctx context.Context, days []time.Time) error {
	missing := db.partitions.missing(days)
	if len(missing) == 0 {
		return nil
	}
	err := pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error { return makePartitions(ctx, tx, missing) })
	if err != nil {
		return fmt.Errorf("make partitions: %w", err)
	}
	db.partitions.add(missing)
	return nil
}

func makePartitions(ctx context.Context, tx pgx.Tx, days []time.Time) error {
	if _, err := tx.Exec(ctx, setLocalLockTimeout); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, partitionLock); err != nil {
		return err
	}
	for _, d := range days {
		if err := makePartition(ctx, tx, d); err != nil {
			return err
		}
	}
	return nil
}

// makePartition makes a table and attaches it: unlike CREATE TABLE … PARTITION
// OF that waits for no reader of requests, nor makes one wait.
func makePartition(ctx context.Context, tx pgx.Tx, d time.Time) error {
	name := d.Format(partitionLayout)
	var attached bool
	const ask = `SELECT EXISTS (SELECT FROM pg_inherits
		WHERE inhrelid = to_regclass($1) AND inhparent = 'requests'::regclass)`
	if err := tx.QueryRow(ctx, ask, name).Scan(&attached); err != nil || attached {
		return err
	}
	_, err := tx.Exec(ctx, `CREATE TABLE `+name+` (LIKE requests INCLUDING ALL EXCLUDING COMMENTS);
		ALTER TABLE requests ATTACH PARTITION `+name+` FOR VALUES
		FROM ('`+d.Format(time.RFC3339)+`') TO ('`+d.Add(day).Format(time.RFC3339)+`')`)
	return err
}
