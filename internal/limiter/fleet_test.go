package limiter_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap/zaptest"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/limiter"
	"github.com/weirhq/weir/internal/shards"
	"github.com/weirhq/weir/internal/testenv"
)

// fleet is a fleet that runs until stop is called or the test ends.
type fleet struct {
	*limiter.Fleet
	stop     func() error
	registry *prometheus.Registry
}

// startFleet runs a fleet, and waits until it decides its share.
func startFleet(t *testing.T, url string, shards int, change func(*limiter.Config)) fleet {
	t.Helper()
	config := limiter.DefaultConfig()
	config.Shards = shards
	config.DegradeAfter = time.Minute // a busy machine is not what is tested
	if change != nil {
		change(&config)
	}
	registry := prometheus.NewRegistry()
	f, err := limiter.NewFleet(testenv.Connect(t, url), config, zaptest.NewLogger(t), registry)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	stop := sync.OnceValue(func() error {
		cancel()
		return <-done
	})
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("fleet ended: %v", err)
		}
	})
	select {
	case <-f.Ready():
	case <-time.After(20 * time.Second):
		t.Fatal("fleet not ready")
	}
	return fleet{f, stop, registry}
}

// holds returns the shards whose leases the fleet holds, as its metrics say.
func (f fleet) holds(t *testing.T) (held []string) {
	t.Helper()
	families, err := f.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			if family.GetName() == "weir_limiter_owner" && m.GetGauge().GetValue() == 1 {
				held = append(held, m.GetLabel()[0].GetValue())
			}
		}
	}
	return held
}

// await waits until fleets decide and hold so many shards each.
func await(t *testing.T, within time.Duration, want []int, fleets ...fleet) {
	t.Helper()
	testenv.Eventually(t, within, func() error {
		var all []string
		for i, f := range fleets {
			held := f.holds(t)
			if len(held) != want[i] || !f.Decides() {
				return fmt.Errorf("fleet %d holds %q, want %d of them, and decides: %v", i, held, want[i], f.Decides())
			}
			all = append(all, held...)
		}
		if slices.Sort(all); len(slices.Compact(all)) != len(all) {
			return fmt.Errorf("two hold one: %q", all)
		}
		return nil
	})
}

// asker asks on all shards, without pause, one user of each of eight tenants.
type asker struct {
	asked   [8]int64 // by tenant
	stopped atomic.Bool
	done    sync.WaitGroup
}

// ask asks again whatever has no answer, until the asker is stopped. No limit
// is reached, so that what remains tells how often each user was charged.
func (a *asker) ask(t *testing.T, nc *nats.Conn, shards int) {
	for i := range a.asked {
		a.done.Go(func() {
			tenant := fmt.Sprint("tenant-", i)
			for ; !a.stopped.Load() && a.asked[i] < 250; a.asked[i]++ {
				check := fmt.Appendf(nil, `{"id":"%d","user":"42"}`, a.asked[i])
				var m *nats.Msg
				var err error
				for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
					if m, err = nc.Request(names.Check(events.Shard(tenant, shards), tenant, "g"), check, 100*time.Millisecond); err == nil {
						break
					}
				}
				if err != nil {
					t.Errorf("no answer: %v", err)
					return
				}
				d, err := events.DecodeDecision(m.Data)
				if want := 255 - a.asked[i]; err != nil || d.Remaining != want {
					t.Errorf("%s, number %d: %s, %v, want %d left", tenant, a.asked[i], m.Data, err, want)
					return
				}
				time.Sleep(10 * time.Millisecond) // the pace, so that there is enough for the whole test
			}
		})
	}
}

// Fleets divide the shards, also among one more and one less, and no count is
// lost or doubled.
func TestFleetsDivideTheShards(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	first := startFleet(t, url, 4, nil)
	await(t, 5*time.Second, []int{4}, first)
	var a asker
	a.ask(t, testenv.Connect(t, url), 4)
	second := startFleet(t, url, 4, nil)
	await(t, 10*time.Second, []int{2, 2}, first, second)
	third := startFleet(t, url, 4, func(c *limiter.Config) { c.Name = "third" })
	testenv.Eventually(t, 10*time.Second, func() error {
		a, b, c := len(first.holds(t)), len(second.holds(t)), len(third.holds(t))
		if a+b != 3 || c != 1 {
			return fmt.Errorf("shares are %d, %d and %d", a, b, c)
		}
		return nil
	})
	began := time.Now()
	if err := errors.Join(first.stop(), third.stop()); err != nil {
		t.Fatal(err)
	}
	await(t, 10*time.Second, []int{4}, second)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("it has all after %v: it waited for something to run out", took)
	}
	a.stopped.Store(true)
	a.done.Wait()
}

// Of two fleets with one shard one decides, and the other one stands by, which
// is its share.
func TestFleetStandsBy(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	first := startFleet(t, url, 1, func(c *limiter.Config) { c.Name = "z" })
	second := startFleet(t, url, 1, func(c *limiter.Config) { c.Name = "a" })
	await(t, 5*time.Second, []int{1, 0}, first, second)
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	await(t, 4*time.Second, []int{1}, second)
}

// impostor says, until the test ends, that a limiter is there, in the words
// that it was last told.
type impostor struct{ text atomic.Pointer[string] }

func (i *impostor) says(text string) { i.text.Store(&text) }

func newImpostor(t *testing.T, nc *nats.Conn, text string) *impostor {
	i := &impostor{}
	i.says(text)
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for ctx.Err() == nil {
			if err := nc.Publish(names.Limiters(), []byte(*i.text.Load())); err != nil {
				t.Error(err)
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
			}
		}
	})
	t.Cleanup(done.Wait)
	t.Cleanup(cancel)
	return i
}

// A fleet goes on deciding what is for another one until that one waits for it,
// and in time takes what nobody does.
func TestFleetLeavesNoShardToNobody(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	other := newImpostor(t, testenv.Connect(t, url), `{"name":"other","waits":[0,1,2,3,-1,4]}`)
	first := startFleet(t, url, 4, nil)
	await(t, 5*time.Second, []int{2}, first)
	other.says(`{"name":"other"}`) // and does not take what it was given
	await(t, 20*time.Second, []int{4}, first)
	second := startFleet(t, url, 4, nil) // of three one has two shards, and only the second takes what is for it
	await(t, 5*time.Second, []int{3, 1}, first, second)
}

// A system has the number of shards that its first limiter was told.
func TestFleetOfAnotherNumber(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	startFleet(t, url, 4, nil)
	config := limiter.DefaultConfig()
	config.Shards = 2
	f, err := limiter.NewFleet(testenv.Connect(t, url), config, zaptest.NewLogger(t), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err = f.Run(ctx)
	if other, ok := errors.AsType[*shards.OtherError](err); !ok || other.Has != 4 || other.Told != 2 {
		t.Errorf("with another number: %v", err)
	}
	const want = "shards: want 4, as this system has since its first limiter was started, found 2"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}

// The windows of all shards together have one bound.
func TestFleetDividesItsMemory(t *testing.T) {
	t.Parallel()
	config := limiter.DefaultConfig()
	config.Shards, config.WindowMax = 4, 3<<20
	_, err := limiter.NewFleet(nil, config, zaptest.NewLogger(t), prometheus.NewRegistry())
	if err == nil || !strings.Contains(err.Error(), "window-max: want 4194304 bytes or more for 4 shards") {
		t.Errorf("3 MiB for 4 shards: %v", err)
	}
}
