// Writer copies every shard's journal into Postgres and answers queries.
package main

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/internal/access"
	"github.com/weirhq/weir/internal/bus"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/pg"
	"github.com/weirhq/weir/internal/serve"
	"github.com/weirhq/weir/internal/service"
	"github.com/weirhq/weir/internal/writer"
)

// flags go before the environment, and that before the defaults.
type flags struct {
	NATS      string        `help:"URL of the NATS server." default:"nats://127.0.0.1:4222" env:"WEIR_NATS" name:"nats"`
	Postgres  string        `help:"URL of the Postgres database." required:"" env:"WEIR_POSTGRES" name:"postgres"`
	Prefix    string        `help:"First token of every subject." default:"weir" env:"WEIR_PREFIX"`
	Shards    int           `help:"Number of shards, all of which are written; default: what the limiters have." env:"WEIR_SHARDS"`
	Retention time.Duration `help:"How long rows are kept, by whole days and no shorter than the journal keeps its blocks; 0: for ever." default:"0" env:"WEIR_RETENTION"`
	HTTPAddr  string        `help:"Address of POST /v1/query, /healthz, /readyz and /metrics." default:"127.0.0.1:8090" env:"WEIR_WRITER_HTTP_ADDR" name:"http-addr"`
	access.Config
	bus.Credentials
}

func main() { service.Main("writer", run) }

func run(ctx context.Context, args []string) error {
	var f flags
	if err := service.Parse(&f, "writer", "Copies Weir's journal into Postgres and answers queries.", args); err != nil {
		return err
	}
	config := writer.DefaultConfig()
	config.Names, config.Shards = events.Names{Prefix: f.Prefix}, f.Shards
	config.Retention = f.Retention
	if err := config.Validate(); err != nil {
		return err
	}
	log, registry, err := service.Observe()
	if err != nil {
		return err
	}
	guard, err := access.Open(f.Config)
	if err != nil {
		return err
	}
	listener, err := serve.Listen(ctx, "--http-addr", f.HTTPAddr, guard)
	if err != nil {
		return err
	}
	defer listener.Close() // unless serving on it has
	database := pg.DefaultConfig()
	database.URL = f.Postgres
	db, err := pg.Open(ctx, database)
	if err != nil {
		return err
	}
	defer db.Close()
	nc, err := bus.Connect(ctx, f.NATS, f.Credentials, "weir-writer", log)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	w := writer.New(config, writer.Parts{DB: db, JetStream: js, Log: log, Metrics: registry})

	group, inner := errgroup.WithContext(ctx)
	group.Go(func() error { return w.Run(inner) })
	group.Go(func() error {
		return serve.Run(inner, listener, serve.Admit(guard, access.Analyst, w.Handler()), log.Named("http"))
	})
	group.Go(func() error { return guard.Follow(inner, log) })
	err = group.Wait()
	log.Info("ended", zap.Error(err))
	return err
}
