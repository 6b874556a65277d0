// Package history reads what was decided: records in the order in which they were
// made, from the journal or from Postgres.
//
// The journal has every field of a request, for as long as it keeps blocks.
// Postgres reaches back further. It knows what a request was charged and not
// always what it asked: one that was not decided counts as one unit.
package history

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/pg"
)

// Span says which records are meant.
type Span struct {
	Tenant string    // whose; all tenants' if empty
	From   time.Time // decided at this time or later
	Until  time.Time // and before this one
}

// Source is where records are read from.
type Source interface {
	// Name is journal or postgres.
	Name() string
	// Read calls each with the records of a span, shard by shard and in order.
	// What was done by hand before it comes first, if it may still have been in
	// force. The record is reused from call to call. It stops at the first error.
	Read(ctx context.Context, span Span, each func(*events.Record) error) error
}

// Journal reads the journals of all shards.
type Journal struct {
	JetStream jetstream.JetStream
	Names     events.Names
	Shards    int
}

var _ Source = (*Journal)(nil)

// Name implements Source.
func (*Journal) Name() string { return "journal" }

// Begins returns since when everything that was decided is there; the zero time if
// nothing was dropped.
func (s *Journal) Begins(ctx context.Context, tenant string) (begins time.Time, err error) {
	err = s.each(ctx, tenant, func(j *journal.Journal, e journal.Extent) error {
		if e.First == 1 {
			return nil
		}
		return j.Read(ctx, journal.Start{Seq: e.First}, e.First, func(b journal.Block) error {
			if b.Stored.After(begins) {
				begins = b.Stored
			}
			return nil
		})
	})
	return begins, err
}

// Read implements Source.
func (s *Journal) Read(ctx context.Context, span Span, each func(*events.Record) error) error {
	return s.each(ctx, span.Tenant, func(j *journal.Journal, e journal.Extent) error {
		return read(ctx, j, e, span, each)
	})
}

// each calls f with the journals that have a tenant's records, or any.
func (s *Journal) each(ctx context.Context, tenant string, f func(*journal.Journal, journal.Extent) error) error {
	for shard := range s.Shards {
		if tenant != "" && shard != events.Shard(tenant, s.Shards) {
			continue
		}
		j, err := journal.Open(ctx, s.JetStream, s.Names, shard)
		if errors.Is(err, journal.ErrNone) {
			continue
		}
		if err != nil {
			return err
		}
		extent, err := j.Extent(ctx)
		if err != nil {
			return err
		}
		if extent.Blocks == 0 {
			continue
		}
		if err := f(j, extent); err != nil {
			return fmt.Errorf("journal of shard %d: %w", shard, err)
		}
	}
	return nil
}

// errEnd ends reading before the journal does.
var errEnd = errors.New("the span has ended")

func read(ctx context.Context, j *journal.Journal, e journal.Extent, span Span, each func(*events.Record) error) error {
	first, err := j.After(ctx, e, span.From)
	if err != nil {
		return err
	}
	first = max(first, e.First+1) - 1 // one that began before may go on: on Redis a block has several times
	if err := before(ctx, j, e, first, span.Tenant, each); err != nil {
		return err
	}
	err = j.Read(ctx, journal.Start{Seq: first}, e.Last, func(b journal.Block) error {
		return b.Records(func(_ int, r *events.Record) error {
			at, tenant := r.Decision.DecidedAt, r.Request.Tenant
			switch {
			case r.Refused != nil:
				return nil
			case r.Control != nil:
				at, tenant = r.Control.At, r.Control.Tenant
			}
			switch {
			case !at.Before(span.Until):
				return errEnd
			case at.Before(span.From) && r.Control == nil, span.Tenant != "" && tenant != span.Tenant:
				return nil
			}
			return each(r)
		})
	})
	if errors.Is(err, errEnd) {
		return nil
	}
	return err
}

// before calls each with what was done by hand in the blocks before one, from the
// oldest on that holds an override in force.
func before(ctx context.Context, j *journal.Journal, e journal.Extent, first uint64, tenant string, each func(*events.Record) error) error {
	var from uint64
	err := j.Read(ctx, journal.Start{Seq: first}, first, func(b journal.Block) error {
		from = b.Overrides
		return nil
	})
	if err != nil || from == 0 || from >= first {
		return err
	}
	from = max(from, e.First)
	return j.Read(ctx, journal.Start{Seq: from}, first-1, func(b journal.Block) error {
		var err error
		b.Controls(func(r *events.Record) {
			if err == nil && (tenant == "" || r.Control.Tenant == tenant) {
				err = each(r)
			}
		})
		return err
	})
}

// Postgres reads the rows of requests.
type Postgres struct{ DB *pg.DB }

var _ Source = (*Postgres)(nil)

// Name implements Source.
func (*Postgres) Name() string { return "postgres" }

// Read implements Source.
func (s *Postgres) Read(ctx context.Context, span Span, each func(*events.Record) error) error {
	return s.DB.Records(ctx, span.Tenant, span.From, span.Until, each)
}
