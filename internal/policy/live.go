package policy

import (
	"bytes"
	"strconv"
	"strings"
	"time"

	"github.com/weirhq/weir/internal/events"
)

// Live are overrides that were made by hand while a policy runs, each of one
// key, until a time. They go before those of the file.
type Live map[LiveKey]LiveOverride

// LiveKey names a key of a tenant's rule.
type LiveKey struct{ Tenant, Rule, Key string }

// LiveOverride is another limit for one key.
type LiveOverride struct {
	Limit  int64 // units in any window, 0..MaxLimit; 0 bans
	Window time.Duration
	Until  time.Time // the first instant at which it no longer applies
}

// find returns the override of a key that applies at an instant.
func (l Live) find(tenant string, c *Charge, at time.Time) (LiveOverride, bool) {
	o, ok := l[LiveKey{tenant, c.Rule.Name, c.Key}]
	return o, ok && at.Before(o.Until)
}

// allow puts into a charge what an override by hand allows its key. When it
// ends, what the charge had before counts again.
func (l Live) allow(c *Charge, tenant string, at time.Time) {
	if o, ok := l.find(tenant, c, at); ok {
		c.Limit, c.Window, c.Until = o.Limit, o.Window, o.Until
		c.Keep = max(c.Keep, o.Window)
	}
}

// KeyOf returns the key that the rule counts by for these values of its
// attributes. The error is a *FieldError.
func (r *Rule) KeyOf(values []string) (string, error) {
	if len(values) != len(r.Key) {
		names := make([]string, len(r.Key))
		for i := range r.Key {
			names[i] = r.Key[i].Name
		}
		return "", &events.FieldError{Field: "key", Value: strings.Join(values, ", "),
			Want: "a value for each of " + strings.Join(names, ", ") + ", as rule " + r.Name + " counts by them"}
	}
	canonical := make([]string, len(values))
	for i := range r.Key {
		var ok bool
		if canonical[i], ok = r.Key[i].canonical(values[i]); !ok {
			return "", &events.FieldError{Field: "key[" + strconv.Itoa(i) + "]", Value: values[i], Want: "a value that " + r.Key[i].Name + " can have"}
		}
	}
	return joinKey(canonical, new(bytes.Buffer)), nil
}
