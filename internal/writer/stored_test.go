package writer

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap/zaptest"

	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/pg"
	"github.com/weirhq/weir/internal/testenv"
)

// No day may expire whose blocks a journal still holds, or a writer, which tries
// to store a batch however long it takes.
func TestWhatJournalsHoldDoesNotExpire(t *testing.T) {
	t.Parallel()
	js, err := jetstream.New(testenv.Connect(t, testenv.NATS(t)))
	if err != nil {
		t.Fatal(err)
	}
	config := pg.DefaultConfig()
	config.URL = testenv.Postgres(t)
	db, err := pg.Open(t.Context(), config)
	if err == nil {
		t.Cleanup(db.Close)
		err = db.Migrate(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	w := New(DefaultConfig(), Parts{DB: db, JetStream: js, Log: zaptest.NewLogger(t), Metrics: prometheus.NewRegistry()})
	until := func() time.Time {
		t.Helper()
		until, err := w.stored(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		return until
	}
	if got := until(); !got.IsZero() {
		t.Errorf("without a journal: before %v", got)
	}
	j, err := journal.Create(t.Context(), js, journal.Config{Names: w.config.Names})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.StartCursor(t.Context(), 0, j.Identity()); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if got := until(); got.Before(began) {
		t.Errorf("of an empty journal: before %v", got)
	}
	a, err := j.Appender(0, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	var stored []time.Time
	for range 2 {
		if _, err := a.Append(t.Context(), []byte("x\n"), 1, 0); err != nil {
			t.Fatal(err)
		}
		extent, err := j.Extent(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, extent.LastStored)
	}
	if got := until(); !got.Equal(stored[0]) {
		t.Errorf("before %v, want %v, when the journal's first block was stored", got, stored[0])
	}
	stream, err := js.Stream(t.Context(), w.config.Names.JournalStream(0))
	if err == nil {
		err = stream.Purge(t.Context(), jetstream.WithPurgeSequence(2))
	}
	if err != nil {
		t.Fatal(err)
	}
	if got := until(); !got.IsZero() {
		t.Errorf("with a block that was dropped and may be on its way: before %v", got)
	}
	from := pg.Cursor{Stream: j.Identity()}
	var b pg.Batch
	b.Reset(from)
	b.Advance(j.Identity(), 1, stored[0])
	if _, err := db.Commit(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	if got := until(); !got.Equal(stored[1]) {
		t.Errorf("before %v, want %v: the block before is stored", got, stored[1])
	}
}
