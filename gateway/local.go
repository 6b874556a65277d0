package gateway

import (
	"encoding/json"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/internal/events"
)

// reportEvery is how often local denials are reported, folded into one report
// for each key.
const reportEvery = time.Second

// noticed takes note that something happened to a limit. What cannot be read
// concerns all.
func (c *Client) noticed(m *nats.Msg) {
	var n events.Notice
	if json.Unmarshal(m.Data, &n) != nil {
		n = events.Notice{}
	}
	c.denials.forget(n, time.Now())
}

// reportDenials reports what is denied locally, until Close.
func (c *Client) reportDenials() {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			c.keepDenied()
		case <-c.closing.Done():
			return
		}
	}
}

// keepDenied puts what was denied locally where it waits to be reported, in half of
// the places: the others are for requests without a decision. Of a closed client
// it is left to reportSpilled.
func (c *Client) keepDenied() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	for _, r := range c.denials.report(time.Now(), max(spillSize/2-len(c.spill), 0)) {
		c.keepLocked(r)
	}
}

// keep puts a request without a decision where it waits to be reported.
func (c *Client) keep(r Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keepLocked(r)
}

func (c *Client) keepLocked(r Request) {
	if c.closed || len(c.spill) == cap(c.spill) {
		c.overflow.Add(max(r.Count, 1))
		return
	}
	c.spill <- r // has room: all senders hold mu
}
