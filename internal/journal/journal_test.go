package journal_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/testenv"
)

var names = events.Names{Prefix: "weir"}

func mustJetStream(t *testing.T) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(testenv.Connect(t, testenv.NATS(t)))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

func mustCreate(t *testing.T, js jetstream.JetStream) *journal.Journal {
	t.Helper()
	j, err := journal.Create(t.Context(), js, journal.Config{Names: names, MaxAge: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

func mustAppend(t *testing.T, a *journal.Appender, lines ...string) uint64 {
	t.Helper()
	seq, err := a.Append(t.Context(), []byte(strings.Join(lines, "\n")+"\n"), len(lines), 0)
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

func mustAppender(t *testing.T, j *journal.Journal, last uint64, failed func(error)) *journal.Appender {
	t.Helper()
	a, err := j.Appender(last, failed)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

func unexpected(t *testing.T) func(error) {
	return func(err error) { t.Errorf("an attempt failed: %v", err) }
}

func line(id string) string {
	return fmt.Sprintf(`{"request":{"id":%q,"tenant":"acme","gateway":"g"},"decision":{"verdict":"allow","cost":1,"policy":0}}`, id)
}

func TestBlocksComeBackInOrder(t *testing.T) {
	t.Parallel()
	j := mustCreate(t, mustJetStream(t))
	a := mustAppender(t, j, 0, unexpected(t))
	before := time.Now().Add(-time.Second)
	for i := range 20 {
		if seq := mustAppend(t, a, line(fmt.Sprint(i, "a")), line(fmt.Sprint(i, "b"))); seq != uint64(i+1) {
			t.Fatalf("block %d got sequence %d", i, seq)
		}
	}
	extent, err := j.Extent(t.Context())
	if err != nil || extent.First != 1 || extent.Last != 20 || extent.Blocks != 20 {
		t.Fatalf("extent %+v, %v", extent, err)
	}
	for _, start := range []journal.Start{{Seq: 1}, {Time: before}} {
		var got []string
		err = j.Read(t.Context(), start, extent.Last, func(b journal.Block) error {
			return b.Records(func(_ int, r *events.Record) error {
				got = append(got, strings.Clone(r.Decision.ID))
				return nil
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		for i, id := range got {
			if want := fmt.Sprint(i/2, string("ab"[i%2])); id != want {
				t.Fatalf("record %d is %s, want %s", i, id, want)
			}
		}
		if len(got) != 40 {
			t.Fatalf("%d records, want 40", len(got))
		}
	}
}

// A block says which is the oldest that holds an override in force, and what was
// done by hand is found in it without reading the rest.
func TestControls(t *testing.T) {
	t.Parallel()
	j := mustCreate(t, mustJetStream(t))
	a := mustAppender(t, j, 0, unexpected(t))
	mustAppend(t, a, line("1"))
	oldest := a.Next()
	a.Overrides(oldest)
	mustAppend(t, a, line("2"), `{"control":{"kind":"override","key":"42"}}`, "{not JSON", `{"control":{"kind":"lift","key":"7"}}`, `{"control":null}`)
	mustAppend(t, a, line("3"))
	a.Overrides(0)
	mustAppend(t, a, line("4"))
	var overrides []uint64
	var controls []string
	err := j.Read(t.Context(), journal.Start{Seq: 1}, 4, func(b journal.Block) error {
		overrides = append(overrides, b.Overrides)
		b.Controls(func(r *events.Record) {
			controls = append(controls, fmt.Sprint(r.Control.Kind, " ", r.Control.Key, " ", r.Control.Block))
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(overrides, controls), "[0 2 2 0] [override 42 2 lift 7 2]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestOpenWithoutJournal(t *testing.T) {
	t.Parallel()
	if _, err := journal.Open(t.Context(), mustJetStream(t), names, 7); !errors.Is(err, journal.ErrNone) {
		t.Fatalf("error %v, want ErrNone", err)
	}
}

// Of two owners that know the same last block, one appends and the other is
// told that it does not own the shard any more.
func TestOneOfTwoOwnersIsFenced(t *testing.T) {
	t.Parallel()
	j := mustCreate(t, mustJetStream(t))
	first, second := mustAppender(t, j, 0, unexpected(t)), mustAppender(t, j, 0, unexpected(t))
	mustAppend(t, first, line("1"))
	if _, err := second.Append(t.Context(), []byte(line("2")+"\n"), 1, 0); !errors.Is(err, journal.ErrFenced) {
		t.Fatalf("the second owner got %v, want ErrFenced", err)
	}
	mustAppend(t, first, line("3"))
	extent, err := j.Extent(t.Context())
	if err != nil || extent.Last != 2 {
		t.Fatalf("extent %+v, %v; want the first owner's two blocks", extent, err)
	}
}

// Another owner's block that is where the first one under way was to be does not
// let the ones behind that in.
func TestNothingIsStoredBehindAForeignBlock(t *testing.T) {
	t.Parallel()
	j := mustCreate(t, mustJetStream(t))
	first, second := mustAppender(t, j, 0, unexpected(t)), mustAppender(t, j, 0, unexpected(t))
	mustAppend(t, first, line("1"))
	for _, id := range []string{"2", "3", "4"} {
		second.Send([]byte(line(id)+"\n"), 1, 0)
	}
	if stored, err := second.Take(t.Context(), <-second.Acks()); stored > 0 || !errors.Is(err, journal.ErrFenced) {
		t.Errorf("the second owner got %d, %v; want ErrFenced", stored, err)
	}
	<-second.Acks()
	<-second.Acks()
	extent, err := j.Extent(t.Context())
	if err != nil || extent.Last != 1 {
		t.Fatalf("extent %+v, %v; want the first owner's block alone", extent, err)
	}
}

// An append whose acknowledgement is lost is tried again and is one block.
func TestLostAcknowledgement(t *testing.T) {
	t.Parallel()
	j := mustCreate(t, mustJetStream(t))
	a := mustAppender(t, j, 0, func(error) {})
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // the block is sent, its acknowledgement is not waited for
	if _, err := a.Append(ctx, []byte(line("1")+"\n"), 1, 0); err == nil {
		t.Fatal("an append without acknowledgement succeeded")
	}
	testenv.Eventually(t, 5*time.Second, func() error {
		if extent, err := j.Extent(t.Context()); err != nil || extent.Last != 1 {
			return fmt.Errorf("extent %+v, error %v", extent, err)
		}
		return nil
	})
	if seq := mustAppend(t, a, line("1")); seq != 1 {
		t.Fatalf("the second attempt got sequence %d, want the first one's", seq)
	}
	if seq := mustAppend(t, a, line("2")); seq != 2 {
		t.Fatalf("the next block got sequence %d", seq)
	}
}

// A journal that is full takes no more and loses nothing; it goes on once there
// is room.
func TestFullJournal(t *testing.T) {
	t.Parallel()
	js := mustJetStream(t)
	config := journal.Config{Names: names, MaxAge: time.Hour, MaxBytes: 2000}
	j, err := journal.Create(t.Context(), js, config)
	if err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 100)
	a := mustAppender(t, j, 0, func(err error) {
		select {
		case failed <- err:
		default:
		}
	})
	mustAppend(t, a, line(strings.Repeat("x", 800)))
	mustAppend(t, a, line("small"))
	widened := make(chan struct{})
	defer func() { <-widened }()
	go func() {
		defer close(widened)
		t.Log("it has met the bound:", <-failed)
		config.MaxBytes = 0
		if _, err := journal.Create(context.WithoutCancel(t.Context()), js, config); err != nil {
			t.Error(err)
		}
	}()
	if seq := mustAppend(t, a, line(strings.Repeat("y", 1000))); seq != 3 {
		t.Fatalf("sequence %d, want 3", seq)
	}
}

func TestBlockThatBelies(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, body, want string }{
		{"too few", line("1") + "\n", "block 9: header says 2 records, found 1"},
		{"not JSON", "{\nx\n", "block 9, record 0: want a key in quotes, found nothing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := journal.Block{Seq: 9, Count: 2, Body: c.body}
			err := b.Records(func(int, *events.Record) error { return nil })
			if err == nil || err.Error() != c.want {
				t.Fatalf("error %v, want %s", err, c.want)
			}
		})
	}
}

// Where to begin is told by when blocks were decided, and what cannot be read
// does not keep anybody from finding it.
func TestSince(t *testing.T) {
	t.Parallel()
	j := mustCreate(t, mustJetStream(t))
	a := mustAppender(t, j, 0, unexpected(t))
	at := time.Date(2031, 1, 1, 0, 0, 0, 0, time.UTC)
	const blocks, perHour = 60, 3 // the clock stands still in between; each third cannot be read
	for i := range blocks {
		r := events.Record{Request: events.Request{ID: fmt.Sprint(i), Tenant: "acme", Gateway: "g"},
			Decision: events.Decision{ID: fmt.Sprint(i), Verdict: events.Allow, DecidedAt: at.Add(time.Duration(i/perHour) * time.Hour)}}
		text := string(events.AppendRecord(nil, &r))
		if i%perHour == 2 {
			text = "nonsense"
		}
		mustAppend(t, a, text)
	}
	extent, err := j.Extent(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for hours := range blocks/perHour + 2 {
		want := max(1, blocks-(hours+1)*perHour+1)
		for d, want := range map[time.Duration]int{
			time.Duration(hours) * time.Hour:                   want,
			time.Duration(hours+1)*time.Hour - time.Nanosecond: want,
		} {
			seq, err := j.Since(t.Context(), extent, d)
			if err != nil || seq > uint64(want) || seq+1 < uint64(want) { // or what cannot be read before it
				t.Errorf("%v back: block %d, %v; want %d", d, seq, err, want)
			}
		}
	}
}
