package limiter

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/cenkalti/backoff/v4"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nats.go/micro"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/problem"
	"github.com/weirhq/weir/internal/shards"
)

const (
	// maxWaiting bounds the checks that wait: a fifth of a second's worth, when
	// every gateway has long given up. What comes on top is dropped.
	maxWaiting = 8192
	// reportsAhead bounds the reports that the server sends ahead.
	reportsAhead = 1024
)

// report is a request that nobody waits for, or what stood in its place.
type report struct {
	request events.Request
	seq     uint64 // in the reports stream
	stream  int64  // that one: when it was made, nanoseconds since 1970
	subject string
	refused *events.Refusal // why it is none; request is then empty
}

// read decodes and validates a request that came on a subject.
func (l *Limiter) read(subject string, payload []byte) (events.Request, error) {
	origin, err := l.config.Names.ParseOrigin(subject)
	if err != nil {
		return events.Request{}, err
	}
	if err := l.owns(origin); err != nil {
		return events.Request{}, err
	}
	r, err := events.DecodeRequest(payload, false)
	if err != nil {
		return r, err
	}
	if err := origin.Fill(&r.Tenant, &r.Gateway); err != nil {
		return r, err
	}
	return r, r.Validate()
}

// refuse answers a check that cannot be decided, if somebody waits for it.
func (l *Limiter) refuse(m *nats.Msg, reason error) {
	l.metrics.refused.WithLabelValues("check").Inc()
	l.problem(m, http.StatusBadRequest, reason)
}

// problem answers with an error of the NATS services protocol with problem
// details, if somebody waits.
func (l *Limiter) problem(m *nats.Msg, status int, reason error) {
	l.log.Debug("refused", zap.String("subject", m.Subject), zap.Error(reason))
	if m.Reply == "" {
		return
	}
	details := problem.Details{Status: status, Detail: reason.Error()}
	answer := &nats.Msg{Subject: m.Reply, Data: details.Append(nil), Header: nats.Header{
		micro.ErrorHeader:     {http.StatusText(status)},
		micro.ErrorCodeHeader: {strconv.Itoa(status)},
	}}
	if err := l.nc.PublishMsg(answer); err != nil {
		l.log.Debug("refusal not sent", zap.Error(err))
	}
}

// createReports makes the stream that keeps reports until they are decided, or
// opens it. The error is a *shards.OtherError if it is that of another number of
// shards, or an *ElsewhereError.
// It keeps them for a shorter time than the journal keeps blocks, so that a
// journal that has run empty has nothing to resume after.
func (l *Limiter) createReports(ctx context.Context) (jetstream.Stream, error) {
	names := l.config.Names
	subjects := make([]string, l.config.Shards) // of no other shard: nobody would decide what is acknowledged
	for shard := range subjects {
		subjects[shard] = names.Reports(shard)
	}
	config := jetstream.StreamConfig{
		Name:        names.ReportsStream(),
		Description: "requests that nobody waits for, until the limiter has decided them",
		Subjects:    subjects,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		MaxAge:      l.config.JournalAge / 2,
		MaxMsgSize:  events.MaxPayload + headerRoom,
		Storage:     jetstream.FileStorage,
		Duplicates:  Horizon,
		Metadata:    map[string]string{windowsField: l.config.windowsPlace()},
	}
	stream, err := l.js.CreateStream(ctx, config)
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		if _, err := shards.Find(ctx, l.js, names, l.config.Shards); err != nil {
			return nil, err
		}
		if err := l.checkPlace(ctx); err != nil {
			return nil, err
		}
		stream, err = l.js.UpdateStream(ctx, config)
	}
	if err != nil {
		return nil, fmt.Errorf("make stream %s: %w", names.ReportsStream(), err)
	}
	return stream, nil
}

// checkPlace finds that this system's windows are where this limiter keeps them.
func (l *Limiter) checkPlace(ctx context.Context) error {
	stream, err := l.js.Stream(ctx, l.config.Names.ReportsStream())
	if err != nil {
		return fmt.Errorf("open stream %s: %w", l.config.Names.ReportsStream(), err)
	}
	has, told := stream.CachedInfo().Config.Metadata[windowsField], l.config.windowsPlace()
	if has != "" && has != told && !l.config.MoveWindows {
		return &ElsewhereError{Has: has, Told: told}
	}
	return nil
}

// final tells whether an error is one that no waiting mends: a request of the same
// tenant may be decided elsewhere, or in other windows.
func final(err error) bool {
	_, number := errors.AsType[*shards.OtherError](err)
	_, place := errors.AsType[*ElsewhereError](err)
	return number || place
}

// takeReports hands reports to the committing goroutine, in order, from the one
// after the last that the journal has applied, until ctx ends.
func (o *owner) takeReports(ctx context.Context, from recovered) error {
	again := backoff.NewExponentialBackOff(backoff.WithMaxInterval(time.Second), backoff.WithMaxElapsedTime(0))
	read := func() error {
		began := from.nextReport
		err := o.readReports(ctx, &from)
		if from.nextReport != began {
			again.Reset()
		}
		if final(err) {
			return backoff.Permanent(err)
		}
		return err
	}
	failed := func(err error, _ time.Duration) { o.log.Warn("reports", zap.Error(err)) }
	if err := backoff.RetryNotify(read, backoff.WithContext(again, ctx), failed); ctx.Err() == nil {
		return fmt.Errorf("reports: %w", err)
	}
	return nil
}

// errReportsAnew says that the stream is not the one that was read so far.
var errReportsAnew = errors.New("the reports stream was made anew")

// watchReports is how often a reader that gets nothing looks whether its stream
// is still the same.
const watchReports = 2 * time.Second

// readReports reads from where from says, and keeps it up to date. A stream
// that is missing is made; one that was made anew is read from its beginning.
func (o *owner) readReports(ctx context.Context, from *recovered) error {
	stream, err := o.createReports(ctx)
	if err != nil {
		return err
	}
	if made := stream.CachedInfo().Created; !made.Equal(from.reportsMade) {
		o.log.Error("the reports stream was made anew: what it held and was not decided is gone",
			zap.Uint64("next_report", from.nextReport))
		from.reportsMade, from.nextReport = made, 1
	}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{
		FilterSubjects:   []string{o.config.Names.Reports(o.config.Shard)},
		DeliverPolicy:    jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:      max(from.nextReport, 1),
		MaxResetAttempts: 1, // then it is for us to see what has become of the stream
	})
	if err != nil {
		return err
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(reportsAhead))
	if err != nil {
		return err
	}
	defer messages.Stop()
	for {
		m, err := nextReport(ctx, messages)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			if info, err := stream.Info(ctx); err != nil || !info.Created.Equal(from.reportsMade) {
				return errors.Join(errReportsAnew, err)
			}
			continue
		}
		if err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		r := report{seq: meta.Sequence.Stream, stream: from.reportsMade.UnixNano(), subject: m.Subject()}
		if r.request, err = o.read(m.Subject(), m.Data()); err != nil {
			r.refused = &events.Refusal{Subject: m.Subject(), Payload: m.Data(), Error: err.Error()}
		} else if r.request.Time.IsZero() {
			r.request.Time = meta.Timestamp.UTC().Truncate(time.Microsecond)
		}
		select {
		case o.reports <- r:
			from.nextReport = r.seq + 1
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// nextReport waits for a report, for watchReports at most.
func nextReport(ctx context.Context, messages jetstream.MessagesContext) (jetstream.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, watchReports)
	defer cancel()
	return messages.Next(jetstream.NextContext(ctx))
}
