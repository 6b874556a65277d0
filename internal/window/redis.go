package window

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/logging"
	"github.com/sony/gobreaker/v2"
)

// Redis is a store that any number of processes share. It decides by the
// server's clock. The charges that a batch makes on a slot, up to a thousand,
// are one atomic script call: on a cluster one for each tenant, since a tenant's
// keys are tagged by it and lie on one slot, and else one for all. It is safe
// for concurrent use.
//
// A call that fails is never sent again, because it may have been obeyed. While
// the server is away, calls fail at once: after a few that failed in a row only
// one in a while is let through to see whether it is back.
//
// A server that evicts keys for want of memory forgets what they were charged.
type Redis struct {
	client  redis.UniversalClient
	cluster bool
	config  RedisConfig
	breaker *gobreaker.CircuitBreaker[struct{}]

	now func() string // the instant to decide at instead of the server's; in tests
}

// RedisConfig says where the server is and how long to wait for it.
type RedisConfig struct {
	// URL is redis://user:password@host:port/db for one server (rediss:// with
	// TLS, unix:// for a socket); with ?addr=host:port, once for each further
	// node, a cluster; with ?master_name=name&addr=host:port… one that
	// Sentinels watch.
	URL     string
	Prefix  string        // of all keys
	Timeout time.Duration // of one call
	Trip    int           // failures in a row after which calls fail at once
	Retry   time.Duration // after which one is let through again
}

// DefaultRedisConfig returns what is used where nothing else is said.
func DefaultRedisConfig() RedisConfig {
	return RedisConfig{
		URL:     "redis://127.0.0.1:6379/0",
		Prefix:  "weir:",
		Timeout: 50 * time.Millisecond,
		Trip:    5,
		Retry:   time.Second,
	}
}

// Validate names every fault.
func (c *RedisConfig) Validate() error {
	var faults []error
	fault := func(wrong bool, name, want string, found any) {
		if wrong {
			faults = append(faults, fmt.Errorf("redis %s: want %s, found %v", name, want, found))
		}
	}
	if _, _, err := c.options(); err != nil {
		faults = append(faults, fmt.Errorf("redis url: %w", err))
	}
	fault(bytes.ContainsAny([]byte(c.Prefix), "{}"), "prefix", "no braces, which tag the tenant", strconv.Quote(c.Prefix))
	fault(c.Timeout < time.Millisecond || c.Timeout > 10*time.Second, "timeout", "1ms to 10s", c.Timeout)
	fault(c.Trip < 1 || c.Trip > 1000, "trip", "1 to 1000", c.Trip)
	fault(c.Retry < time.Millisecond || c.Retry > time.Minute, "retry", "1ms to 1m", c.Retry)
	return errors.Join(faults...)
}

// options reads the URL, and sets what a store of windows needs whatever that
// says: that deadlines hold, and that nothing is sent twice.
func (c *RedisConfig) options() (o *redis.UniversalOptions, cluster bool, err error) {
	address, err := url.Parse(c.URL)
	if err != nil {
		return nil, false, errors.New("not a URL") // it may hold a password
	}
	switch query := address.Query(); {
	case query.Has("master_name"):
		f, err := redis.ParseFailoverURL(c.URL)
		if err != nil {
			return nil, false, err
		}
		o = &redis.UniversalOptions{Addrs: f.SentinelAddrs, MasterName: f.MasterName, DB: f.DB,
			Username: f.Username, Password: f.Password, TLSConfig: f.TLSConfig,
			SentinelUsername: f.SentinelUsername, SentinelPassword: f.SentinelPassword, PoolSize: f.PoolSize}
	case query.Has("addr"):
		f, err := redis.ParseClusterURL(c.URL)
		if err != nil {
			return nil, false, err
		}
		o = &redis.UniversalOptions{Addrs: f.Addrs, IsClusterMode: true,
			Username: f.Username, Password: f.Password, TLSConfig: f.TLSConfig, PoolSize: f.PoolSize}
	default:
		f, err := redis.ParseURL(c.URL)
		if err != nil {
			return nil, false, err
		}
		o = &redis.UniversalOptions{Addrs: []string{f.Addr}, DB: f.DB, Dialer: f.Dialer,
			Username: f.Username, Password: f.Password, TLSConfig: f.TLSConfig, PoolSize: f.PoolSize}
	}
	o.ContextTimeoutEnabled = true
	o.MaxRetries = -1
	o.ReadTimeout, o.WriteTimeout, o.PoolTimeout = c.Timeout, c.Timeout, c.Timeout
	o.DialTimeout = max(c.Timeout, time.Second) // a connection that comes too late is there for the next call
	o.DialerRetries = 1
	return o, o.IsClusterMode, nil
}

// maxCharges bounds what is decided at once: a server does nothing else
// meanwhile, for some 5 ms, a fifth of the time that a limiter gives it.
const maxCharges = 1000

func init() {
	logging.Disable() // the client's own log goes to the standard error; its errors are returned
}

// OpenRedis returns a store on the server that the configuration names. It does
// not connect yet.
func OpenRedis(c RedisConfig) (*Redis, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	o, cluster, err := c.options()
	if err != nil {
		return nil, err
	}
	r := &Redis{client: redis.NewUniversalClient(o), cluster: cluster, config: c, now: func() string { return "" }}
	r.breaker = gobreaker.NewCircuitBreaker[struct{}](gobreaker.Settings{
		Timeout:      c.Retry,
		ReadyToTrip:  func(n gobreaker.Counts) bool { return int(n.ConsecutiveFailures) >= c.Trip },
		IsSuccessful: func(err error) bool { return err == nil || errors.Is(err, context.Canceled) },
	})
	return r, nil
}

// Close ends the connections.
func (r *Redis) Close() error { return r.client.Close() }

// Available tells whether calls are sent to the server rather than failed at
// once.
func (r *Redis) Available() bool { return r.breaker.State() != gobreaker.StateOpen }

// Ping tells whether the server answers.
func (r *Redis) Ping(ctx context.Context) error {
	return r.call(ctx, func(ctx context.Context) error { return r.client.Ping(ctx).Err() })
}

// Decide decides the requests of a batch in the order of each tenant's, by the
// server's clock: the instant given is not used. Of a large batch, and of one of
// several tenants on a cluster, some may have been decided when it fails: those
// whose At is set.
func (r *Redis) Decide(ctx context.Context, _ time.Time, batch []Request) error {
	for i := range batch {
		batch[i].At = time.Time{}
	}
	for len(batch) > 0 {
		n, charges := 1, len(batch[0].Charges)
		for n < len(batch) && charges+len(batch[n].Charges) <= maxCharges {
			charges += len(batch[n].Charges)
			n++
		}
		if err := r.decide(ctx, batch[:n]); err != nil {
			return err
		}
		batch = batch[n:]
	}
	return nil
}

// decide decides requests at once.
func (r *Redis) decide(ctx context.Context, batch []Request) error {
	groups := r.groups(batch)
	return r.call(ctx, func(ctx context.Context) error {
		commands := make([]*redis.Cmd, len(groups))
		for i := range groups {
			commands[i] = r.command(ctx, "evalsha", decideScript.Hash(), batch, groups[i])
		}
		r.send(ctx, commands)
		var again []*redis.Cmd // groups of servers that do not know the script
		var unknown []int
		for i, command := range commands {
			if redis.HasErrorPrefix(command.Err(), "NOSCRIPT") {
				commands[i] = r.command(ctx, "eval", decideLua, batch, groups[i])
				again, unknown = append(again, commands[i]), append(unknown, i)
			}
		}
		if len(unknown) > 0 {
			r.send(ctx, again)
		}
		var faults []error
		for i, command := range commands {
			text, err := command.Text()
			if err == nil {
				err = decode(text, batch, groups[i])
			}
			if err != nil {
				faults = append(faults, err)
			}
		}
		return errors.Join(faults...)
	})
}

// Refund takes back units of an admission that c was charged with at an
// instant, the request's At: c.Cost at most, and none that no longer count. It
// returns how many. It looks at every admission since.
func (r *Redis) Refund(ctx context.Context, at time.Time, c Charge) (units int64, err error) {
	c.check()
	key := r.key(c.Key)
	err = r.call(ctx, func(ctx context.Context) error {
		var command *redis.Cmd
		for _, how := range [][2]any{{"evalsha", refundScript.Hash()}, {"eval", refundLua}} {
			command = redis.NewCmd(ctx, how[0], how[1], 1, key, c.stamp(at.UnixMicro()), c.Cost, r.now())
			if r.send(ctx, []*redis.Cmd{command}); !redis.HasErrorPrefix(command.Err(), "NOSCRIPT") {
				break
			}
		}
		units, err = command.Int64()
		return err
	})
	return units, err
}

// Reset forgets what a key has been charged.
func (r *Redis) Reset(ctx context.Context, key []byte) error {
	return r.call(ctx, func(ctx context.Context) error { return r.client.Unlink(ctx, r.key(key)).Err() })
}

// call makes a call within the time that one may take, unless the server is
// known to be away.
func (r *Redis) call(ctx context.Context, do func(context.Context) error) error {
	_, err := r.breaker.Execute(func() (struct{}, error) {
		ctx, cancel := context.WithTimeout(ctx, r.config.Timeout)
		defer cancel()
		return struct{}{}, do(ctx)
	})
	if err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	return nil
}

// send sends commands, each with its own outcome. They go out at once, and to
// the nodes of a cluster side by side.
func (r *Redis) send(ctx context.Context, commands []*redis.Cmd) {
	if len(commands) == 1 {
		_ = r.client.Process(ctx, once{commands[0]}) // it is the command's, too
		return
	}
	pipe := r.client.Pipeline()
	for _, command := range commands {
		_ = pipe.Process(ctx, once{command}) // queues
	}
	_, _ = pipe.Exec(ctx) // the first of the commands' own
}

// once is a command that is never sent twice.
type once struct{ *redis.Cmd }

// NoRetry tells the client so.
func (once) NoRetry() bool { return true }

var (
	//go:embed decide.lua
	decideLua string
	//go:embed refund.lua
	refundLua string

	decideScript = redis.NewScript(decideLua)
	refundScript = redis.NewScript(refundLua)
)
