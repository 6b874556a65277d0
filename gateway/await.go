package gateway

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/internal/events"
)

const (
	// A check may be lost, by a connection that broke or a limiter that died. It
	// is asked again after pauses that double from firstPause, which is longer
	// than most wait at all, to maxPause. The limiter answers what it has decided
	// with what it has decided.
	firstPause = 100 * time.Millisecond
	maxPause   = time.Second
	// askFor is how long it is asked again: the limiter remembers ids for longer.
	askFor = time.Minute
)

// await sends a check and waits until it is answered, or will not be, or the
// time is over. The error is that of ctx.
func (c *Client) await(ctx context.Context, check outgoing, timeout time.Duration) error {
	back := c.back.Load()
	pause := min(firstPause, timeout)
	timer := time.NewTimer(pause)
	defer timer.Stop()
	c.outbox.send(check)
	for waited := time.Duration(0); ; {
		var again bool
		select {
		case <-check.waiter.ready:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-*back:
			back = c.back.Load()
			again = true
		case <-timer.C:
			if waited += pause; waited >= timeout {
				return nil
			}
			pause = min(2*pause, maxPause, timeout-waited)
			timer.Reset(pause)
			again = c.nc.IsConnected()
		}
		if again && waited < askFor {
			c.outbox.send(check)
		}
	}
}

// followConnection tells those who wait when the connection comes back, until
// Close. There may have been notices meanwhile, so denials are forgotten.
func (c *Client) followConnection(connected chan nats.Status) {
	defer c.nc.RemoveStatusListener(connected)
	for {
		select {
		case <-connected:
		case <-c.closing.Done():
			return
		}
		c.denials.forget(events.Notice{}, time.Now())
		next := make(chan struct{})
		close(*c.back.Swap(&next))
	}
}
