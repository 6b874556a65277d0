// Limiter decides the requests of all shards, together with other limiters.
package main

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/internal/access"
	"github.com/weirhq/weir/internal/bus"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/limiter"
	"github.com/weirhq/weir/internal/revision"
	"github.com/weirhq/weir/internal/serve"
	"github.com/weirhq/weir/internal/service"
	"github.com/weirhq/weir/internal/shards"
)

// flags go before the environment, and that before the defaults.
type flags struct {
	NATS       string        `help:"URL of the NATS server." default:"nats://127.0.0.1:4222" env:"WEIR_NATS" name:"nats"`
	Prefix     string        `help:"First token of every subject." default:"weir" env:"WEIR_PREFIX"`
	Shards     int           `help:"Number of shards, which the first limiter of a system says for good; default: what the system has, 1 if it is new." env:"WEIR_SHARDS"`
	Name       string        `help:"Name of this limiter, which no other has: after a crash it goes on at once, instead of waiting until its leases have run out." env:"WEIR_LIMITER_NAME"`
	Policy     string        `help:"Policy file to apply before deciding; default: the newest that was applied, else the built-in one." env:"WEIR_POLICY" type:"existingfile"`
	Redis      string        `help:"URL of a Redis server to keep the windows on, for limiters to share: redis://, rediss:// or unix://; with ?addr= for each further node a cluster, with ?master_name= one that Sentinels watch. Default: in memory, made again from the journal." env:"WEIR_REDIS"`
	Move       bool          `help:"Keep the windows where they were not before: with --redis counts begin anew, without it they come from the journal. Stop all other limiters first." env:"WEIR_MOVE_WINDOWS" name:"move-windows"`
	WindowMax  int64         `help:"Bytes that the windows in memory may take, each shard an equal part; past that those charged longest ago make room, counted." default:"1073741824" env:"WEIR_WINDOW_MAX"`
	Degrade    time.Duration `help:"How long a block may take until decisions go out, as degraded, before the journal has them." default:"50ms" env:"WEIR_DEGRADE_AFTER" name:"degrade-after"`
	JournalAge time.Duration `help:"How long the journal keeps blocks." default:"168h" env:"WEIR_JOURNAL_AGE"`
	JournalMax int64         `help:"Bytes after which the journal takes no more; 0 leaves it to the server." default:"0" env:"WEIR_JOURNAL_MAX"`
	HTTPAddr   string        `help:"Address of /healthz, /readyz and /metrics." default:"127.0.0.1:8070" env:"WEIR_LIMITER_HTTP_ADDR" name:"http-addr"`
	access.Config
	bus.Credentials
}

// config returns what the flags say, and closes the windows that it opens. The
// error names every fault that can be seen without the system.
func (f *flags) config() (config limiter.Config, closeWindows func() error, err error) {
	config = limiter.DefaultConfig()
	config.Names = events.Names{Prefix: f.Prefix}
	config.Name, config.WindowMax, config.MoveWindows = f.Name, f.WindowMax, f.Move
	config.JournalAge, config.JournalMax, config.DegradeAfter = f.JournalAge, f.JournalMax, f.Degrade
	if f.Shards != 0 {
		config.Shards = f.Shards
	}
	closeWindows = func() error { return nil }
	faults := []error{config.Validate()}
	if f.Redis != "" {
		windows, err := limiter.OpenWindows(f.Redis, config.Names)
		if err == nil {
			config.Windows, closeWindows = windows, windows.Close
		}
		faults = append(faults, err)
	}
	return config, closeWindows, errors.Join(faults...)
}

func main() { service.Main("limiter", run) }

func run(ctx context.Context, args []string) error {
	var f flags
	if err := service.Parse(&f, "limiter", "Decides the requests of Weir, together with other limiters.", args); err != nil {
		return err
	}
	log, registry, err := service.Observe()
	if err != nil {
		return err
	}
	config, closeWindows, err := f.config()
	guard, guardErr := access.Open(f.Config)
	listener, listenErr := serve.Listen(ctx, "--http-addr", f.HTTPAddr, guard)
	if err := errors.Join(err, guardErr, listenErr); err != nil {
		return err
	}
	defer listener.Close() // unless serving on it has
	defer closeWindows()   //nolint:errcheck // nothing waits to be sent
	nc, err := bus.Connect(ctx, f.NATS, f.Credentials, "weir-limiter", log)
	if err != nil {
		return err
	}
	defer nc.Close()

	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	if config.Shards, err = shards.Find(ctx, js, config.Names, f.Shards); err != nil {
		return err
	}
	config.Shards = cmp.Or(config.Shards, 1)
	if config.Policy, err = revision.Open(ctx, js, config.Names, f.Policy); err != nil {
		return err
	}
	l, err := limiter.NewFleet(nc, config, log, registry)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	serve.Operations(mux, func(context.Context) error {
		if !l.Decides() {
			return errors.New("a shard that is for this limiter is not decided yet: its lease has to run out, or its windows are being rebuilt from the journal")
		}
		return nil
	}, registry, log)

	group, inner := errgroup.WithContext(ctx)
	group.Go(func() error { return l.Run(inner) })
	group.Go(func() error {
		return serve.Run(inner, listener, serve.Admit(guard, access.Metrics, mux), log.Named("http"))
	})
	group.Go(func() error { return guard.Follow(inner, log) })
	err = group.Wait()
	log.Info("ended", zap.Error(err))
	return err
}
