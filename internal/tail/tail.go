// Package tail follows an access log and tells Weir of its requests, each once.
//
// What Weir was asked about has been decided and is on record: of that the outcome
// is told, which is status, latency and bytes. What was let through because Weir
// did not answer is reported as that, and all else is reported to be decided.
//
// The log is the queue: at most a batch of it is in memory, and while Weir cannot
// be reached it waits where it is. How far it has been read is written down when
// Weir has what was read. Whoever is killed between the two tells a batch again,
// under the same ids, which Weir counts once within the limiter's horizon of two
// minutes.
package tail

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/cenkalti/backoff/v4"

	"github.com/weirhq/weir/internal/accesslog"
	"github.com/weirhq/weir/internal/events"
)

// Options say what is followed, and how.
type Options struct {
	Log       string           // the access log's path; it need not be there yet
	Gateway   string           // who follows it: with the log's path and the place of a line that makes its id
	State     string           // file that says how far it has been read
	FromStart bool             // without a state, begin at the log's beginning; else with what is written from now on
	Tenant    string           // of requests of which the log does not say
	Fields    accesslog.Fields // where a log in JSON says who
	Progress  io.Writer        // told how it goes: a status line on a terminal, else a line now and then; nil: nobody
}

// DefaultOptions follow no log yet.
func DefaultOptions() Options { return Options{Tenant: "default"} }

const (
	// pollEvery is how often the log is looked at. A watch would not see files on
	// other machines, and what is reported hurries nobody.
	pollEvery = 250 * time.Millisecond
	// maxBatch bounds the lines that are told in one go: enough for their
	// acknowledgements to be awaited together, at some kilobytes each.
	maxBatch = 512
	// storeTimeout bounds one attempt to tell a batch.
	storeTimeout = 5 * time.Second
)

// Validate names every fault at once.
func (o Options) Validate() error {
	faults := []error{events.CheckToken("tenant", o.Tenant), events.CheckToken("gateway", o.Gateway)}
	if o.Log == "" {
		faults = append(faults, errors.New("log: want a path, found nothing"))
	}
	if o.State == "" {
		faults = append(faults, errors.New("state: want a path, found nothing"))
	}
	if o.State != "" && filepath.Clean(o.State) == filepath.Clean(o.Log) {
		faults = append(faults, fmt.Errorf("state: want another file than the log, found %s", o.State))
	}
	return errors.Join(faults...)
}

// client is a gateway's.
type client interface {
	Report(ctx context.Context, requests ...events.Request) error
	Outcome(ctx context.Context, outcomes ...events.Outcome) error
}

// Run follows the log until ctx ends, which is no error. A line that cannot be
// read is counted and shown, and the rest goes on. The error is that the log or
// the state cannot be read or written.
func Run(ctx context.Context, client client, o Options) (Summary, error) {
	if err := o.Validate(); err != nil {
		return Summary{}, err
	}
	t := &tail{Options: o, client: client, start: time.Now()}
	t.log = files{path: o.Log, buffer: make([]byte, accesslog.MaxLine), warn: t.warn}
	t.speakTo(o.Progress)
	if err := t.open(); err != nil {
		return t.summary, errors.Join(err, t.log.close())
	}
	stop := t.show()
	err := t.follow(ctx)
	stop()
	return t.summary, errors.Join(err, t.log.close())
}

// tail is a log being followed.
type tail struct {
	Options
	client client
	log    files
	batch  batch
	start  time.Time
	tally  // what has come of the lines
}

// open finds where to begin, and writes it down: a start that is killed before
// its first line must not begin at another end.
func (t *tail) open() error {
	s, ok, err := load(t.State)
	if err != nil {
		return fmt.Errorf("state: %w", err)
	}
	if ok {
		err = t.log.resume(s, t.start)
	} else {
		err = t.log.open(t.FromStart, t.start)
	}
	if err != nil {
		return fmt.Errorf("access log: %w", err)
	}
	return t.save()
}

func (t *tail) save() error {
	s := t.log.state()
	if err := s.save(t.State); err != nil {
		return fmt.Errorf("state: %w (say --state FILE to keep it elsewhere)", err)
	}
	return nil
}

// follow tells of line after line until ctx ends.
func (t *tail) follow(ctx context.Context) error {
	ticker := time.NewTicker(pollEvery)
	defer ticker.Stop()
	for ctx.Err() == nil {
		t.batch.clear()
		if err := t.log.collect(time.Now(), t.take); err != nil {
			return fmt.Errorf("access log: %w", err)
		}
		t.isBehind(t.log.behind())
		if t.batch.lines > 0 {
			if !t.store(ctx) {
				return nil
			}
			t.log.stored()
			t.stored(&t.batch, t.log.behind())
			if err := t.save(); err != nil {
				return err
			}
			if t.batch.lines == maxBatch {
				continue
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
	return nil
}

// batch is what is told in one go.
type batch struct {
	lines    int // with those that are bad or blank
	reports  []events.Request
	outcomes []events.Outcome
	bad      int
	passed   int // of the reports, those of requests let through without an answer
}

func (b *batch) clear() { *b = batch{reports: b.reports[:0], outcomes: b.outcomes[:0]} }

// take puts what a line says into the batch, and tells whether there is room for
// more.
func (t *tail) take(s *source, line text) bool {
	t.batch.lines++
	if len(bytes.TrimSpace(line.line)) > 0 {
		if err := t.tell(s, line); err != nil {
			t.batch.bad++
			t.bad(line, err)
		}
	}
	return t.batch.lines < maxBatch
}

func (t *tail) tell(s *source, line text) error {
	if line.long {
		return accesslog.Bad(line.line, accesslog.ErrTooLong)
	}
	l, err := accesslog.Parse(line.line, t.Fields)
	if err != nil {
		return err
	}
	r := l.Request
	r.Tenant, r.Gateway = t.Tenant, t.Gateway
	if l.Tenant != "" {
		r.Tenant = events.Token(l.Tenant) // such as a host
	}
	switch r.ID = l.Asked; {
	case l.Asked == "":
		r.ID = s.id(t.Gateway, t.Log, line)
	case l.Decided:
		o := events.Outcome{
			ID: r.ID, Tenant: r.Tenant, Gateway: r.Gateway, Time: r.Time,
			Status: r.Status, LatencyUS: r.LatencyUS, BytesIn: r.BytesIn, BytesOut: r.BytesOut,
		}
		if err := o.Validate(); err != nil {
			return err
		}
		t.batch.outcomes = append(t.batch.outcomes, o)
		return nil
	default:
		r.Verdict, r.Reason = events.Allow, events.ReasonTimeout
	}
	if err := r.Validate(); err != nil {
		return err
	}
	if r.Verdict != "" {
		t.batch.passed++
	}
	t.batch.reports = append(t.batch.reports, r)
	return nil
}

// store tells the batch for as long as it takes, and returns whether that is done:
// not if ctx ends first, but for an attempt that is under way.
func (t *tail) store(ctx context.Context) bool {
	tell := func() error {
		attempt, done := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
		defer done()
		if err := t.client.Report(attempt, t.batch.reports...); err != nil {
			return err
		}
		return t.client.Outcome(attempt, t.batch.outcomes...)
	}
	again := backoff.NewExponentialBackOff(backoff.WithMaxInterval(time.Second), backoff.WithMaxElapsedTime(0))
	err := backoff.RetryNotify(tell, backoff.WithContext(again, ctx), func(err error, _ time.Duration) { t.waits(err) })
	return err == nil
}
