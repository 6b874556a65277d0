// Package limitertest gives tests a limiter, and what it has recorded.
package limitertest

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/limiter"
)

// Start runs a limiter of a system with one shard; see StartShards.
func Start(tb testing.TB, nc *nats.Conn) {
	tb.Helper()
	StartShards(tb, nc, 1)
}

// StartShards runs a limiter under the built-in policy until the test ends, and
// returns when it decides all shards. It does not degrade: a busy machine is not
// what is tested.
func StartShards(tb testing.TB, nc *nats.Conn, shards int) {
	tb.Helper()
	config := limiter.DefaultConfig()
	config.Shards, config.DegradeAfter = shards, time.Minute
	l, err := limiter.NewFleet(nc, config, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	tb.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			tb.Error(err)
		}
	})
	select {
	case <-l.Ready():
	case <-time.After(10 * time.Second):
		tb.Fatal("the limiter is not ready")
	}
}

// Records reads the journal of shard 0 from its beginning.
func Records(tb testing.TB, nc *nats.Conn) []events.Record {
	tb.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		tb.Fatal(err)
	}
	j, err := journal.Open(tb.Context(), js, events.Names{Prefix: events.DefaultPrefix}, 0)
	if err != nil {
		tb.Fatal(err)
	}
	extent, err := j.Extent(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	if extent.Blocks == 0 {
		return nil
	}
	var all []events.Record
	err = j.Read(tb.Context(), journal.Start{Seq: extent.First}, extent.Last, func(b journal.Block) error {
		return b.Records(func(_ int, r *events.Record) error {
			all = append(all, *r)
			return nil
		})
	})
	if err != nil {
		tb.Fatal(err)
	}
	return all
}
