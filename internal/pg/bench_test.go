package pg_test

import (
	"fmt"
	"testing"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/pg"
)

// A batch of which some rows are refused.
func BenchmarkPoison(b *testing.B) {
	const rows = 10_000
	for _, bad := range []int{0, 1, 100, rows} {
		b.Run(fmt.Sprintf("bad=%d", bad), func(b *testing.B) {
			db, conn := mustMigrated(b)
			var batch pg.Batch
			records := make([]events.Record, 1000)
			for seq := range uint64(rows / 1000) {
				for i := range records {
					records[i] = full()
					if bad > 0 && (int(seq)*1000+i)%(rows/bad) == rows/bad/2 {
						records[i].Request.User = "\xff"
					}
				}
				if seq == 0 {
					batch.Reset(mustCursor(b, db))
				}
				add(b, &batch, seq+1, stored, records...)
			}
			for b.Loop() {
				if got, err := db.Commit(b.Context(), &batch); err != nil || got.DeadLetters != bad {
					b.Fatalf("%+v, %v", got, err)
				}
				b.StopTimer()
				mustExec(b, conn, `TRUNCATE requests, dead_letters; UPDATE writer_cursor SET last_seq = 0`)
				b.StartTimer()
			}
			b.ReportMetric(rows*float64(b.N)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
