package window

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

// TimedRedis decides at the instant it is given, like Memory. Keys do not
// expire, because the server's clock is another one. It is for one goroutine.
type TimedRedis struct {
	*Redis
	at time.Time
}

// Timed makes a store decide at the instants it is given.
func Timed(r *Redis) *TimedRedis {
	t := &TimedRedis{Redis: r}
	r.now = func() string { return strconv.FormatInt(t.at.UnixMicro(), 10) }
	return t
}

func (t *TimedRedis) Decide(ctx context.Context, now time.Time, batch []Request) error {
	t.at = now
	return t.Redis.Decide(ctx, now, batch)
}

// LoseAnswer returns a switch of a store not used yet: once it is on, the server
// obeys, but the connection ends before its answer is read, and it is off again.
func LoseAnswer(r *Redis) *atomic.Bool {
	lost := new(atomic.Bool)
	if cluster, ok := r.client.(*redis.ClusterClient); ok {
		cluster.OnNewNode(func(node *redis.Client) { node.AddHook(losing{lost}) })
	} else {
		r.client.AddHook(losing{lost})
	}
	return lost
}

type losing struct{ lost *atomic.Bool }

func (l losing) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := next(ctx, network, addr)
		return losingConn{conn, l.lost}, err
	}
}

func (l losing) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (l losing) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

type losingConn struct {
	net.Conn
	lost *atomic.Bool
}

func (c losingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.lost.CompareAndSwap(true, false) {
		return 0, errors.Join(io.EOF, c.Close())
	}
	return n, err
}

// Replicated waits until a replica has all that was written.
func Replicated(t *testing.T, r *Redis) {
	t.Helper()
	if n, err := r.client.(*redis.Client).Wait(t.Context(), 1, 10*time.Second).Result(); err != nil || n < 1 {
		t.Fatalf("%d replicas have all: %v", n, err)
	}
}
