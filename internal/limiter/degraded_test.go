package limiter_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/limiter"
	"github.com/weirhq/weir/internal/limiter/limitertest"
	"github.com/weirhq/weir/internal/testenv"
)

// makeRoom lifts the journal's bound.
func makeRoom(t *testing.T, nc *nats.Conn) {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	config := journal.Config{Names: names, MaxAge: limiter.DefaultConfig().JournalAge}
	if _, err := journal.Create(t.Context(), js, config); err != nil {
		t.Fatal(err)
	}
}

// While the journal takes nothing decisions go out and say so; once it does,
// all of them are in it, and decisions are as before.
func TestDegraded(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	start(t, nc, func(c *limiter.Config) { c.JournalMax, c.DegradeAfter = 2000, 2*time.Second })
	large := func(id string) string {
		return fmt.Sprintf(`{"id":%q,"user":"42","path":%q}`, id, strings.Repeat("/x", 500))
	}
	if d := ask(t, nc, "acme", large("first")); d.Degraded {
		t.Fatalf("degraded with a journal that has room: %+v", d)
	}
	for i := range 5 {
		if d := ask(t, nc, "acme", large(fmt.Sprint(i))); !d.Degraded || d.Remaining != int64(254-i) {
			t.Errorf("check %d with a full journal: %+v", i, d)
		}
	}
	if d := ask(t, nc, "acme", large("0")); !d.Degraded || d.Remaining != 254 {
		t.Errorf("asked again: %+v, want the same answer, degraded", d)
	}
	if n := len(limitertest.Records(t, nc)); n != 1 {
		t.Errorf("%d records in a full journal, want 1", n)
	}
	makeRoom(t, nc)
	testenv.Eventually(t, 10*time.Second, func() error {
		if n := len(limitertest.Records(t, nc)); n != 6 {
			return fmt.Errorf("%d records, want 6", n)
		}
		return nil
	})
	testenv.Eventually(t, 10*time.Second, func() error {
		if d := ask(t, nc, "acme", `{"user":"7"}`); d.Degraded {
			return fmt.Errorf("still degraded: %+v", d)
		}
		return nil
	})
	for i, r := range limitertest.Records(t, nc)[:6] {
		// Whether the second went out before its block was stored is known too late.
		if i != 1 && r.Decision.Degraded != (i > 1) {
			t.Errorf("record %d: degraded is %v", i, r.Decision.Degraded)
		}
	}
}

// What is decided and not stored is bounded: past that nobody is answered, and
// all who were are in the journal in the end.
func TestBacklogIsBounded(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	start(t, nc, func(c *limiter.Config) {
		c.JournalMax, c.DegradeAfter, c.BacklogMax = 20_000, 200*time.Millisecond, 1<<20
	})
	seen := make(chan *nats.Msg, 2_000)
	if _, err := nc.ChanSubscribe(names.AllDecisions(), seen); err != nil {
		t.Fatal(err)
	}
	const checks = 1_000 // of 8 KB each: blocks of half a thousand go beyond the bound, not all of them
	path := strings.Repeat("/long", 1600)
	for i := range checks {
		payload := fmt.Appendf(nil, `{"id":"%d","user":"u%d","path":%q}`, i, i, path)
		if err := nc.Publish(names.Check(0, "acme", "g"), payload); err != nil {
			t.Fatal(err)
		}
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	var last int
	testenv.Eventually(t, 30*time.Second, func() error { // until nothing more is answered
		n := len(seen)
		if n == 0 || n != last {
			last = n
			time.Sleep(500 * time.Millisecond)
			return fmt.Errorf("%d answers and counting", n)
		}
		return nil
	})
	answered := len(seen)
	if answered >= checks {
		t.Fatalf("all %d checks are answered with a full journal; want no more than the backlog holds", answered)
	}
	makeRoom(t, nc)
	testenv.Eventually(t, 30*time.Second, func() error {
		if d := ask(t, nc, "acme", `{"user":"7"}`); d.Degraded {
			return fmt.Errorf("still degraded: %+v", d)
		}
		return nil
	})
	stored := map[string]bool{}
	for _, r := range limitertest.Records(t, nc) {
		stored[r.Request.ID] = true
	}
	for range answered {
		d, err := events.DecodeDecision((<-seen).Data)
		if err != nil || !stored[d.ID] {
			t.Errorf("answered and not stored: %+v, %v", d, err)
		}
	}
}
