package gateway

import "github.com/weirhq/weir/internal/revision"

// followPolicy keeps the newest policy that parses, until Close. Of one that
// does not the limiters tell.
func (c *Client) followPolicy() {
	for seen := uint64(0); ; {
		newest, err := revision.Next(c.closing, c.js, c.names, seen)
		if err != nil {
			return
		}
		seen = newest.Number
		if p, err := newest.Policy(); err == nil {
			c.policy.Store(p)
		}
	}
}
