// Package replay sends the requests of access logs through a running system, as
// if they were made now.
//
// All logs are read first and put into the order of their times, lines of the
// same time in that of the logs. What is sent is at most MaxRequests, which
// take about a kilobyte of memory each.
package replay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nuid"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/internal/accesslog"
	"github.com/weirhq/weir/internal/events"
)

// MaxRequests bounds the requests of one replay.
const MaxRequests = 5_000_000

// Options say what is replayed, and how.
type Options struct {
	Files    []string  // access logs, as accesslog reads them; - is the standard input
	Tenant   string    // of all requests
	Reports  bool      // send reports; else checks
	Speed    float64   // factor of the logs' own pace; 0: as fast as possible
	InFlight int       // requests under way at once
	Progress io.Writer // told how far it is: a bar on a terminal, else a line now and then; nil: nobody
}

// DefaultOptions replay checks as fast as possible.
func DefaultOptions() Options { return Options{Tenant: "default", InFlight: 64} }

const (
	maxInFlight = 10_000
	maxSpeed    = 1e6
	// storeTimeout bounds one attempt to store a report, and givenUp all of them.
	storeTimeout = 5 * time.Second
	givenUp      = 30 * time.Second
)

// Validate names every fault at once.
func (o Options) Validate() error {
	faults := []error{events.CheckToken("tenant", o.Tenant)}
	if len(o.Files) == 0 {
		faults = append(faults, errors.New("files: want at least one, found none"))
	}
	if !(o.Speed >= 0 && o.Speed <= maxSpeed) { // nor NaN
		faults = append(faults, fmt.Errorf("speed: want 0 to %v, found %v", float64(maxSpeed), o.Speed))
	}
	if o.InFlight < 1 || o.InFlight > maxInFlight {
		faults = append(faults, fmt.Errorf("in flight: want 1 to %d, found %d", maxInFlight, o.InFlight))
	}
	return errors.Join(faults...)
}

// client is a gateway's.
type client interface {
	Check(ctx context.Context, r events.Request) (events.Decision, error)
	Report(ctx context.Context, requests ...events.Request) error
}

// ErrNobody says that no check at all had a decision in time.
var ErrNobody = errors.New("no check has had a decision in time: is a limiter running?")

// Run replays the logs. A line that cannot be read, and a request that is
// refused, are counted and the rest goes on. The summary tells how far it came
// also when the error is that ctx ended, that reports cannot be stored, or
// ErrNobody. Nothing is sent if a log cannot be read to its end.
func Run(ctx context.Context, client client, o Options) (Summary, error) {
	if err := o.Validate(); err != nil {
		return Summary{}, err
	}
	r := &run{Options: o, client: client}
	for _, file := range o.Files {
		if err := r.read(ctx, file); err != nil {
			return r.summary, err
		}
	}
	slices.SortFunc(r.order, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.index, b.index))
	})
	r.summary.Read = int64(len(r.requests))
	err := r.send(ctx)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("ended after %d of %d requests: %w", r.summary.Requests, r.summary.Read, context.Cause(ctx))
	}
	return r.summary, err
}

// run is a replay under way.
type run struct {
	Options
	client   client
	requests []events.Request // as read
	order    []place          // of the requests, by time
	start    time.Time
	tally    // what has come of those sent
}

// place is a request's in the order of times.
type place struct {
	at    int64 // microseconds since 1970
	index int   // in run.requests
}

func (r *run) read(ctx context.Context, file string) error {
	log, err := accesslog.Open(file)
	if err != nil {
		return fmt.Errorf("access log: %w", err)
	}
	defer log.Close()
	lines, err := accesslog.NewReader(log)
	for err == nil {
		if err = ctx.Err(); err != nil {
			break
		}
		var line accesslog.Line
		line, err = lines.Next()
		if bad, ok := errors.AsType[*accesslog.LineError](err); ok {
			r.summary.bad(BadLine{File: file, Line: bad.Line, Text: bad.Text, Reason: bad.Err.Error()})
			err = nil
			continue
		}
		if err != nil {
			break
		}
		if len(r.requests) == MaxRequests {
			return fmt.Errorf("access log %s, line %d: want at most %d requests in one replay: split the log", file, line.Number, MaxRequests)
		}
		r.order = append(r.order, place{line.Request.Time.UnixMicro(), len(r.requests)})
		r.requests = append(r.requests, line.Request)
	}
	if !errors.Is(err, io.EOF) {
		return fmt.Errorf("access log %s: %w", file, err)
	}
	return nil
}

// send sends all requests in their order and returns when all are answered.
func (r *run) send(ctx context.Context) error {
	r.start = time.Now()
	group, inner := errgroup.WithContext(ctx)
	due := make(chan events.Request)
	group.Go(func() error {
		defer close(due)
		for _, p := range r.order {
			request, err := r.await(inner, p)
			if err != nil {
				return err
			}
			select {
			case due <- request:
			case <-inner.Done():
				return inner.Err()
			}
		}
		return nil
	})
	for range r.InFlight {
		group.Go(func() error {
			for request := range due {
				if err := r.sendOne(inner, request); err != nil {
					return err
				}
			}
			return nil
		})
	}
	stop := r.show()
	err := group.Wait()
	r.took(time.Since(r.start))
	stop()
	return err
}

// await returns a request as it is to be sent, when it is due.
func (r *run) await(ctx context.Context, p place) (events.Request, error) {
	request := r.requests[p.index]
	request.Tenant, request.ID = r.Tenant, nuid.Next()
	if r.Speed == 0 {
		return request, ctx.Err()
	}
	after := float64(p.at-r.order[0].at) / r.Speed * float64(time.Microsecond)
	request.Time = r.start.Add(time.Duration(min(after, math.MaxInt64/2)))
	timer := time.NewTimer(time.Until(request.Time))
	defer timer.Stop()
	select {
	case <-timer.C:
		return request, nil
	case <-ctx.Done():
		return request, ctx.Err()
	}
}

// sendOne sends a request and counts what comes of it.
func (r *run) sendOne(ctx context.Context, request events.Request) error {
	if r.Speed == 0 {
		request.Time = time.Now()
	}
	if r.Reports {
		err := r.report(ctx, request)
		return r.count(outcome{reported: err == nil}, err)
	}
	d, err := r.client.Check(ctx, request)
	return r.count(outcome{decision: d}, err)
}

// report stores one report, which its id lets be tried again.
func (r *run) report(ctx context.Context, request events.Request) error {
	again := backoff.NewExponentialBackOff(backoff.WithMaxInterval(time.Second), backoff.WithMaxElapsedTime(givenUp))
	return backoff.Retry(func() error {
		attempt, done := context.WithTimeout(ctx, storeTimeout)
		defer done()
		err := r.client.Report(attempt, request)
		if refused(err) {
			return backoff.Permanent(err)
		}
		return err
	}, backoff.WithContext(again, ctx))
}

// refused tells whether an error is about the request alone.
func refused(err error) bool {
	_, ok := errors.AsType[*events.FieldError](err)
	return ok
}
