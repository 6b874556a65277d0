package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/decide"
	"github.com/weirhq/weir/internal/embedded"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/limiter"
	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/window"
)

const (
	// recoveryPolicy has a window that all records of the journal are in.
	recoveryPolicy = "version: 1\ntenants: {\"*\": {rules: [{name: per-hour, limit: 1000/hour, key: [user]}]}}"
	// recoveryUnits is how many units each key has admitted in the end.
	recoveryUnits = 50
	// recoveryFactor is how many times as long the journal is as what the writer
	// copies: a snapshot is for a long one.
	recoveryFactor = 10
	// recoveryRounds bounds the rounds, each of which reads all of it.
	recoveryRounds = 3
	// recoverWithin bounds one recovery, and the wait for a snapshot.
	recoverWithin = 5 * time.Minute
)

// shard is a journal that limiters recover from.
type shard struct {
	nc      *nats.Conn
	js      jetstream.JetStream
	config  limiter.Config
	decider *decide.Decider
	keys    int
	filled  int    // records
	last    uint64 // block
}

// recovery measures how long a limiter takes until it knows what the one before
// knew, from the journal alone and from a snapshot and the journal since. The
// snapshot is as old as it gets: another one would be due.
func recovery(ctx context.Context, dir string, o options, r *report, progress func(string, ...any)) (err error) {
	server, err := embedded.StartNATS(ctx, embedded.NATSOptions{Dir: filepath.Join(dir, "recovery"), Addr: "127.0.0.1:0", Log: zap.NewNop()})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	o.records *= recoveryFactor
	s := shard{config: limiter.DefaultConfig(), keys: max(1, o.records/recoveryUnits)}
	s.config.Name = "bench" // takes over at once
	if s.nc, err = nats.Connect(server.URL()); err != nil {
		return err
	}
	defer s.nc.Close()
	if s.js, err = jetstream.New(s.nc); err != nil {
		return err
	}
	if s.config.Policy, err = policy.Parse([]byte(recoveryPolicy)); err != nil {
		return err
	}
	s.decider = decide.New(s.config.Policy, window.NewMemory())
	due := max(s.config.SnapshotEvery, 2*s.keys)
	s.config.SnapshotEvery = 1
	if err := s.fill(ctx, max(2*s.keys+1, o.records-due)); err != nil {
		return err
	}
	if _, err := s.recover(ctx, "weir_limiter_snapshot_bytes"); err != nil {
		return err
	}
	s.config.SnapshotEvery = 10 * o.records // no other one
	if err := s.fill(ctx, o.records); err != nil {
		return err
	}
	t := table{Title: "Recovery: a limiter's windows from a snapshot and the journal since against the journal alone", Bare: "journal alone"}
	var all []pair
	for round := range min(o.rounds, recoveryRounds) {
		with, err := s.recover(ctx, "weir_limiter_recovery_seconds")
		if err != nil {
			return err
		}
		alone, err := s.recoverAlone(ctx)
		if err != nil {
			return err
		}
		all = append(all, pair{alone, with})
		progress("recovery, round %d: journal alone %.2f s, snapshot %.2f s", round+1, alone, with)
	}
	t.Rows = []row{compare(fmt.Sprint(s.filled, " records, ", s.keys, " keys"), "time", seconds, all, aim{})}
	r.Tables = append(r.Tables, t)
	return nil
}

// fill appends blocks of decided requests until there are so many records.
func (s *shard) fill(ctx context.Context, records int) error {
	j, err := journal.Create(ctx, s.js, journal.Config{Names: s.config.Names, MaxAge: journal.DefaultMaxAge})
	if err != nil {
		return err
	}
	a, err := j.Appender(s.last, func(error) {})
	if err != nil {
		return err
	}
	defer a.Close()
	block := make([]events.Record, blockRecords)
	var body []byte
	for s.filled < records {
		body = body[:0]
		now := time.Now().UTC().Truncate(time.Microsecond)
		n := min(blockRecords, records-s.filled)
		for i := range n {
			block[i] = events.Record{Request: request(s.filled+i, now)}
			block[i].Request.User = "u" + strconv.Itoa((s.filled+i)%s.keys)
			s.decider.Check(&block[i])
		}
		if err := s.decider.Decide(ctx, now); err != nil {
			return err
		}
		for i := range n {
			body = append(events.AppendRecord(body, &block[i]), '\n')
		}
		if s.last, err = a.Append(ctx, body, n, 0); err != nil {
			return err
		}
		s.filled += n
	}
	return nil
}

// recoverAlone is recover without the snapshot, which is put back.
func (s *shard) recoverAlone(ctx context.Context) (float64, error) {
	bucket, err := s.js.ObjectStore(ctx, s.config.Names.SnapshotBucket(s.config.Shard))
	if err != nil {
		return 0, err
	}
	objects, err := bucket.List(ctx)
	if err != nil {
		return 0, err
	}
	name := objects[0].Name
	saved, err := bucket.GetBytes(ctx, name)
	if err != nil {
		return 0, err
	}
	if err := bucket.Delete(ctx, name); err != nil {
		return 0, err
	}
	took, err := s.recover(ctx, "weir_limiter_recovery_seconds")
	if err != nil {
		return 0, err
	}
	_, err = bucket.PutBytes(ctx, name, saved)
	return took, err
}

// recover runs a limiter until one of its gauges is set, and returns that.
func (s *shard) recover(ctx context.Context, gauge string) (value float64, err error) {
	registry := prometheus.NewRegistry()
	l, err := limiter.New(s.nc, s.config, zap.NewNop(), registry)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, recoverWithin)
	defer cancel()
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- l.Run(running) }()
	defer func() { stop(); err = errors.Join(err, <-ended) }()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		families, err := registry.Gather()
		if err != nil {
			return 0, err
		}
		for _, f := range families {
			if f.GetName() == gauge && f.GetMetric()[0].GetGauge().GetValue() > 0 {
				return f.GetMetric()[0].GetGauge().GetValue(), nil
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return 0, fmt.Errorf("%s: %w", gauge, ctx.Err())
		}
	}
}
