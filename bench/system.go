package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/embedded"
	"github.com/weirhq/weir/internal/limiter"
	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/window"
)

// setup is what a system decides with.
type setup struct {
	rules  int    // all of which charge every check; 0 is the built-in policy
	redis  string // URL of a server to keep the windows on; empty is in memory
	shards int
}

// policy returns one whose rules all charge every check.
func (s setup) policy() (*policy.Policy, error) {
	if s.rules == 0 {
		return policy.Default(), nil
	}
	var text strings.Builder
	text.WriteString("version: 1\ntenants:\n  \"*\":\n    rules:\n")
	for i := range s.rules {
		fmt.Fprintf(&text, "      - {name: rule-%d, limit: 256 per %ds, key: [user]}\n", i, 60+i)
	}
	return policy.Parse([]byte(text.String()))
}

// system is a NATS server, the limiters of all shards, a gateway's client, and
// an echo beside them. Each has a connection of its own.
type system struct {
	closers
	client  *gateway.Client
	echo    *echo
	version string // of the server
}

// closers close what was opened, the last first.
type closers []func() error

func (c *closers) opened(closer func() error) { *c = append(*c, closer) }

func (c *closers) close() error {
	var faults []error
	for _, closer := range slices.Backward(*c) {
		faults = append(faults, closer())
	}
	return errors.Join(faults...)
}

func startSystem(ctx context.Context, dir string, with setup) (s *system, err error) {
	s = &system{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	server, err := embedded.StartNATS(ctx, embedded.NATSOptions{Dir: dir, Addr: "127.0.0.1:0", Log: zap.NewNop()})
	if err != nil {
		return s, err
	}
	s.opened(server.Close)
	var connections [4]*nats.Conn
	for i := range connections {
		nc, err := nats.Connect(server.URL())
		if err != nil {
			return s, err
		}
		s.opened(func() error { nc.Close(); return nil })
		connections[i] = nc
	}
	s.version = connections[0].ConnectedServerVersion()
	if err := s.startLimiters(ctx, connections[0], with); err != nil {
		return s, err
	}
	s.client, err = gateway.Connect(connections[1], gateway.Config{Name: gatewayName, Timeout: answerWithin, Shards: with.shards})
	if err != nil {
		return s, err
	}
	s.opened(s.client.Close)
	sample, err := record(ctx, connections[2], func(ctx context.Context, n int64) error { return ask(ctx, s.client, tenant, n) })
	if err != nil {
		return s, err
	}
	if err := serveEcho(connections[2], sample); err != nil {
		return s, err
	}
	s.echo, err = newEcho(connections[3], sample)
	return s, err
}

// startLimiters runs the limiters of all shards.
func (s *system) startLimiters(ctx context.Context, nc *nats.Conn, with setup) error {
	rules, err := with.policy()
	if err != nil {
		return err
	}
	config := limiter.DefaultConfig()
	config.Shards, config.Policy = with.shards, rules
	if with.redis != "" {
		redis := window.DefaultRedisConfig()
		redis.URL, redis.Timeout = with.redis, answerWithin // every decision that is measured is Redis'
		windows, err := window.OpenRedis(redis)
		if err != nil {
			return err
		}
		s.opened(windows.Close)
		config.Windows = windows
	}
	return s.runLimiters(ctx, nc, config)
}

// runLimiters runs the limiters of all shards until the system is closed.
func (s *system) runLimiters(ctx context.Context, nc *nats.Conn, config limiter.Config) error {
	config.DegradeAfter = answerWithin // every decision that is measured is in the journal
	fleet, err := limiter.NewFleet(nc, config, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		return err
	}
	running, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- fleet.Run(running) }()
	s.opened(func() error { stop(); return <-ended })
	select {
	case <-fleet.Ready():
		return nil
	case err := <-ended:
		ended <- nil
		return err
	}
}
