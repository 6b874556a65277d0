package limiter_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/limiter"
	"github.com/weirhq/weir/internal/revision"
	"github.com/weirhq/weir/internal/testenv"
)

// The policy changes while checks come all the time: each is answered, none
// waits for windows to be rebuilt, and what was used stays used.
func TestPolicyChangesUnderLoad(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	const (
		text  = "version: 1\ntenants:\n  \"*\":\n    rules:\n      - {name: all, limit: 1000000000/day, key: [gateway]}\n"
		ruleR = "      - {name: r, limit: %s, key: [user], match: {methods: [PUT]}}\n"
	)
	apply := func(rules string) uint64 {
		p, err := revision.Apply(t.Context(), js, names, []byte(text+rules))
		if err != nil {
			t.Fatal(err)
		}
		return p.Revision
	}
	apply(fmt.Sprintf(ruleR, "10 per 10s"))
	first, err := revision.Open(t.Context(), js, names, "")
	if err != nil {
		t.Fatal(err)
	}
	c := newClock()
	run := start(t, nc, func(config *limiter.Config) { config.Policy, config.Clock, config.SnapshotEvery = first, c.Now, 500 })
	for range 4 {
		ask(t, nc, "acme", `{"user":"42","method":"PUT"}`)
	}
	c.Add(15 * time.Second) // beyond the window of today, within the last one below
	ask(t, nc, "acme", `{"user":"42","method":"PUT"}`)

	mustCommand(t, nc, events.Command{ID: "o", Kind: events.ControlOverride, Rule: "r", Key: []string{"43"}, Limit: "77 per 5s", Until: c.Now().Add(time.Hour), By: "ann"})

	var asked, unanswered, longest atomic.Int64
	stop := make(chan struct{})
	var load sync.WaitGroup
	for i := range 4 {
		load.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				asked.Add(1)
				sent := time.Now()
				if _, err := nc.Request(names.Check(0, "acme", "g"), fmt.Appendf(nil, `{"user":"u%d-%d"}`, i, n%1000), 5*time.Second); err != nil {
					unanswered.Add(1)
				}
				for took, most := time.Since(sent), longest.Load(); int64(took) > most && !longest.CompareAndSwap(most, int64(took)); most = longest.Load() {
				}
			}
		})
	}
	for _, step := range []struct {
		name, rules string
		left        int64
	}{
		{"the limit is raised", fmt.Sprintf(ruleR, "20 per 10s"), 19},
		{"the limit is lowered", fmt.Sprintf(ruleR, "3 per 10s"), 2},
		{"the rule is removed", "", -1}, // of all requests
		{"and added again", fmt.Sprintf(ruleR, "10 per 10s"), 9},
		{"the window gets longer", fmt.Sprintf(ruleR, "10 per 30s"), 5},
		{"and shorter", fmt.Sprintf(ruleR, "10 per 10s"), 9},
		{"and longer again", fmt.Sprintf(ruleR, "10 per 40s"), 5},
	} {
		number := apply(step.rules)
		var d events.Decision
		testenv.Eventually(t, 10*time.Second, func() error {
			if d = ask(t, nc, "acme", `{"user":"42","method":"PUT","cost":0}`); d.Policy != number {
				return fmt.Errorf("decided under revision %d", d.Policy)
			}
			return nil
		})
		if d.Remaining != step.left && step.left >= 0 {
			t.Errorf("%s: %+v, want %d left", step.name, d, step.left)
		}
		if d := ask(t, nc, "acme", `{"user":"43","method":"PUT","cost":0}`); d.Remaining != 77 && step.left >= 0 {
			t.Errorf("%s: %+v, want 77 left, as the override by hand says", step.name, d)
		}
	}
	close(stop)
	load.Wait()
	number := apply("")
	testenv.Eventually(t, 10*time.Second, func() error {
		d := ask(t, nc, "acme", `{"user":"42","method":"PUT","cost":0}`)
		if used := d.Limit - d.Remaining; d.Policy == number && used != asked.Load()+5 {
			t.Errorf("%d units are used, want %d", used, asked.Load()+5)
		} else if d.Policy != number {
			return fmt.Errorf("decided under revision %d", d.Policy)
		}
		return nil
	})
	t.Logf("%d checks, the longest took %v", asked.Load(), time.Duration(longest.Load()))
	if n := unanswered.Load(); n > 0 || asked.Load() < 100 {
		t.Errorf("%d of %d checks had no answer", n, asked.Load())
	}
	if n := run.metric(t, "weir_limiter_recovered_records"); n != 0 {
		t.Errorf("an owner began anew, and read %v records", n)
	}
}
