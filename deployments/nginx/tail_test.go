package nginx_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/limiter/limitertest"
	"github.com/weirhq/weir/internal/tail"
	"github.com/weirhq/weir/internal/testenv"
)

// sent is a request that a test has made.
type sent struct {
	path   string
	code   int
	passed bool // nginx had no answer of Weir
}

// traffic is what comes to an nginx, the log that it keeps of it, and weir tail.
type traffic struct {
	*server
	log    string
	client *gateway.Client
	all    []sent
	stop   func() tail.Summary
}

func (f *traffic) follow(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	type result struct {
		tail.Summary
		error
	}
	done := make(chan result, 1)
	go func() {
		sum, err := tail.Run(ctx, f.client, tail.Options{Log: f.log, Gateway: "tail", State: f.log + ".weir", Tenant: "default"})
		done <- result{sum, err}
	}()
	f.stop = func() tail.Summary {
		cancel()
		r := <-done
		if r.error != nil {
			t.Error(r.error)
		}
		return r.Summary
	}
}

func (f *traffic) some(t *testing.T, passed bool) {
	t.Helper()
	for range 40 {
		path := fmt.Sprintf("/%d", len(f.all))
		f.all = append(f.all, sent{path, f.get(t, path, nil).code, passed})
	}
}

func (f *traffic) rotate(t *testing.T, to string) {
	t.Helper()
	if err := os.Rename(f.log, f.log+to); err != nil {
		t.Fatal(err)
	}
	f.some(t, false) // nginx goes on with the file it has
	if err := syscall.Kill(f.Pid(), syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 5*time.Second, func() error {
		_, err := os.Stat(f.log)
		return err
	})
}

// Of each request that is in nginx's log Weir is told once, through rotations, a
// restart of weir tail, and while Weir is away.
func TestTail(t *testing.T) {
	w, a := mustWeir(t), &app{}
	s := mustNginx(t, w.addr, a, patient...)
	nc := testenv.Connect(t, w.nats)
	client, err := gateway.Connect(nc, gateway.Config{Name: "tail"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	f := &traffic{server: s, log: filepath.Join(s.dir, "weir.log"), client: client}
	f.follow(t)
	f.some(t, false)
	f.rotate(t, ".1")
	f.some(t, false)
	w.stop()
	f.some(t, true)
	w.start(t)
	testenv.Eventually(t, 20*time.Second, func() error { // they count as far as there is room
		if n := len(limitertest.Records(t, nc)); n != len(f.all) {
			return fmt.Errorf("%d records of %d requests", n, len(f.all))
		}
		return nil
	})
	f.some(t, false)
	f.stop()
	f.some(t, false) // nobody looks
	if err := os.Rename(f.log+".1", f.log+".2"); err != nil {
		t.Fatal(err)
	}
	f.rotate(t, ".1")
	f.some(t, false)
	f.follow(t)
	f.some(t, false)

	if first, last := f.all[0], f.all[len(f.all)-1]; first.code != 200 || last.code != 429 {
		t.Errorf("the first answer %d, the last %d", first.code, last.code)
	}
	f.check(t, nc)
	if n := a.requests.Load(); n != limit {
		t.Errorf("%d requests at the application, want %d", n, limit)
	}
}

// check waits until Weir has been told of all that was sent, and holds what it has
// on record to it.
func (f *traffic) check(t *testing.T, nc *nats.Conn) {
	t.Helper()
	want := make(map[string]sent, len(f.all))
	outcomes := 0
	for _, one := range f.all {
		if want[one.path] = one; !one.passed {
			outcomes++
		}
	}
	got := mustOutcomes(t, nc, outcomes)
	if sum := f.stop(); sum.BadLines != 0 || sum.Losses != 0 || sum.Behind != 0 {
		t.Errorf("the last tail: %+v", sum)
	}
	records := limitertest.Records(t, nc)
	if len(records) != len(f.all) {
		t.Errorf("%d records of %d requests", len(records), len(f.all))
	}
	for _, r := range records {
		one, ok := want[r.Request.Path]
		delete(want, r.Request.Path)
		switch o, told := got[r.Request.ID]; {
		case !ok:
			t.Errorf("%s is recorded again: %+v", r.Request.Path, r)
		case one.passed && (told || r.Decision.Reason != events.ReasonTimeout || r.Request.Status != 200 || r.Request.BytesOut == 0):
			t.Errorf("%s was let through: %+v, outcome %+v", one.path, r, o)
		case !one.passed && (!told || r.Decision.Reason != events.ReasonRule || o.Status != int64(one.code) || o.BytesOut == 0 || o.BytesIn == 0):
			t.Errorf("%s had %d: %+v, outcome %+v", one.path, one.code, r, o)
		}
		if r.Request.IP.String() != "127.0.0.1" || r.Request.Method != "GET" {
			t.Errorf("%s: %+v", one.path, r.Request)
		}
	}
	for path := range want {
		t.Errorf("%s is not recorded", path)
	}
}

// mustOutcomes waits for so many outcomes and returns them by id.
func mustOutcomes(t *testing.T, nc *nats.Conn, want int) map[string]events.Outcome {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), events.Names{Prefix: events.DefaultPrefix}.OutcomesStream())
	if err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 20*time.Second, func() error {
		info, err := stream.Info(t.Context())
		if err == nil && info.State.Msgs < uint64(want) {
			err = fmt.Errorf("%d outcomes, want %d", info.State.Msgs, want)
		}
		return err
	})
	got := make(map[string]events.Outcome, want)
	for seq := uint64(1); seq <= stream.CachedInfo().State.LastSeq; seq++ {
		m, err := stream.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		o, err := events.DecodeOutcome(m.Data, true)
		if _, again := got[o.ID]; err != nil || again {
			t.Errorf("outcome %s, again %v: %v", m.Data, again, err)
		}
		got[o.ID] = o
	}
	if len(got) != want {
		t.Errorf("%d outcomes, want %d", len(got), want)
	}
	return got
}
