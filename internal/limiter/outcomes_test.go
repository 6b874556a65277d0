package limiter_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/limiter"
	"github.com/weirhq/weir/internal/testenv"
)

// Outcomes are stored from when a limiter is ready, each once, for the shards
// that there are, also after their stream has been lost.
func TestOutcomesStream(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	run := start(t, nc, nil)
	tell := func() error {
		_, err := js.Publish(t.Context(), names.Outcome(0, "acme", "g"), []byte(`{"id":"1"}`), jetstream.WithMsgID("acme/1"))
		return err
	}
	if err := tell(); err != nil {
		t.Fatal(err)
	}
	if err := tell(); err != nil {
		t.Fatal(err)
	}
	if ack, err := js.Publish(t.Context(), names.Outcome(1, "acme", "g"), nil, jetstream.WithRetryAttempts(0)); err == nil {
		t.Errorf("an outcome for no shard is acknowledged: %+v", ack)
	}
	stream, err := js.Stream(t.Context(), names.OutcomesStream())
	if err != nil {
		t.Fatal(err)
	}
	if info := stream.CachedInfo(); info.State.Msgs != 1 || info.Config.MaxBytes != -1 || info.Config.MaxAge != limiter.DefaultConfig().JournalAge {
		t.Errorf("%d outcomes, %+v", info.State.Msgs, info.Config)
	}
	if err := js.DeleteStream(t.Context(), names.OutcomesStream()); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 20*time.Second, tell)

	// A bound of the journal bounds outcomes too.
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	start(t, nc, func(c *limiter.Config) { c.JournalMax = 1 << 20 })
	if stream, err = js.Stream(t.Context(), names.OutcomesStream()); err != nil || stream.CachedInfo().Config.MaxBytes != 1<<19 {
		t.Errorf("%+v, %v", stream.CachedInfo().Config, err)
	}
}

// A server without room for outcomes keeps nobody from deciding.
func TestNoRoomForOutcomes(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	// A stream that has their subjects keeps theirs from being made.
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "OTHER", Subjects: []string{names.Outcomes(0)}}); err != nil {
		t.Fatal(err)
	}
	start(t, nc, nil)
	ask(t, nc, "acme", `{"user":"42"}`)
	if err := js.DeleteStream(t.Context(), "OTHER"); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 20*time.Second, func() error {
		_, err := js.Stream(t.Context(), names.OutcomesStream())
		return err
	})
}
