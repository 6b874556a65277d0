package gateway_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/limiter/limitertest"
	"github.com/weirhq/weir/internal/testenv"
)

// An outcome is acknowledged once it is stored, and stored once however often it
// is told.
func TestOutcome(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	nc := testenv.Connect(t, url)
	c := connect(t, nc, gateway.Config{Name: "g", Shards: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := c.Outcome(ctx, gateway.Outcome{ID: "0", Tenant: "acme"}); err == nil || !strings.HasPrefix(err.Error(), "store acme/0 at weir.outcome.0.acme.g: ") {
		t.Errorf("of an outcome that nobody stores: %v", err)
	}
	limitertest.Start(t, testenv.Connect(t, url))

	batch := make([]gateway.Outcome, 5000)
	for i := range batch {
		batch[i] = gateway.Outcome{ID: fmt.Sprint(i), Tenant: "acme", Status: 200, LatencyUS: 1500}
	}
	for range 2 {
		if err := c.Outcome(t.Context(), batch...); err != nil {
			t.Fatal(err)
		}
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), names.OutcomesStream())
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != uint64(len(batch)) {
		t.Errorf("%d outcomes, want %d", n, len(batch))
	}
	m, err := stream.GetMsg(t.Context(), 8)
	if err != nil {
		t.Fatal(err)
	}
	o, err := events.DecodeOutcome(m.Data, true)
	if err != nil || m.Subject != "weir.outcome.0.acme.g" || o.ID != "7" || o.Tenant != "" || o.Gateway != "" || o.LatencyUS != 1500 || time.Since(o.Time) > time.Minute {
		t.Errorf("at %s: %s, %v", m.Subject, m.Data, err)
	}
	if batch[7].Gateway != "" {
		t.Error("the caller's own outcomes have changed")
	}
}

// What a header would not keep of their ids tells outcomes apart all the same.
func TestOutcomesOfSimilarRequests(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	limitertest.Start(t, nc)
	c := connect(t, nc, gateway.Config{})
	ids := []string{"a b", "a\nb", "a\rb", " a b", "a b ", "a%20b", "é"}
	for _, id := range ids {
		if err := c.Outcome(t.Context(), gateway.Outcome{ID: id, Tenant: "acme"}); err != nil {
			t.Fatal(err)
		}
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), names.OutcomesStream())
	if err != nil || stream.CachedInfo().State.Msgs != uint64(len(ids)) {
		t.Errorf("%d outcomes, %v; want %d", stream.CachedInfo().State.Msgs, err, len(ids))
	}
}

func TestOutcomeSendsAllOrNothingOfBadInput(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	limitertest.Start(t, nc)
	c := connect(t, nc, gateway.Config{})
	err := c.Outcome(t.Context(), gateway.Outcome{ID: "1", Tenant: "acme"}, gateway.Outcome{Tenant: "acme"}, gateway.Outcome{ID: "2", Tenant: "acme", Status: -1})
	one, ok := errors.AsType[*gateway.RequestError](err)
	if !ok || one.Index != 1 {
		t.Fatalf("error %v, want a RequestError of request 1", err)
	}
	const want = `request 1: id: want the request's, found nothing
request 2: status: want a whole number from 0 to 999, found "-1"`
	if err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), names.OutcomesStream())
	if err != nil || stream.CachedInfo().State.Msgs != 0 {
		t.Errorf("%d outcomes, %v; want none", stream.CachedInfo().State.Msgs, err)
	}
}
