package audit

import (
	"context"
	"fmt"

	"github.com/weirhq/weir/internal/journal"
)

// Decisions holds a journal alone to promise 1, and to the once of promise 3:
// what Run does of them, without Postgres.
func Decisions(ctx context.Context, j *journal.Journal) (Report, error) {
	r := Report{Faults: []Fault{}}
	extent, err := j.Extent(ctx)
	if err != nil {
		return r, err
	}
	s := &shardAudit{number: j.Shard(), whole: &r, report: Shard{Shard: j.Shard(), Journal: true, FirstBlock: extent.First, LastBlock: extent.Last}}
	o := newOracle()
	o.trimmed = extent.First > 1
	if extent.Blocks > 0 {
		err = j.Read(ctx, journal.Start{Seq: extent.First}, extent.Last, func(b journal.Block) error {
			s.report.Records += s.judge(o, &b, false)
			return nil
		})
	}
	if err != nil {
		return r, fmt.Errorf("audit shard %d: %w", j.Shard(), err)
	}
	s.count(o)
	r.Shards = append(r.Shards, s.report)
	return r, nil
}
