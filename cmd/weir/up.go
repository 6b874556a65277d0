package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/access"
	"github.com/weirhq/weir/internal/answer"
	"github.com/weirhq/weir/internal/bus"
	"github.com/weirhq/weir/internal/embedded"
	"github.com/weirhq/weir/internal/ingest"
	"github.com/weirhq/weir/internal/limiter"
	"github.com/weirhq/weir/internal/pg"
	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/revision"
	"github.com/weirhq/weir/internal/serve"
	"github.com/weirhq/weir/internal/service"
	"github.com/weirhq/weir/internal/shards"
	"github.com/weirhq/weir/internal/writer"
)

type upCommand struct {
	Data          string         `help:"Directory of everything that is stored." default:".weir" env:"WEIR_DATA" type:"path"`
	Policy        string         `help:"Policy file to apply; default: the newest that was applied, else the built-in one." env:"WEIR_POLICY" type:"existingfile"`
	Shards        int            `help:"Number of shards, which the first start says for good; default: what the system has, 1 if it is new." env:"WEIR_SHARDS"`
	Retention     time.Duration  `help:"How long rows are kept, by whole days and no shorter than the journal keeps its blocks; 0: for ever." default:"0" env:"WEIR_RETENTION"`
	ReadyFile     string         `help:"File that gets the addresses, as JSON, once everything serves." env:"WEIR_READY_FILE" type:"path"`
	NATS          string         `help:"URL of a NATS server with JetStream to use instead of the embedded one." env:"WEIR_NATS" name:"nats"`
	Postgres      string         `help:"URL of a Postgres database to use instead of the private cluster." env:"WEIR_POSTGRES" name:"postgres"`
	Redis         string         `help:"URL of a Redis server to keep the windows on instead of in memory; see 'limiter --help'." env:"WEIR_REDIS"`
	Move          bool           `help:"Keep the windows where they were not before: with --redis counts begin anew, without it they come from the journal." env:"WEIR_MOVE_WINDOWS" name:"move-windows"`
	HTTPAddr      string         `help:"Address of checks and reports; port 0 takes a free one, here and below." default:"127.0.0.1:8080" env:"WEIR_HTTP_ADDR" name:"http-addr"`
	Proxies       string         `help:"Proxies whose word on a client's address /v1/auth believes: how many there are, with the one that asks, or their networks." default:"1" env:"WEIR_TRUSTED_PROXIES" name:"trusted-proxies"`
	Headers       answer.Headers `help:"Headers that tell of a limit: x-ratelimit, ietf, both, or none." default:"x-ratelimit,ietf" env:"WEIR_HEADERS"`
	GRPCAddr      string         `help:"Address of Envoy's rate limit service." default:"127.0.0.1:8081" env:"WEIR_GRPC_ADDR" name:"grpc-addr"`
	AnalyticsAddr string         `help:"Address of queries." default:"127.0.0.1:8090" env:"WEIR_ANALYTICS_ADDR"`
	NATSAddr      string         `help:"Address of the embedded NATS server." default:"127.0.0.1:4222" env:"WEIR_NATS_ADDR" name:"nats-addr"`
	PostgresAddr  string         `help:"Address of the private Postgres cluster." default:"127.0.0.1:5433" env:"WEIR_POSTGRES_ADDR" name:"postgres-addr"`
	Sync          bool           `help:"Let every block reach the disk before it counts as stored: survives a power cut, costs a sync a block." env:"WEIR_SYNC"`
	Verbose       bool           `help:"Log what happens, not only what goes wrong." short:"v" env:"WEIR_VERBOSE"`
	access.Config
	bus.Credentials
}

// Run runs the whole system until ctx ends or a part of it fails.
func (c *upCommand) Run(ctx context.Context, out console) (err error) {
	proxies, err := gateway.ParseProxies(c.Proxies)
	if err != nil {
		return fmt.Errorf("--trusted-proxies: %w", err)
	}
	log := consoleLog(out.err, c.Verbose)
	dir, err := embedded.OpenDir(c.Data)
	if err != nil {
		return err
	}
	u := up{upCommand: c, proxies: proxies, log: log, dir: dir, registry: service.Registry()}
	u.closers = append(u.closers, dir.Close)
	defer func() { err = errors.Join(err, u.close()) }()
	if err := u.open(ctx); err != nil {
		if ctx.Err() != nil {
			return errors.New("told to stop before everything was up; the next start goes on from here")
		}
		return err
	}
	return u.run(ctx, out.out)
}

// up is the whole system in one process.
type up struct {
	*upCommand
	proxies  gateway.Proxies
	log      *zap.Logger
	dir      *embedded.Dir
	registry *prometheus.Registry
	closers  []func() error // in the order of opening

	edges     ingest.Listeners
	analytics net.Listener
	addresses addresses
	postgres  *embedded.Postgres // nil if it is somebody else's
	policy    *policy.Policy
	shards    int
	client    *gateway.Client
	edge      *ingest.Server
	limiter   *limiter.Fleet
	writer    *writer.Writer
}

// opened remembers what is to be closed, the last first.
func (u *up) opened(closer func() error) { u.closers = append(u.closers, closer) }

func (u *up) close() error {
	var faults []error
	for i := len(u.closers) - 1; i >= 0; i-- {
		faults = append(faults, u.closers[i]())
	}
	return errors.Join(faults...)
}

// open opens everything in order of need: first what can be refused at once.
func (u *up) open(ctx context.Context) error {
	steps := []func(context.Context) error{u.listen, u.openNATS, u.openLimiter, u.openIngest, u.openPostgres, u.openWriter}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (u *up) listen(ctx context.Context) (err error) {
	if u.edges.Guard, err = access.Open(u.Config); err != nil {
		return err
	}
	if u.edges.HTTP, err = serve.Listen(ctx, "--http-addr", u.HTTPAddr, u.edges.Guard); err != nil {
		return err
	}
	u.opened(u.closeListener(u.edges.HTTP))
	if u.edges.GRPC, err = serve.Listen(ctx, "--grpc-addr", u.GRPCAddr, u.edges.Guard); err != nil {
		return err
	}
	u.opened(u.closeListener(u.edges.GRPC))
	if u.analytics, err = serve.Listen(ctx, "--analytics-addr", u.AnalyticsAddr, u.edges.Guard); err != nil {
		return err
	}
	u.opened(u.closeListener(u.analytics))
	u.addresses.Check = u.edges.Guard.URL(u.edges.HTTP.Addr())
	u.addresses.GRPC = u.edges.GRPC.Addr().String()
	u.addresses.Analytics = u.edges.Guard.URL(u.analytics.Addr())
	return nil
}

// closeListener closes a listener unless serving on it has closed it.
func (u *up) closeListener(l net.Listener) func() error {
	return func() error {
		if err := l.Close(); !errors.Is(err, net.ErrClosed) {
			return err
		}
		return nil
	}
}

func (u *up) openNATS(ctx context.Context) error {
	if u.addresses.NATS = u.NATS; u.NATS != "" {
		return nil
	}
	server, err := embedded.StartNATS(ctx, embedded.NATSOptions{
		Dir: u.dir.Path("nats"), Addr: u.NATSAddr, Sync: u.Sync, Log: u.log.Named("nats"),
	})
	if err != nil {
		return flagged("--nats-addr", err)
	}
	u.opened(server.Close)
	u.addresses.NATS = server.URL()
	return nil
}

// flagged names the flag that an address came from that is wrong.
func flagged(flag string, err error) error {
	if _, ok := errors.AsType[*embedded.AddressError](err); ok {
		return fmt.Errorf("%s: %w", flag, err)
	}
	return err
}

func (u *up) openPostgres(ctx context.Context) (err error) {
	if u.addresses.Postgres = u.Postgres; u.Postgres != "" {
		return nil
	}
	u.postgres, err = embedded.StartPostgres(ctx, embedded.PostgresOptions{
		Dir: u.dir.Path("postgres"), Addr: u.PostgresAddr, Log: u.log.Named("postgres"),
	})
	if err != nil {
		return flagged("--postgres-addr", err)
	}
	u.opened(u.postgres.Close)
	u.addresses.Postgres = u.postgres.URL()
	return nil
}

// connect makes a connection to NATS for one of the services.
func (u *up) connect(ctx context.Context, name string) (*nats.Conn, jetstream.JetStream, error) {
	nc, err := bus.Connect(ctx, u.addresses.NATS, u.Credentials, name, u.log)
	if err != nil {
		return nil, nil, err
	}
	u.opened(func() error { nc.Close(); return nil })
	js, err := jetstream.New(nc)
	return nc, js, err
}

func (u *up) openLimiter(ctx context.Context) error {
	nc, js, err := u.connect(ctx, "weir-limiter")
	if err != nil {
		return err
	}
	config := limiter.DefaultConfig()
	if config.Shards, err = shards.Find(ctx, js, config.Names, u.Shards); err != nil {
		return err
	}
	config.Shards = cmp.Or(config.Shards, 1)
	u.shards = config.Shards
	if u.policy, err = revision.Open(ctx, js, config.Names, u.Policy); err != nil {
		return err
	}
	config.Policy = u.policy
	if u.Redis != "" {
		windows, err := limiter.OpenWindows(u.Redis, config.Names)
		if err != nil {
			return err
		}
		u.opened(windows.Close)
		config.Windows = windows
	}
	config.MoveWindows = u.Move
	u.limiter, err = limiter.NewFleet(nc, config, u.log, u.registry)
	return err
}

func (u *up) openIngest(ctx context.Context) error {
	nc, _, err := u.connect(ctx, "weir-ingest")
	if err != nil {
		return err
	}
	u.client, err = gateway.Connect(nc, gateway.Config{Name: "ingest", Shards: u.shards})
	if err != nil {
		return err
	}
	u.opened(u.client.Close)
	u.edge = ingest.New(ingest.Config{Headers: u.Headers, Proxies: u.proxies}, u.client, nc.IsConnected, u.registry, u.log)
	return nil
}

func (u *up) openWriter(ctx context.Context) error {
	config := pg.DefaultConfig()
	config.URL = u.addresses.Postgres
	db, err := pg.Open(ctx, config)
	if err != nil {
		return err
	}
	u.opened(func() error { db.Close(); return nil })
	_, js, err := u.connect(ctx, "weir-writer")
	if err != nil {
		return err
	}
	written := writer.DefaultConfig()
	written.Shards, written.Retention = u.shards, u.Retention
	if err := written.Validate(); err != nil {
		return err
	}
	u.writer = writer.New(written, writer.Parts{DB: db, JetStream: js, Log: u.log, Metrics: u.registry})
	return nil
}

// run runs the services until ctx ends or one of them fails. They stop one
// after the other, in the order in which a request passes them.
func (u *up) run(ctx context.Context, out io.Writer) error {
	group, inner := errgroup.WithContext(ctx)
	limiting, stopLimiter := context.WithCancel(context.WithoutCancel(ctx))
	writing, stopWriter := context.WithCancel(context.WithoutCancel(ctx))
	group.Go(func() error {
		defer stopLimiter()
		return u.edge.Run(inner, u.edges)
	})
	group.Go(func() error {
		defer stopWriter()
		return u.limiter.Run(limiting)
	})
	group.Go(func() error { return u.writer.Run(writing) })
	group.Go(func() error {
		return serve.Run(writing, u.analytics, serve.Admit(u.edges.Guard, access.Analyst, u.writer.Handler()), u.log.Named("analytics"))
	})
	group.Go(func() error { return u.edges.Guard.Follow(inner, u.log) })
	group.Go(func() error { return u.watchPostgres(inner) })
	group.Go(func() error { return u.announce(inner, out) })
	if err := group.Wait(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(out, "\nEverything has ended.")
	return err
}

// watchPostgres fails when the private cluster ends by itself.
func (u *up) watchPostgres(ctx context.Context) error {
	if u.postgres == nil {
		return nil
	}
	select {
	case <-u.postgres.Done():
		return errors.New("the private Postgres cluster has ended by itself; start with -v to see its log")
	case <-ctx.Done():
		return nil
	}
}

// readyTimeout bounds how long the services may take to serve.
const readyTimeout = 10 * time.Minute // a large journal is read back first

// announce tells, once everything serves, where it is.
func (u *up) announce(ctx context.Context, out io.Writer) error {
	timeout := time.NewTimer(readyTimeout)
	defer timeout.Stop()
	for _, ready := range []<-chan struct{}{u.limiter.Ready(), u.writer.Ready()} {
		select {
		case <-ready:
		case <-ctx.Done():
			return nil
		case <-timeout.C:
			return fmt.Errorf("not ready within %v; start with -v to see why", readyTimeout)
		}
	}
	own := u.dir.Path(addressesFile)
	if err := u.addresses.write(own); err != nil {
		return err
	}
	u.opened(func() error { return os.Remove(own) })
	if u.ReadyFile != "" {
		if err := u.addresses.write(u.ReadyFile); err != nil {
			return fmt.Errorf("--ready-file: %w", err)
		}
	}
	rules := fmt.Sprintf("revision %d", u.policy.Revision)
	if u.policy.Revision == 0 {
		rules = "built-in: 256 requests a minute for each identity, POST exempt"
	}
	token := ""
	if u.Tokens != "" {
		token = "-H 'Authorization: Bearer weir_…' "
	}
	_, err := fmt.Fprintf(out, `Weir is up.

  check      %s/v1/check
  grpc       %s (Envoy's rate limit service)
  analytics  %s/v1/query
  nats       %s
  postgres   %s
  policy     %s
  data       %s

Try:

  curl %s-d '{"tenant":"acme","user":"42","method":"GET","path":"/api/order/history/"}' %s/v1/check

Ctrl-C ends everything.
`, u.addresses.Check, u.addresses.GRPC, u.addresses.Analytics, u.addresses.NATS, u.addresses.Postgres, rules,
		short(u.Data), token, u.addresses.Check)
	return err
}

// short shows a path as a person would type it: from here, if it is below.
func short(path string) string {
	here, err := os.Getwd()
	if err != nil {
		return path
	}
	if rel, err := filepath.Rel(here, path); err == nil && filepath.IsLocal(rel) {
		return rel
	}
	return path
}
