package limiter

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

// underWay is how many blocks may be on their way to the journal: while one is,
// the next one is decided and sent after it.
const underWay = 2

// commit decides what comes in, block by block, until stopped is closed and
// what was taken is in the journal. ctx bounds the last of it.
func (o *owner) commit(ctx context.Context, stopped <-chan struct{}) error {
	defer o.leave()
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	stopping := false
	for {
		if stopping && len(o.checks) == 0 && !o.deciding && len(o.queue) == 0 {
			return o.nc.FlushTimeout(drainTimeout)
		}
		checks, reports, asked := o.checks, o.reports, o.asked
		if !o.hasRoom() {
			checks, reports, asked = nil, nil, nil
		}
		if stopping {
			reports = nil // they are in their stream
		}
		changes := o.changes
		if o.deciding {
			changes = nil // the decider is not ours
		}
		var err error
		select {
		case m := <-checks:
			err = o.gather(ctx, m, nil)
		case r := <-reports:
			err = o.gather(ctx, nil, &r)
		case m := <-asked:
			err = o.serve(ctx, m)
		case failed := <-o.decided:
			o.deciding = false
			err = o.conclude(failed)
		case m := <-o.appender.Acks():
			var stored int
			if stored, err = o.appender.Take(ctx, m); err == nil {
				err = o.stored(stored)
			}
		case <-o.appender.Due():
			o.appender.Retry()
		case <-o.late.C:
			err = o.degrade()
		case <-sweep.C:
			err = o.sweep()
		case c := <-changes:
			c.answer <- o.change(ctx, c)
		case <-stopped:
			stopping, stopped = true, nil
		case <-ctx.Done():
			err = fmt.Errorf("last blocks: %w", ctx.Err())
		}
		if err != nil {
			return err
		}
	}
}

// hasRoom tells whether more can be decided now.
func (o *owner) hasRoom() bool {
	switch {
	case o.deciding:
		return false
	case o.degraded:
		return o.queued < o.config.BacklogMax // rather no answers than lost records
	}
	return len(o.queue) < underWay
}

// sweep frees windows that have run empty, and tells of what there is.
func (o *owner) sweep() error {
	now, err := o.now()
	if err != nil {
		return err
	}
	o.save(now)
	if o.memory != nil {
		o.memory.Sweep(now, sweepBudget)
		usage := o.memory.Usage()
		o.metrics.windows.Set(float64(usage.Keys))
		o.metrics.windowBytes.Set(float64(usage.Bytes))
		o.metrics.evictedLive.Add(float64(usage.EvictedLive - o.evicted))
		o.evicted = usage.EvictedLive
	}
	if !o.deciding {
		o.noteOverrides(now)
	}
	o.metrics.waiting.Set(float64(len(o.checks)))
	if n, err := o.sub.Dropped(); err == nil && n > o.dropped {
		o.metrics.dropped.Add(float64(n - o.dropped))
		o.dropped = n
	}
	o.metrics.backlog.Set(float64(o.queued))
	return nil
}

// gather takes a check or a report, and what else waits, as far as a block may
// hold it, and has it decided.
func (o *owner) gather(ctx context.Context, check *nats.Msg, first *report) error {
	if _, err := o.now(); err != nil {
		return err
	}
	room := maxBlock
	if first != nil {
		room--
		if err := o.takeReport(ctx, first); err != nil {
			return err
		}
	}
	most := room
	if len(o.reports) > 0 {
		most -= reservedForReports
	}
	for check != nil && most > 0 {
		if err := o.takeCheck(ctx, check); err != nil {
			return err
		}
		room--
		most--
		check = nil
		if most > 0 {
			select {
			case check = <-o.checks:
			default:
			}
		}
	}
	for range room {
		select {
		case r := <-o.reports:
			if err := o.takeReport(ctx, &r); err != nil {
				return err
			}
			continue
		default:
		}
		break
	}
	return o.decide(ctx)
}

// decide decides the batch: at once, or, where that takes a while, beside what
// else is to be done.
func (o *owner) decide(ctx context.Context) error {
	if o.memory != nil || len(o.batch) == 0 {
		return o.decideNow(ctx)
	}
	now, err := o.now()
	if err != nil {
		return err
	}
	o.deciding = true
	go func() { o.decided <- o.decider.Decide(ctx, now) }() // it ends within the store's timeout
	return nil
}

// decideNow decides the batch at an instant at which all of it has come: gateways
// count from when they sent a check until what is denied could pass.
func (o *owner) decideNow(ctx context.Context) error {
	now, err := o.now()
	if err != nil {
		return err
	}
	return o.conclude(o.decider.Decide(ctx, now))
}

// conclude makes a block of the batch that was decided. failed is what the
// windows said if they could not decide it.
func (o *owner) conclude(failed error) error {
	if o.down != (failed != nil) {
		o.notice(failed)
	}
	for i := range o.batch {
		if err := o.add(&o.batch[i]); err != nil {
			return err
		}
		if e := &o.batch[i]; e.seq > 0 { // not before: add may send what came ahead of it
			o.reportSeq = e.seq
			o.appender.ReportStream(e.stream)
		}
	}
	clear(o.batch)
	o.batch = o.batch[:0]
	clear(o.batched)
	return o.send()
}

// notice tells of windows that cannot be asked any more, or can again. That a
// batch did not fail says nothing if it asked for nothing.
func (o *owner) notice(failed error) {
	asked := func(e entry) bool { return e.record.Decision.Rule != "" }
	switch {
	case failed != nil:
		o.log.Error("the windows cannot be asked: rules' on_error decides", zap.Error(failed))
		o.metrics.available.Set(0)
		o.down = true
	case slices.ContainsFunc(o.batch, asked):
		o.log.Warn("the windows answer again")
		o.metrics.available.Set(1)
		o.down = false
	}
}
