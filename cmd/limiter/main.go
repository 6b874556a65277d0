// Limiter decides the requests of one shard.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/internal/bus"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/limiter"
	"github.com/weirhq/weir/internal/serve"
)

// flags go before the environment, and that before the defaults.
type flags struct {
	NATS       string        `help:"URL of the NATS server." default:"nats://127.0.0.1:4222" env:"WEIR_NATS" name:"nats"`
	Prefix     string        `help:"First token of every subject." default:"weir" env:"WEIR_PREFIX"`
	Shard      int           `help:"Shard to own." default:"0" env:"WEIR_SHARD"`
	Shards     int           `help:"Number of shards." default:"1" env:"WEIR_SHARDS"`
	Name       string        `help:"Name of this limiter: after a crash it goes on at once, instead of waiting until its lease has run out." env:"WEIR_LIMITER_NAME"`
	Policy     string        `help:"Policy file to apply before deciding; default: the newest that was applied, else the built-in one." env:"WEIR_POLICY" type:"existingfile"`
	Degrade    time.Duration `help:"How long a block may take until decisions go out, as degraded, before the journal has them." default:"50ms" env:"WEIR_DEGRADE_AFTER" name:"degrade-after"`
	JournalAge time.Duration `help:"How long the journal keeps blocks." default:"168h" env:"WEIR_JOURNAL_AGE"`
	JournalMax int64         `help:"Bytes after which the journal takes no more; 0 leaves it to the server." default:"0" env:"WEIR_JOURNAL_MAX"`
	HTTPAddr   string        `help:"Address of /healthz, /readyz and /metrics." default:"127.0.0.1:8070" env:"WEIR_LIMITER_HTTP_ADDR" name:"http-addr"`
	Insecure   bool          `help:"Let other machines reach --http-addr." env:"WEIR_INSECURE"`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the first signal drains, a second kills
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "limiter:", err)
		os.Exit(1) // nowhere else: run's defers are done
	}
}

func run(ctx context.Context, args []string) error {
	var f flags
	parser, err := kong.New(&f, kong.Name("limiter"), kong.Description("Decides the requests of one shard of Weir."))
	if err != nil {
		return err
	}
	if _, err := parser.Parse(args); err != nil {
		return fmt.Errorf("%w (see 'limiter --help')", err)
	}
	log, err := zap.NewProduction()
	if err != nil {
		return err
	}
	listener, err := serve.Listen(ctx, "--http-addr", f.HTTPAddr, f.Insecure)
	if err != nil {
		return err
	}
	defer listener.Close() //nolint:errcheck // serve.Run closes it; this is for when that is not reached
	nc, err := bus.Connect(ctx, f.NATS, "weir-limiter", log)
	if err != nil {
		return err
	}
	defer nc.Close()

	config := limiter.DefaultConfig()
	config.Names = events.Names{Prefix: f.Prefix}
	config.Shard, config.Shards, config.Name = f.Shard, f.Shards, f.Name
	config.JournalAge, config.JournalMax, config.DegradeAfter = f.JournalAge, f.JournalMax, f.Degrade
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	if config.Policy, err = limiter.OpenPolicy(ctx, js, config.Names, f.Policy); err != nil {
		return err
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	l, err := limiter.New(nc, config, log, registry)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	serve.Operations(mux, func(context.Context) error {
		select {
		case <-l.Ready():
			return nil
		default:
			return errors.New("another limiter owns the shard, or the windows are being rebuilt from the journal")
		}
	}, registry, log)

	group, inner := errgroup.WithContext(ctx)
	group.Go(func() error { return l.Run(inner) })
	group.Go(func() error { return serve.Run(inner, listener, mux, log.Named("http")) })
	err = group.Wait()
	log.Info("ended", zap.Error(err))
	return err
}
