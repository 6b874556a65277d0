package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/access"
	"github.com/weirhq/weir/internal/answer"
	"github.com/weirhq/weir/internal/embedded"
	"github.com/weirhq/weir/internal/ingest"
	"github.com/weirhq/weir/internal/limiter"
	"github.com/weirhq/weir/internal/revision"
)

// serviceRules are Weir's, as ratelimitRules are the other's.
const serviceRules = `version: 1
tenants:
  ` + tenant + `: {rules: [{name: per-user, limit: 1000/min, key: [user]}]}
  ` + burstTenant + `: {rules: [{name: per-user, limit: 100/s, key: [user]}]}
  ` + deniedTenant + `: {rules: [{name: per-user, limit: 1/day, key: [user]}]}
`

// addresses are where Weir serves.
type addresses struct{ NATS, HTTP, GRPC string }

const addressesFile = "addresses"

// serveWeir serves Weir until ctx ends, and leaves its addresses in a file once
// it does: NATS, the limiter and the edge in one process, as weir up has them,
// with the journal in a directory. The writer is left out: it copies for as long
// as it takes, also while others are measured.
func serveWeir(ctx context.Context, dir string) (err error) {
	var s system
	defer func() { err = errors.Join(err, s.close()) }()
	server, err := embedded.StartNATS(ctx, embedded.NATSOptions{Dir: filepath.Join(dir, "nats"), Addr: "127.0.0.1:0", Log: zap.NewNop()})
	if err != nil {
		return err
	}
	s.opened(server.Close)
	var connections [2]*nats.Conn
	for i := range connections {
		if connections[i], err = nats.Connect(server.URL()); err != nil {
			return err
		}
		s.opened(func() error { connections[i].Close(); return nil })
	}
	js, err := jetstream.New(connections[0])
	if err != nil {
		return err
	}
	config := limiter.DefaultConfig()
	config.Shards = 1
	if config.Policy, err = revision.Apply(ctx, js, config.Names, []byte(serviceRules)); err != nil {
		return err
	}
	if err := s.runLimiters(context.WithoutCancel(ctx), connections[0], config); err != nil {
		return err
	}
	client, err := gateway.Connect(connections[1], gateway.Config{Name: "ingest", Shards: 1, Timeout: answerWithin})
	if err != nil {
		return err
	}
	s.opened(client.Close)
	edge := ingest.New(ingest.Config{Headers: answer.AllHeaders}, client, connections[1].IsConnected, prometheus.NewRegistry(), zap.NewNop())
	var listen net.ListenConfig
	var on ingest.Listeners
	if on.Guard, err = access.Open(access.Config{}); err != nil {
		return err
	}
	if on.HTTP, err = listen.Listen(ctx, "tcp", "127.0.0.1:0"); err != nil {
		return err
	}
	if on.GRPC, err = listen.Listen(ctx, "tcp", "127.0.0.1:0"); err != nil {
		return errors.Join(err, on.HTTP.Close())
	}
	where := addresses{NATS: server.URL(), HTTP: on.HTTP.Addr().String(), GRPC: on.GRPC.Addr().String()}
	if err := where.write(dir); err != nil {
		return errors.Join(err, on.HTTP.Close(), on.GRPC.Close())
	}
	return edge.Run(ctx, on)
}

// write makes the file there at once, and whole.
func (a addresses) write(dir string) error {
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, addressesFile)
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// served is Weir in a process of its own, and each of the ways to ask it.
type served struct {
	closers
	sdk  bySDK
	http *overHTTP
	grpc *overGRPC
}

// startServed starts this program once more, to serve Weir.
func startServed(ctx context.Context, dir string) (s *served, err error) {
	s = &served{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return s, err
	}
	program, err := os.Executable()
	if err != nil {
		return s, err
	}
	stop, err := startProgram(ctx, os.Stderr, nil, program, "-serve", dir)
	if err != nil {
		return s, err
	}
	s.opened(stop)
	where, err := readAddresses(ctx, dir)
	if err != nil {
		return s, err
	}
	nc, err := nats.Connect(where.NATS)
	if err != nil {
		return s, err
	}
	s.opened(func() error { nc.Close(); return nil })
	if s.sdk.client, err = gateway.Connect(nc, gateway.Config{Name: gatewayName, Shards: 1, Timeout: answerWithin}); err != nil {
		return s, err
	}
	s.opened(s.sdk.client.Close)
	s.http = dialHTTP(where.HTTP)
	s.opened(s.http.close)
	if s.grpc, err = dialGRPC(where.GRPC); err != nil {
		return s, err
	}
	s.opened(s.grpc.close)
	return s, s.grpc.ready(ctx)
}

// readAddresses waits until a process serves.
func readAddresses(ctx context.Context, dir string) (where addresses, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	for {
		text, err := os.ReadFile(filepath.Join(dir, addressesFile))
		if err == nil {
			return where, json.Unmarshal(text, &where)
		}
		select {
		case <-time.After(look):
		case <-ctx.Done():
			return where, fmt.Errorf("weir did not serve within %v: %w", answerWithin, err)
		}
	}
}
