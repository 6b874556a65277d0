// Package audit proves promises over what is stored. It reads the journal and
// Postgres and changes neither:
//
//   - promise 1: no window was over its limit and no denial was not due; besides,
//     no request id was charged twice and the limiter's clock never went back;
//   - promise 6: every record that the writer has passed is one row that says
//     what the record says, or a dead letter; and there are no other rows;
//   - promise 7: rows and dead letters are as many as the records that the
//     writer has passed, and what is missing from the journal is a recorded gap.
//
// Its memory is bounded by the admissions of live windows and a chunk of
// records.
package audit

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/pg"
)

// Options says what to audit.
type Options struct {
	DB        *pg.DB
	JetStream jetstream.JetStream
	Names     events.Names
	Shards    int           // all of them are audited
	Wait      time.Duration // how long the writer may take to store what the journal holds now; a lag after that is a fault, with 0 it is only told
}

// DefaultWait is time for a writer that is alive.
const DefaultWait = 30 * time.Second

// MaxNamed is how many faults are named; the rest is counted.
const MaxNamed = 20

// Report is what an audit found.
type Report struct {
	Shards     []Shard `json:"shards"`
	FaultCount int64   `json:"fault_count"`
	Faults     []Fault `json:"faults"` // the first MaxNamed
}

// Shard is what was checked of one shard.
type Shard struct {
	Shard       int    `json:"shard"`
	Journal     bool   `json:"journal"`      // there is one
	FirstBlock  uint64 `json:"first_block"`  // of the blocks that were read, like the next
	LastBlock   uint64 `json:"last_block"`   //
	Records     int64  `json:"records"`      // in these blocks
	Rules       int    `json:"rules"`        // that decided, counted per tenant
	Windows     int64  `json:"windows"`      // that were opened; one that runs empty may open again
	Admitted    int64  `json:"admitted"`     // charges that were judged, like the next
	Denied      int64  `json:"denied"`       //
	Unjudged    int64  `json:"unjudged"`     // charges whose window reaches back before the first block, or had just been changed
	Rows        int64  `json:"rows"`         // that were compared with their records
	DeadLetters int64  `json:"dead_letters"` // that were compared with their records
	TotalRows   int64  `json:"total_rows"`   // in Postgres, also of blocks that the journal has dropped
	TotalDead   int64  `json:"total_dead"`   // dead letters, likewise
	Expired     int64  `json:"expired"`      // rows that were dropped when their retention was over
	Gaps        int    `json:"gaps"`         // recorded
	Unwritten   int64  `json:"unwritten"`    // records of these blocks that the writer has not passed
}

// Fault is one thing that is not as promised.
type Fault struct {
	Promise int    `json:"promise"`
	Shard   int    `json:"shard"`           // -1 if it concerns none
	Block   uint64 `json:"block,omitempty"` // 0 if it concerns no record
	Index   int    `json:"index"`           // the record's place in the block
	What    string `json:"what"`
}

func (f Fault) String() string {
	switch {
	case f.Shard < 0:
		return fmt.Sprintf("promise %d: %s", f.Promise, f.What)
	case f.Block == 0:
		return fmt.Sprintf("promise %d, shard %d: %s", f.Promise, f.Shard, f.What)
	}
	return fmt.Sprintf("promise %d, shard %d, block %d, record %d: %s", f.Promise, f.Shard, f.Block, f.Index, f.What)
}

// OK tells whether everything is as promised.
func (r *Report) OK() bool { return r.FaultCount == 0 }

// String tells a person what was checked and what is wrong.
func (r *Report) String() string {
	var b strings.Builder
	for _, s := range r.Shards {
		if !s.Journal {
			fmt.Fprintf(&b, "shard %d: no journal\n", s.Shard)
			continue
		}
		fmt.Fprintf(&b, "shard %d: %d records in blocks %d to %d\n", s.Shard, s.Records, s.FirstBlock, s.LastBlock)
		fmt.Fprintf(&b, "  promise 1: %d charges admitted and %d denied by %d rules in %d windows\n", s.Admitted, s.Denied, s.Rules, s.Windows)
		if s.Unjudged > 0 {
			fmt.Fprintf(&b, "             %d charges not judged: their windows reach back before the first block, or had just been changed\n", s.Unjudged)
		}
		fmt.Fprintf(&b, "  promise 6: %d rows and %d dead letters compared with their records\n", s.Rows, s.DeadLetters)
		fmt.Fprintf(&b, "  promise 7: %d rows, %d dead letters, %d gaps", s.TotalRows, s.TotalDead, s.Gaps)
		if s.Expired > 0 {
			fmt.Fprintf(&b, "; %d rows have expired", s.Expired)
		}
		if s.Unwritten > 0 {
			fmt.Fprintf(&b, "; %d records not written yet", s.Unwritten)
		}
		b.WriteByte('\n')
	}
	for _, f := range r.Faults {
		fmt.Fprintln(&b, f)
	}
	if n := r.FaultCount - int64(len(r.Faults)); n > 0 {
		fmt.Fprintf(&b, "and %d more\n", n)
	}
	if r.OK() {
		b.WriteString("OK\n")
	} else {
		fmt.Fprintf(&b, "%d faults\n", r.FaultCount)
	}
	return b.String()
}

func (r *Report) fault(f Fault) {
	r.FaultCount++
	if len(r.Faults) < MaxNamed {
		r.Faults = append(r.Faults, f)
	}
}

// Run audits all shards. The error says that it could not; what is wrong with
// what is stored is in the report.
func Run(ctx context.Context, o Options) (Report, error) {
	r := Report{Faults: []Fault{}}
	deadline := time.Now().Add(o.Wait)
	for number := range o.Shards {
		s := &shardAudit{Options: o, number: number, whole: &r, report: Shard{Shard: number}, deadline: deadline}
		if err := s.run(ctx); err != nil {
			return r, fmt.Errorf("audit shard %d: %w", number, err)
		}
		r.Shards = append(r.Shards, s.report)
	}
	strays, err := o.DB.Strays(ctx, o.Shards)
	if err != nil {
		return r, err
	}
	if strays > 0 {
		r.fault(Fault{Promise: 6, Shard: -1, What: fmt.Sprintf("%d rows have ids of no shard", strays)})
	}
	return r, nil
}

// shardAudit audits one shard.
type shardAudit struct {
	Options
	number   int
	whole    *Report
	report   Shard
	deadline time.Time // for the writer
}

func (s *shardAudit) fault(promise int, at place, what string) {
	s.whole.fault(Fault{Promise: promise, Shard: s.number, Block: at.seq, Index: at.index, What: what})
}

func (s *shardAudit) run(ctx context.Context) error {
	j, err := journal.Open(ctx, s.JetStream, s.Names, s.number)
	var extent journal.Extent
	var stream int64
	switch {
	case errors.Is(err, journal.ErrNone):
	case err != nil:
		return err
	default:
		s.report.Journal = true
		stream = j.Identity()
		if extent, err = j.Extent(ctx); err != nil {
			return err
		}
		if err := s.await(ctx, stream, extent.Last); err != nil {
			return err
		}
	}
	tally, err := s.DB.Tally(ctx, s.number)
	if err != nil {
		return err
	}
	s.tally(&tally, stream)
	if extent.Blocks == 0 {
		return nil
	}
	return s.read(ctx, j, extent, &tally)
}

// await gives the writer time to store what the journal holds.
func (s *shardAudit) await(ctx context.Context, stream int64, last uint64) error {
	for {
		c, _, err := s.DB.Cursor(ctx, s.number)
		if err != nil {
			return err
		}
		if c.Stream == stream && c.LastSeq >= last || !time.Now().Before(s.deadline) {
			return nil
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// tally checks what Postgres alone can tell.
func (s *shardAudit) tally(t *pg.Tally, stream int64) {
	s.report.TotalRows, s.report.TotalDead, s.report.Expired, s.report.Gaps = t.Rows, t.DeadLetters, t.Expired, len(t.Gaps)
	if t.Rows+t.Expired+t.DeadLetters != t.Cursor.Records {
		s.fault(7, place{}, fmt.Sprintf("%d rows, %d expired ones and %d dead letters, but the cursor has counted %d records", t.Rows, t.Expired, t.DeadLetters, t.Cursor.Records))
	}
	if t.Beyond > 0 {
		for _, row := range t.BeyondRows {
			s.fault(6, place{}, fmt.Sprintf("row %s, stored %s, is beyond the cursor", row.ID, row.TS.Format(time.RFC3339Nano)))
		}
		if n := t.Beyond - int64(len(t.BeyondRows)); n > 0 {
			s.fault(6, place{}, fmt.Sprintf("%d more rows are beyond the cursor", n))
		}
	}
	if t.Started && stream == 0 {
		s.fault(7, place{}, "there is a cursor but no journal")
	}
}

// read judges every record and compares those that the writer has passed.
func (s *shardAudit) read(ctx context.Context, j *journal.Journal, extent journal.Extent, t *pg.Tally) error {
	blocks, err := j.Blocks(ctx, journal.Start{Seq: extent.First})
	if err != nil {
		return err
	}
	defer blocks.Stop()
	o := newOracle()
	c := &comparer{db: s.DB, shard: s, stream: j.Identity(), strays: map[rowKey]pg.Row{}}
	written := uint64(0) // last block that the writer has passed
	if t.Cursor.Stream == j.Identity() {
		written = t.Cursor.LastSeq
	}
	if written > extent.Last {
		s.checkAhead(ctx, j, written)
	}
	var passed int64
	for seq := uint64(0); seq < extent.Last; {
		b, foreign, err := nextBlock(ctx, blocks)
		if err != nil {
			return err
		}
		if seq == 0 {
			s.begin(o, c, &b, t)
		} else if b.Seq != seq+1 {
			s.fault(7, place{seq: b.Seq}, fmt.Sprintf("blocks %d to %d are missing from the journal", seq+1, b.Seq-1))
		}
		if seq = b.Seq; seq > extent.Last {
			break // what was to be read has been dropped meanwhile
		}
		s.report.LastBlock = seq
		records := s.judge(o, &b, foreign)
		s.report.Records += records
		if seq > written {
			s.report.Unwritten += records
			continue
		}
		passed += records
		if seq == written && !b.Stored.Equal(t.Cursor.LastStored) {
			s.fault(7, place{seq: seq}, fmt.Sprintf("the cursor is at this block and says that it was stored at %s, the journal says %s",
				t.Cursor.LastStored.Format(time.RFC3339Nano), b.Stored.Format(time.RFC3339Nano)))
		}
		if err := c.add(ctx, &b, foreign); err != nil {
			return err
		}
	}
	if err := c.compare(ctx); err != nil {
		return err
	}
	c.finish(t.Gaps)
	s.end(o, t, written, extent.Last, passed)
	return nil
}

// begin takes note of what the first block says of those before it.
func (s *shardAudit) begin(o *oracle, c *comparer, b *journal.Block, t *pg.Tally) {
	s.report.FirstBlock = b.Seq
	if b.Seq > 1 {
		o.trimmed = true
	}
	if b.Seq > 1 || len(t.Gaps) > 0 { // rows of blocks that are gone
		c.until = b.Stored.Add(-time.Microsecond)
	}
}

// end checks the sums.
func (s *shardAudit) end(o *oracle, t *pg.Tally, written, last uint64, passed int64) {
	s.count(o)
	if s.report.FirstBlock == 1 && len(t.Gaps) == 0 && written <= last && passed != t.Cursor.Records {
		s.fault(7, place{}, fmt.Sprintf("the journal has %d records up to the cursor, which has counted %d", passed, t.Cursor.Records))
	}
	if s.report.Unwritten > 0 && s.Wait > 0 {
		s.fault(6, place{}, fmt.Sprintf("%d records are not written after %v", s.report.Unwritten, s.Wait))
	}
}

// count takes over what the oracle has counted.
func (s *shardAudit) count(o *oracle) {
	s.report.Rules, s.report.Windows = len(o.rules), o.opened
	s.report.Admitted, s.report.Denied, s.report.Unjudged = o.admitted, o.denied, o.unjudged
}

// checkAhead tells a writer that went on meanwhile from a cursor beyond the
// journal's end.
func (s *shardAudit) checkAhead(ctx context.Context, j *journal.Journal, written uint64) {
	now, err := j.Extent(ctx)
	if err == nil && now.Last < written {
		s.fault(7, place{}, fmt.Sprintf("the cursor is at block %d, the journal ends at %d", written, now.Last))
	}
}

// judge puts a block's records to the oracle and counts them.
func (s *shardAudit) judge(o *oracle, b *journal.Block, foreign bool) int64 {
	var records int64
	var r events.Record
	for text := range strings.Lines(b.Body) {
		at := place{b.Seq, int(records)}
		records++
		if foreign || events.DecodeRecord(strings.TrimSuffix(text, "\n"), &r) != nil || r.Refused != nil {
			continue
		}
		for _, what := range o.judge(&r, len(text)) {
			s.fault(1, at, what)
		}
	}
	if records == 0 && (foreign || b.Count != 0) {
		records = 1 // it is one dead letter
	}
	return records
}
