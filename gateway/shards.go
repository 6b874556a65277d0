package gateway

import (
	"context"
	"errors"
	"time"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/shards"
)

const (
	// findTimeout bounds one question for the number of shards.
	findTimeout = 2 * time.Second
	// findEvery is how often it is asked for until it is known.
	findEvery = time.Second
)

// errNoShards says that no request can be published yet.
var errNoShards = errors.New("the number of shards is not known: no limiter has been there yet")

// shard returns a tenant's shard.
func (c *Client) shard(tenant string) (int, error) {
	n := c.shards.Load()
	if n == 0 {
		return 0, errNoShards
	}
	return events.Shard(tenant, int(n)), nil
}

// findShards returns how many shards there are, or 0 while that is not known.
// The error says that there are others than the client was told. A server that
// does not answer is believed to have what the client was told.
func (c *Client) findShards() (int, error) {
	if c.config.Tenant != "" { // the stream that would tell names every tenant
		return c.config.Shards, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), findTimeout)
	defer cancel()
	n, err := shards.Find(ctx, c.js, c.names, c.config.Shards)
	if other, ok := errors.AsType[*shards.OtherError](err); ok {
		return 0, other
	}
	if err != nil {
		return c.config.Shards, nil
	}
	return n, nil
}

// awaitShards asks for the number of shards until it is known, or the client is
// closed.
func (c *Client) awaitShards() {
	tick := time.NewTicker(findEvery)
	defer tick.Stop()
	for c.shards.Load() == 0 {
		select {
		case <-tick.C:
		case <-c.closing.Done():
			return
		}
		n, _ := c.findShards() // told none, so there are no others than told
		c.shards.Store(int32(n))
	}
}
