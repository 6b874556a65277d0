package decide_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/decide"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/window"
)

// failing decides the first requests of each batch, as Redis may, and fails.
type failing struct {
	*window.Memory
	decides int
}

func (f failing) Decide(ctx context.Context, now time.Time, batch []window.Request) error {
	_ = f.Memory.Decide(ctx, now, batch[:f.decides])
	return errors.New("away")
}

// Of what the windows were not asked nothing is said, nor charged.
func TestWindowsFailHalfway(t *testing.T) {
	t.Parallel()
	p := mustParse(t, withRules("name: real, limit: 10/min, key: [user]", "name: closed, limit: 10/min, key: [route], on_error: deny", "name: try, limit: 9/min, key: [user], mode: shadow"))
	for decides, want := range []struct {
		verdicts [2]events.Verdict
		reasons  [2]events.Reason
		charges  [2]int
	}{
		{[2]events.Verdict{events.Allow, events.Deny}, [2]events.Reason{events.ReasonUnavailable, events.ReasonUnavailable}, [2]int{}},
		{[2]events.Verdict{events.Allow, events.Deny}, [2]events.Reason{events.ReasonRule, events.ReasonUnavailable}, [2]int{0, 0}},
		{[2]events.Verdict{events.Allow, events.Deny}, [2]events.Reason{events.ReasonRule, events.ReasonUnavailable}, [2]int{2, 0}},
		{[2]events.Verdict{events.Allow, events.Allow}, [2]events.Reason{events.ReasonRule, events.ReasonRule}, [2]int{2, 2}},
		{[2]events.Verdict{events.Allow, events.Allow}, [2]events.Reason{events.ReasonRule, events.ReasonRule}, [2]int{2, 3}},
	} {
		d := decide.New(p, failing{window.NewMemory(), decides})
		records := []events.Record{
			{Request: events.Request{ID: "1", Tenant: "acme", User: "42"}},
			{Request: events.Request{ID: "2", Tenant: "acme", User: "7", Route: "/r"}},
		}
		for i := range records {
			d.Check(&records[i])
		}
		if err := d.Decide(t.Context(), start); err == nil {
			t.Fatal("no error of windows that fail")
		}
		for i, r := range records {
			if r.Decision.Verdict != want.verdicts[i] || r.Decision.Reason != want.reasons[i] || len(r.Charges) != want.charges[i] || r.Decision.Shadow != nil {
				t.Errorf("%d decided, request %d: %s", decides, i, events.AppendRecord(nil, &r))
			}
		}
	}
}
