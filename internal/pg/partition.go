package pg

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	day       = 24 * time.Hour
	daysAhead = 2 // partitions made before their day comes

	// partitionLock is the advisory lock under which partitions are made: an
	// arbitrary number.
	partitionLock = 5_719_266_041
)

// partitions remembers which days have a partition.
type partitions struct {
	mu   sync.Mutex // guards days
	days map[time.Time]bool
}

// missing returns the days wanted of which it is not known that they have a
// partition: those given and the ones ahead of the last.
func (p *partitions) missing(days []time.Time) []time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	var missing []time.Time
	for _, d := range days {
		for ahead := range daysAhead + 1 {
			if want := d.Add(time.Duration(ahead) * day); !p.days[want] {
				missing = append(missing, want)
			}
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
// UTC, and of the days that follow, where they are missing.
func (db *DB) makePartitions(ctx context.Context, days []time.Time) error {
	missing := db.partitions.missing(days)
	if len(missing) == 0 {
		return nil
	}
	err := pgx.BeginFunc(ctx, db.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, partitionLock); err != nil {
			return err
		}
		for _, d := range missing {
			if err := makePartition(ctx, tx, d); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("make partitions: %w", err)
	}
	db.partitions.add(missing)
	return nil
}

// makePartition makes a table and attaches it: unlike CREATE TABLE … PARTITION
// OF that waits for no reader of requests, nor makes one wait.
func makePartition(ctx context.Context, tx pgx.Tx, d time.Time) error {
	name := "requests_" + d.Format("20060102")
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
