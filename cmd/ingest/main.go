// Ingest takes checks and reports over HTTP, and checks of Envoy over gRPC.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/access"
	"github.com/weirhq/weir/internal/answer"
	"github.com/weirhq/weir/internal/bus"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/ingest"
	"github.com/weirhq/weir/internal/serve"
	"github.com/weirhq/weir/internal/service"
)

// flags go before the environment, and that before the defaults.
type flags struct {
	HTTPAddr string           `help:"Address of the HTTP endpoints." default:"127.0.0.1:8080" env:"WEIR_HTTP_ADDR" name:"http-addr"`
	GRPCAddr string           `help:"Address of Envoy's rate limit service." default:"127.0.0.1:8081" env:"WEIR_GRPC_ADDR" name:"grpc-addr"`
	NATS     string           `help:"URL of the NATS server." default:"nats://127.0.0.1:4222" env:"WEIR_NATS" name:"nats"`
	Gateway  string           `help:"Name of this process among all gateways; default: made of the host's name." env:"WEIR_GATEWAY"`
	Prefix   string           `help:"First token of every subject." default:"weir" env:"WEIR_PREFIX"`
	Shards   int              `help:"Number of shards; default: what the limiters have." env:"WEIR_SHARDS"`
	Timeout  time.Duration    `help:"How long a check waits for its decision; default: as the policy says." env:"WEIR_TIMEOUT"`
	OnError  *gateway.Verdict `help:"What becomes of a check without a decision, allow or deny, if no rule of the policy says; default: as its defaults say." enum:"allow,deny" env:"WEIR_ON_ERROR"`
	Strict   bool             `help:"Refuse requests with unknown fields." env:"WEIR_STRICT"`
	Headers  answer.Headers   `help:"Headers that tell of a limit: x-ratelimit, ietf, both, or none." default:"x-ratelimit,ietf" env:"WEIR_HEADERS"`
	Proxies  string           `help:"Proxies whose word on a client's address /v1/auth believes: how many there are, with the one that asks, or their networks." default:"1" env:"WEIR_TRUSTED_PROXIES" name:"trusted-proxies"`
	access.Config
	bus.Credentials
}

func main() { service.Main("ingest", run) }

func run(ctx context.Context, args []string) error {
	var f flags
	if err := service.Parse(&f, "ingest", "Takes checks and reports for Weir over HTTP, and checks of Envoy over gRPC.", args); err != nil {
		return err
	}
	if f.Gateway == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("say --gateway: %w", err)
		}
		f.Gateway = cmp.Or(events.Token(host), "ingest")
	}
	config := gateway.Config{Name: f.Gateway, Prefix: f.Prefix, Shards: f.Shards, Timeout: f.Timeout}
	if f.OnError != nil {
		config.OnError = *f.OnError
	}
	faults := []error{config.Validate()} // all are told at once
	proxies, err := gateway.ParseProxies(f.Proxies)
	if err != nil {
		faults = append(faults, fmt.Errorf("--trusted-proxies: %w", err))
	}
	guard, err := access.Open(f.Config)
	faults = append(faults, err)
	on := ingest.Listeners{Guard: guard}
	if on.HTTP, err = serve.Listen(ctx, "--http-addr", f.HTTPAddr, guard); err == nil {
		defer on.HTTP.Close() // unless serving on it has
	}
	faults = append(faults, err)
	if on.GRPC, err = serve.Listen(ctx, "--grpc-addr", f.GRPCAddr, guard); err == nil {
		defer on.GRPC.Close() // likewise
	}
	if err := errors.Join(append(faults, err)...); err != nil {
		return err
	}
	log, registry, err := service.Observe()
	if err != nil {
		return err
	}
	nc, err := bus.Connect(ctx, f.NATS, f.Credentials, "weir-ingest", log)
	if err != nil {
		return err
	}
	defer nc.Close()
	client, err := gateway.Connect(nc, config)
	if err != nil {
		return err
	}
	edge := ingest.New(ingest.Config{Strict: f.Strict, Headers: f.Headers, Proxies: proxies}, client, nc.IsConnected, registry, log)

	group, inner := errgroup.WithContext(ctx)
	group.Go(func() error { return edge.Run(inner, on) })
	group.Go(func() error { return guard.Follow(inner, log) })
	err = errors.Join(group.Wait(), client.Close()) // reports what had no decision
	log.Info("ended", zap.Error(err))
	return err
}
