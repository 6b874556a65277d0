package decide

import (
	"strings"
	"time"

	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/window"
)

// Adopt decides under another policy from an instant on, between two batches, if
// what the windows have kept is enough for that, and tells whether it is. Usage is
// kept. Windows that are shared are taken as they are: nothing could give them
// more.
func (d *Decider) Adopt(p *policy.Policy, now time.Time) bool {
	if _, ok := d.windows.(*window.Memory); ok && !d.spans.Cover(p, now) {
		return false
	}
	d.spans.Follow(p)
	d.policy = p
	return true
}

// Spans tell for how long the windows have been kept. They are the decider's.
func (d *Decider) Spans() *policy.Spans { return &d.spans }

// Resume takes note that the windows are to be loaded with what was saved of some
// that were kept for the given spans. It is false if that is not enough.
func (d *Decider) Resume(s policy.Spans, now time.Time) bool {
	if !s.Cover(d.policy, now) {
		return false
	}
	d.spans = s
	d.spans.Follow(d.policy)
	return true
}

// stranger takes note of a record's rule that the policy does not have: its keys
// are kept for no longer than the record says.
func (d *Decider) stranger(rule string) {
	if !d.spans.Lost[rule] {
		d.spans.Lose(strings.Clone(rule), d.policy)
	}
}
