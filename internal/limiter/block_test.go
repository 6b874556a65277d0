package limiter

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/testenv"
)

// degradedOwner returns an owner whose journal has one block to take yet.
func degradedOwner(t *testing.T) *owner {
	t.Helper()
	l, err := New(testenv.Connect(t, testenv.NATS(t)), DefaultConfig(), zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	held := &lease{began: time.Now()}
	held.extend(held.began.Add(time.Hour))
	o := newOwner(l, held)
	o.degraded = true
	o.queue = append(o.queue, &block{records: 1})
	return o
}

// Checks that come again while the journal takes nothing, as they then do, are
// answered and hold no memory.
func TestRepeatedChecksHoldNoBacklog(t *testing.T) {
	t.Parallel()
	o := degradedOwner(t)
	r := events.Request{Tenant: "acme", Gateway: "g", ID: "a"}
	for range 10_000 {
		o.answer(&r, "", decided{events.Allow, make([]byte, 200)})
		if err := o.send(); err != nil {
			t.Fatal(err)
		}
	}
	if len(o.queue) != 1 || o.queued != 0 {
		t.Errorf("%d blocks of %d bytes wait for the journal, want the one that did before", len(o.queue), o.queued)
	}
}

// Whatever waits for the journal counts towards the bound of the backlog.
func TestEveryBlockCounts(t *testing.T) {
	t.Parallel()
	o := degradedOwner(t)
	for n := 0; o.hasRoom(); n++ {
		if n > o.config.BacklogMax/blockBytes {
			t.Fatalf("%d commands that come again wait for the journal", n)
		}
		o.block.done = append(o.block.done, done{})
		if err := o.send(); err != nil {
			t.Fatal(err)
		}
	}
}

// An owner that has lost its lease does not say that it answered.
func TestNothingIsLostThatWasNotAnswered(t *testing.T) {
	t.Parallel()
	o := degradedOwner(t)
	o.degraded = false
	o.queue[0].answers, o.queue[0].text = []answer{{subject: "weir.decision.allow.acme.g", to: 2}}, []byte("{}")
	o.lease.extend(o.lease.began.Add(-leaseTTL))
	if err := o.degrade(); err == nil {
		t.Error("degraded without a lease")
	}
	o.leave()
	if o.degraded || o.queue[0].early {
		t.Error("answered without a lease")
	}
	o.lease.extend(o.lease.began.Add(time.Hour))
	if err := o.degrade(); err != nil || !o.queue[0].early {
		t.Errorf("with the lease: %v, answered is %v", err, o.queue[0].early)
	}
}
