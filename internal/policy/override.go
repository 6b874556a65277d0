package policy

import (
	"slices"
	"time"
)

// override is another limit for some keys of a rule.
type override struct {
	key    []string // values of the rule's first attributes; what is left out may be anything
	limit  int64
	window time.Duration
	until  time.Time // the first instant at which it no longer applies; zero if there is none
}

// covers tells whether every key of b is one of a.
func (a *override) covers(b *override) bool {
	return len(a.key) <= len(b.key) && slices.Equal(a.key, b.key[:len(a.key)])
}

// outlasts tells whether a applies for as long as b.
func (a *override) outlasts(b *override) bool {
	return a.until.IsZero() || !b.until.IsZero() && !a.until.Before(b.until)
}

// allow puts into a charge what the rule allows the key of these values: by the
// first override in the file that applies, else by itself.
func (r *Rule) allow(c *Charge, values []string, at time.Time) {
	c.Limit, c.Window, c.Until, c.Keep = r.Limit, r.Window, time.Time{}, 0
	applies := false
	list := r.overrides[values[0]]
	for i := range list {
		o := &list[i]
		if !slices.Equal(o.key, values[:len(o.key)]) || !o.until.IsZero() && !at.Before(o.until) {
			continue
		}
		if c.Keep = max(c.Keep, o.window); !applies {
			c.Limit, c.Window, c.Until = o.limit, o.window, o.until
			applies = true
		}
		if o.until.IsZero() {
			return // nothing comes after it
		}
	}
	c.Keep = max(c.Keep, r.Window)
}
