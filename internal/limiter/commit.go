package limiter

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/idgen"
)

// headerRoom is what headers take of a message at most.
const headerRoom = 4 << 10

// errTooLarge says that a request's record is more than one message can carry:
// many rules count by something long. What it was charged is lost to its keys.
var errTooLarge = errors.New("the request and what its rules count by are larger than one message of the journal")

// block is what is decided and not yet in the journal.
type block struct {
	max      int    // bytes of body
	body     []byte // records, one a line
	records  int
	answers  []answer
	text     []byte // the answers' decisions
	decision []byte // the one under way
}

// answer is a decision that goes out once its record is in the journal.
type answer struct {
	subject  string // of the gateway
	reply    string // of whoever asked, besides; may be empty
	from, to int    // in the block's text
}

// commit decides what comes in, block by block, until stopped is closed and
// what was taken is committed. ctx bounds the last of it.
func (o *owner) commit(ctx context.Context, stopped <-chan struct{}) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		cancel()
		err = errors.Join(err, o.caughtUp())
	}()
	dropped, evicted := 0, uint64(0)
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		checks, reports := o.checks, o.reports
		var caughtUp <-chan struct{}
		if o.backlog != nil {
			caughtUp = o.backlog.done
			if o.backlog.size() >= o.config.BacklogMax {
				checks, reports = nil, nil // rather no answers than lost records
			}
		}
		select {
		case m := <-checks:
			if err := o.commitBlock(ctx, m, nil); err != nil {
				return err
			}
		case r := <-reports:
			if err := o.commitBlock(ctx, nil, &r); err != nil {
				return err
			}
		case <-sweep.C:
			now, err := o.now()
			if err != nil {
				return err
			}
			o.decider.Sweep(now, sweepBudget)
			usage := o.decider.Usage()
			o.metrics.windows.Set(float64(usage.Keys))
			o.metrics.windowBytes.Set(float64(usage.Bytes))
			o.metrics.evictedLive.Add(float64(usage.EvictedLive - evicted))
			evicted = usage.EvictedLive
			o.metrics.waiting.Set(float64(len(o.checks)))
			if n, err := o.sub.Dropped(); err == nil && n > dropped {
				o.metrics.dropped.Add(float64(n - dropped))
				dropped = n
			}
			if o.backlog != nil {
				o.metrics.backlog.Set(float64(o.backlog.size()))
			}
		case <-caughtUp:
			if err := o.caughtUp(); err != nil {
				return err
			}
		case <-stopped:
			return o.finish(ctx)
		}
	}
}

// finish commits the checks that are left. Reports are in their stream.
func (o *owner) finish(ctx context.Context) error {
	for len(o.checks) > 0 {
		if err := o.commitBlock(ctx, nil, nil); err != nil {
			return fmt.Errorf("last blocks: %w", err)
		}
	}
	if err := o.caughtUp(); err != nil {
		return err
	}
	return o.nc.FlushTimeout(drainTimeout)
}

// commitBlock decides a check or a report, if given, and what else waits, as
// far as it fits one block, and commits it.
func (o *owner) commitBlock(ctx context.Context, first *nats.Msg, firstReport *report) error {
	now, err := o.now()
	if err != nil {
		return err
	}
	room := maxBlock
	if first != nil {
		room--
		if err := o.addCheck(ctx, now, first); err != nil {
			return err
		}
	}
	if firstReport != nil {
		room--
		if err := o.addReport(ctx, now, firstReport); err != nil {
			return err
		}
	}
	checks := room
	if len(o.reports) > 0 {
		checks -= reservedForReports
	}
	n, err := o.addChecks(ctx, now, checks)
	if err != nil {
		return err
	}
	if err := o.addReports(ctx, now, room-n); err != nil {
		return err
	}
	return o.flush(ctx)
}

// addChecks decides up to most of the checks that wait, and counts them.
func (o *owner) addChecks(ctx context.Context, now time.Time, most int) (int, error) {
	for n := range most {
		select {
		case m := <-o.checks:
			if err := o.addCheck(ctx, now, m); err != nil {
				return n, err
			}
		default:
			return n, nil
		}
	}
	return most, nil
}

// addReports decides up to most of the reports that wait.
func (o *owner) addReports(ctx context.Context, now time.Time, most int) error {
	for range most {
		select {
		case r := <-o.reports:
			if err := o.addReport(ctx, now, &r); err != nil {
				return err
			}
		default:
			return nil
		}
	}
	return nil
}

// now is the owner's clock, in whole microseconds, never going back. It fails
// when the clock shows a year that ids cannot tell.
func (o *owner) now() (time.Time, error) {
	o.last = later(o.last, o.config.Clock().UTC().Truncate(time.Microsecond))
	_, err := idgen.Derive(o.last, o.config.Shard, 0, 0)
	return o.last, err
}

// addCheck decides a check. One that is wrong is answered at once; one that was
// decided before gets the same answer and no record.
func (o *owner) addCheck(ctx context.Context, now time.Time, m *nats.Msg) error {
	r, err := o.read(m.Subject, m.Data)
	if err == nil && r.Verdict != "" {
		err = &events.FieldError{Field: "verdict", Value: string(r.Verdict), Want: "nothing: a check has none yet"}
	}
	if err != nil {
		o.refuse(m, err)
		return nil
	}
	id, before, known, err := o.identify(now, &r)
	if err != nil {
		return err
	}
	if known {
		o.metrics.repeated.Inc()
		o.answer(&r, m.Reply, before)
		return nil
	}
	record := events.Record{Request: r}
	o.decider.Check(now, &record)
	err = o.add(ctx, now, &record, m.Reply, id)
	if errors.Is(err, errTooLarge) {
		o.refuse(m, err)
		return nil
	}
	return err
}

// addReport decides a report. One that was decided before is dropped, unless
// it tells what its gateway did: that is recorded and charges nothing.
func (o *owner) addReport(ctx context.Context, now time.Time, r *report) error {
	err := o.addReportRecord(ctx, now, r)
	o.reportSeq = r.seq // not before: add may commit what came ahead of it
	return err
}

func (o *owner) addReportRecord(ctx context.Context, now time.Time, r *report) error {
	if r.refused != nil {
		r.refused.At = now
		o.metrics.refused.WithLabelValues("report").Inc()
		return o.add(ctx, now, &events.Record{Refused: r.refused}, "", fingerprint{})
	}
	id, before, known, err := o.identify(now, &r.request)
	if err != nil {
		return err
	}
	if known && r.request.Verdict == "" {
		o.metrics.repeated.Inc()
		return nil
	}
	record := events.Record{Request: r.request}
	o.decider.Report(now, &record, known && before.verdict == events.Allow)
	err = o.add(ctx, now, &record, "", id)
	if errors.Is(err, errTooLarge) {
		o.metrics.refused.WithLabelValues("report").Inc()
		refused := events.Refusal{Subject: r.subject, Payload: events.AppendRequest(nil, &r.request), Error: err.Error(), At: now}
		return o.add(ctx, now, &events.Record{Refused: &refused}, "", fingerprint{})
	}
	return err
}

// identify gives a request without an id one, and looks up what was decided of
// one with an id.
func (o *owner) identify(now time.Time, r *events.Request) (id fingerprint, before decided, known bool, err error) {
	if r.ID == "" {
		minted, err := o.minter.Mint(now)
		if err != nil {
			return id, before, false, err
		}
		r.ID = minted.String()
	}
	id = o.seen.fingerprint(r.Tenant, r.ID)
	before, known = o.seen.decision(id)
	return id, before, known, nil
}

// add puts a record into the block. When it does not fit any more, what is
// there is committed first.
func (o *owner) add(ctx context.Context, now time.Time, r *events.Record, reply string, id fingerprint) error {
	b := &o.block
	r.Decision.Degraded = o.backlog != nil
	from := len(b.body)
	b.body = append(events.AppendRecord(b.body, r), '\n')
	if len(b.body)-from > b.max {
		b.body = b.body[:from]
		return errTooLarge
	}
	if len(b.body) > b.max {
		record := b.body[from:]
		b.body = b.body[:from]
		if err := o.flush(ctx); err != nil {
			return err
		}
		b.body = append(b.body, record...)
	}
	b.records++
	if r.Refused != nil {
		return nil
	}
	o.metrics.count(&r.Decision)
	b.decision = events.AppendDecision(b.decision[:0], &r.Decision)
	d := decided{r.Decision.Verdict, b.decision}
	o.seen.add(id, now, d)
	o.answer(&r.Request, reply, d)
	return nil
}

// answer lets a decision out with the block.
func (o *owner) answer(r *events.Request, reply string, d decided) {
	b := &o.block
	from := len(b.text)
	b.text = append(b.text, d.text...)
	b.answers = append(b.answers, answer{o.subject(d.verdict, r), reply, from, len(b.text)})
}

// flush appends the block to the journal and then lets its decisions out, or
// puts it into the backlog and lets them out as degraded.
func (o *owner) flush(ctx context.Context) error {
	b := &o.block
	if b.records > 0 {
		if err := o.append(ctx); err != nil {
			return err
		}
		o.metrics.block.Observe(float64(b.records))
	}
	if o.backlog != nil && !o.lease.held() {
		return errLeaseLost // the journal may be another one's by now
	}
	for i := range b.answers {
		a := &b.answers[i]
		decision := b.text[a.from:a.to]
		if o.backlog != nil {
			decision = marked(decision)
		}
		if err := o.publish(a.subject, decision); err != nil {
			return err
		}
		if a.reply != "" {
			if err := o.publish(a.reply, decision); err != nil {
				return err
			}
		}
	}
	clear(b.answers)
	b.body, b.text, b.answers, b.records = b.body[:0], b.text[:0], b.answers[:0], 0
	return nil
}

// publish sends a decision. A gateway that does not get it has its on_error,
// and can ask again: it is in the journal.
func (o *owner) publish(subject string, decision []byte) error {
	err := o.nc.Publish(subject, decision)
	if err != nil && !o.nc.IsClosed() {
		o.metrics.unsent.Inc()
		o.log.Debug("decision not sent", zap.String("subject", subject), zap.Error(err))
		return nil
	}
	return err
}

// subject returns where a gateway follows its decisions.
func (o *owner) subject(v events.Verdict, r *events.Request) string {
	key := address{v, r.Tenant, r.Gateway}
	if s, ok := o.subjects[key]; ok {
		return s
	}
	if len(o.subjects) >= maxSubjects {
		clear(o.subjects)
	}
	s := o.config.Names.Decision(v, r.Tenant, r.Gateway)
	key = address{v, string([]byte(r.Tenant)), string([]byte(r.Gateway))} // not the payload's memory
	o.subjects[key] = s
	return s
}

// address is what a decision's subject is made of.
type address struct {
	verdict         events.Verdict
	tenant, gateway string
}

// maxSubjects bounds the subjects that are kept ready.
const maxSubjects = 10_000
