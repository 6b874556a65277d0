package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/testenv"
)

// hostile is a network, and a server, that lose, delay, overtake and repeat
// blocks and acknowledgements, refuse for a while, and break connections.
type hostile struct {
	mu sync.Mutex // guards r
	r  *rand.Rand
}

// refusal is what a server says that has no room, also of a block that it has.
var refusal = []byte(`{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"},"stream":"WEIR_JOURNAL_0","seq":0}`)

func (h *hostile) fate(m testenv.Passing) testenv.Fate {
	acknowledgement := !m.ToServer && bytes.Contains(m.Payload, []byte(`"stream":"WEIR_JOURNAL_0", "seq":`))
	if !acknowledgement && m.Subject != names.Journal(0) {
		return testenv.Arrives
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	soon := func() time.Duration { return time.Duration(h.r.IntN(10_000)) * time.Microsecond }
	switch n := h.r.IntN(1000); {
	case n < 30:
		return testenv.Fate{} // lost
	case n < 130:
		return testenv.Fate{After: []time.Duration{soon()}} // overtaken
	case n < 180:
		return testenv.Fate{After: []time.Duration{0, soon()}} // twice
	case n < 200 && acknowledgement:
		return testenv.Fate{After: []time.Duration{0}, Instead: refusal}
	case n < 204:
		return testenv.Fate{Cut: true}
	}
	return testenv.Arrives
}

// sender sends blocks, some ahead, as the limiter does.
type sender struct {
	*journal.Appender
	sent, stored int
}

// work sends blocks up to a number and waits until they are stored, or the
// error says why not. between is called before each block.
func (s *sender) work(t *testing.T, blocks int, between func(n int)) error {
	t.Helper()
	deadline := time.After(60 * time.Second)
	for s.stored < blocks {
		for s.sent < min(blocks, s.stored+6) {
			between(s.sent)
			s.Send([]byte(line(fmt.Sprint(s.sent))+"\n"), 1, uint64(s.sent))
			s.sent++
		}
		select {
		case m := <-s.Acks():
			stored, err := s.Take(t.Context(), m)
			if s.stored += stored; err != nil {
				return err
			}
		case <-s.Due():
			s.Retry()
		case <-deadline:
			t.Fatalf("%d of %d blocks are stored", s.stored, blocks)
		}
	}
	return nil
}

// stored reads the ids of the records of shard 0.
func stored(t *testing.T, j *journal.Journal) (ids []string) {
	t.Helper()
	extent, err := j.Extent(t.Context())
	if err != nil || extent.Blocks == 0 {
		t.Fatalf("extent %+v, %v", extent, err)
	}
	err = j.Read(t.Context(), journal.Start{Seq: extent.First}, extent.Last, func(b journal.Block) error {
		return b.Records(func(_ int, r *events.Record) error {
			ids = append(ids, strings.Clone(r.Decision.ID))
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// hostileJournal is a journal as seen directly, and through a hostile network.
func hostileJournal(t *testing.T, seed uint64) (direct, through *journal.Journal) {
	t.Helper()
	url := testenv.NATS(t)
	h := &hostile{r: rand.New(rand.NewPCG(seed, 0))}
	var both [2]*journal.Journal
	for i, at := range []string{url, testenv.Proxy(t, url, h.fate)} {
		js, err := jetstream.New(testenv.Connect(t, at))
		if err != nil {
			t.Fatal(err)
		}
		both[i] = mustCreate(t, js)
	}
	return both[0], both[1]
}

// Whatever becomes of messages and connections on the way, the journal has
// every block once and in order, and no owner that is alone is fenced.
func TestHostileNetwork(t *testing.T) {
	t.Parallel()
	const blocks = 200
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			direct, through := hostileJournal(t, seed)
			failed := 0
			s := sender{Appender: mustAppender(t, through, 0, func(error) { failed++ })}
			if err := s.work(t, blocks, func(int) {}); err != nil {
				t.Fatalf("with %d blocks stored: %v", s.stored, err)
			}
			ids := stored(t, direct)
			for i, id := range ids {
				if id != fmt.Sprint(i) {
					t.Fatalf("block %d is %s", i, id)
				}
			}
			if len(ids) != blocks {
				t.Errorf("%d blocks of %d", len(ids), blocks)
			}
			t.Logf("%d attempts failed", failed)
		})
	}
}

// An owner that another one came before is fenced, wherever that was: what it
// was told is stored lies before the other one's block, and nothing behind it.
func TestAnotherOwnerOnAHostileNetwork(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			direct, through := hostileJournal(t, seed)
			s := sender{Appender: mustAppender(t, through, 0, func(error) {})}
			err := s.work(t, 100, func(n int) {
				if n == 50 {
					intrude(t, direct)
				}
			})
			if !errors.Is(err, journal.ErrFenced) {
				t.Fatalf("error %v, want ErrFenced", err)
			}
			ids := stored(t, direct)
			at := slices.Index(ids, "foreign")
			if s.stored > at {
				t.Errorf("%d blocks are said to be stored, %d are before the other owner's", s.stored, at)
			}
			if at != len(ids)-1 {
				t.Errorf("behind the other owner's block: %v", ids[at+1:])
			}
			for i, id := range ids[:at] {
				if id != fmt.Sprint(i) {
					t.Errorf("block %d is %s", i, id)
				}
			}
		})
	}
}

// intrude appends a block as another owner, as soon as it gets one in.
func intrude(t *testing.T, j *journal.Journal) {
	t.Helper()
	testenv.Eventually(t, 10*time.Second, func() error {
		extent, err := j.Extent(t.Context())
		if err != nil {
			return err
		}
		a := mustAppender(t, j, extent.Last, func(error) {})
		_, err = a.Append(t.Context(), []byte(line("foreign")+"\n"), 1, 0)
		return err
	})
}
