package limiter

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/idgen"
)

// entry is a request that is being decided, or what stands in its place.
type entry struct {
	record  events.Record
	id      fingerprint
	check   *nats.Msg // nil of a report
	subject string    // of a report
	seq     uint64    // of a report in its stream, else 0
	stream  int64     // that one, see report
	known   bool      // what was decided of the id is remembered
	drop    bool      // a report of what is recorded already
}

// now is the owner's clock, in whole microseconds, never going back. It fails
// when the clock shows a year that ids cannot tell.
func (o *owner) now() (time.Time, error) {
	o.last = later(o.last, o.config.Clock().UTC().Truncate(time.Microsecond))
	_, err := idgen.Derive(o.last, o.config.Shard, 0, 0)
	return o.last, err
}

// takeCheck adds a check to the batch. One that is wrong is answered at once;
// one that was decided before gets the same answer and no record.
func (o *owner) takeCheck(ctx context.Context, m *nats.Msg) error {
	r, err := o.read(m.Subject, m.Data)
	if err == nil && r.Verdict != "" {
		err = &events.FieldError{Field: "verdict", Value: string(r.Verdict), Want: "nothing: a check has none yet"}
	}
	if err != nil {
		o.refuse(m, err)
		return nil
	}
	id, before, known, err := o.identify(ctx, &r)
	if err != nil {
		return err
	}
	if known {
		o.metrics.repeated.Inc()
		o.answer(&r, m.Reply, before)
		return nil
	}
	e := o.enter(entry{record: events.Record{Request: r}, id: id, check: m})
	o.decider.Check(&e.record)
	return nil
}

// takeReport adds a report to the batch. One that was decided before is
// dropped, unless it tells what its gateway did: that is recorded and charges
// nothing.
func (o *owner) takeReport(ctx context.Context, r *report) error {
	if r.refused != nil {
		r.refused.At = o.last
		o.metrics.refused.WithLabelValues("report").Inc()
		o.enter(entry{record: events.Record{Refused: r.refused}, seq: r.seq, stream: r.stream})
		return nil
	}
	id, before, known, err := o.identify(ctx, &r.request)
	if err != nil {
		return err
	}
	if known && r.request.Verdict == "" {
		o.metrics.repeated.Inc()
		o.enter(entry{seq: r.seq, stream: r.stream, drop: true})
		return nil
	}
	e := o.enter(entry{record: events.Record{Request: r.request}, id: id, subject: r.subject, seq: r.seq, stream: r.stream, known: known})
	o.decider.Report(&e.record, known && before.verdict == events.Allow)
	return nil
}

// enter adds to the batch, which has room for all that is taken at once.
func (o *owner) enter(e entry) *entry {
	o.batch = append(o.batch, e)
	if e.id != (fingerprint{}) {
		o.batched[e.id] = struct{}{}
	}
	return &o.batch[len(o.batch)-1]
}

// identify gives a request without an id one, and looks up what was decided of
// one with an id. If that is in the batch it is decided first.
func (o *owner) identify(ctx context.Context, r *events.Request) (id fingerprint, before decided, known bool, err error) {
	if r.ID == "" {
		minted, err := o.minter.Mint(o.last)
		if err != nil {
			return id, before, false, err
		}
		r.ID = minted.String()
	}
	id = o.seen.fingerprint(r.Tenant, r.ID)
	if _, ok := o.batched[id]; ok {
		if err := o.decideNow(ctx); err != nil {
			return id, before, false, err
		}
	}
	before, known = o.seen.decision(id)
	return id, before, known, nil
}
