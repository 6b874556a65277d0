package limiter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"go.uber.org/zap"
)

const (
	// leaseTTL is how long a shard stays without an owner at most after its
	// owner has vanished, besides the time that recovery takes.
	leaseTTL = 5 * time.Second
	// renewEvery leaves room for some renewals to be lost.
	renewEvery = time.Second
	// tryEvery is how often a limiter that stands by asks for the lease.
	tryEvery = 250 * time.Millisecond
)

// errLeaseLost says that the lease has run out, or somebody else has it.
var errLeaseLost = errors.New("the shard's lease is lost")

// lease is a limiter's claim to be the one that tries to decide a shard. It
// keeps two from working against each other; that only one succeeds is the
// journal's doing.
type lease struct {
	bucket   jetstream.KeyValue
	key      string
	name     string // the limiter's; may be empty
	value    []byte // the name and what no other process has
	revision uint64
	until    atomic.Int64 // when it runs out unless it is renewed, nanoseconds after began
	began    time.Time
}

// held tells whether nobody else can have the lease. It is false also when this
// process has slept for too long to know.
func (s *lease) held() bool { return time.Since(s.began) < time.Duration(s.until.Load()) }

// extend takes note that the lease was taken or renewed by a request that was
// sent at a time.
func (s *lease) extend(sent time.Time) { s.until.Store(int64(sent.Sub(s.began) + leaseTTL)) }

// acquire waits until the shard's lease is free and takes it. One that bears
// this limiter's name is not waited for when the limiter has just started.
func (l *Limiter) acquire(ctx context.Context, first bool) (*lease, error) {
	bucket, err := l.js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: l.config.Names.LeaseBucket(), Description: "which limiter owns a shard", TTL: leaseTTL, Storage: jetstream.MemoryStorage,
	})
	if err != nil {
		return nil, fmt.Errorf("make bucket %s: %w", l.config.Names.LeaseBucket(), err)
	}
	s := &lease{began: time.Now(), bucket: bucket, key: "shard." + strconv.Itoa(l.config.Shard), name: l.config.Name}
	s.value = []byte(s.name + "/" + nuid.Next())
	tick := time.NewTicker(tryEvery)
	defer tick.Stop()
	for waiting := false; ; waiting = true {
		s.extend(time.Now())
		s.revision, err = bucket.Create(ctx, s.key, s.value)
		if err == nil {
			return s, nil
		}
		if !errors.Is(err, jetstream.ErrKeyExists) {
			return nil, fmt.Errorf("take lease %s: %w", s.key, err)
		}
		if !waiting {
			if first && s.takeOver(ctx) {
				return s, nil
			}
			l.log.Info("standing by: another limiter owns the shard")
		}
		select {
		case <-tick.C:
		case <-l.letGo:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// takeOver takes a lease that bears our own name: of an earlier process.
func (s *lease) takeOver(ctx context.Context) bool {
	held, err := s.bucket.Get(ctx, s.key)
	if err != nil || s.name == "" || !strings.HasPrefix(string(held.Value()), s.name+"/") {
		return false
	}
	s.revision, err = s.bucket.Update(ctx, s.key, s.value, held.Revision())
	return err == nil
}

// renew keeps the lease until ctx ends. The error is errLeaseLost.
func (s *lease) renew(ctx context.Context) error {
	tick := time.NewTicker(renewEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		sent := time.Now()
		attempt, cancel := context.WithTimeout(ctx, renewEvery)
		revision, err := s.bucket.Update(attempt, s.key, s.value, s.revision)
		cancel()
		_, refused := errors.AsType[*jetstream.APIError](err)
		if refused {
			revision, err = s.adopt(ctx, err)
		}
		switch {
		case err == nil:
			s.revision = revision
			s.extend(sent)
		case ctx.Err() != nil:
			return nil
		case refused || !s.held():
			return fmt.Errorf("%w: %w", errLeaseLost, err)
		}
	}
}

// adopt returns the revision of a renewal that was stored though its
// acknowledgement was lost, so that the next one was refused with the reason
// given; else the reason.
func (s *lease) adopt(ctx context.Context, reason error) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, renewEvery)
	defer cancel()
	held, err := s.bucket.Get(ctx, s.key)
	if err != nil || !bytes.Equal(held.Value(), s.value) {
		return 0, reason
	}
	return held.Revision(), nil
}

// release lets somebody else have the lease at once. If that fails it runs out.
func (s *lease) release(ctx context.Context, log *zap.Logger) {
	ctx, cancel := context.WithTimeout(ctx, renewEvery)
	defer cancel()
	if err := s.bucket.Delete(ctx, s.key, jetstream.LastRevision(s.revision)); err != nil {
		log.Debug("lease not released", zap.Error(err))
	}
}
