package crashtest

import (
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/journal"
	"github.com/weirhq/weir/internal/limiter"
	"github.com/weirhq/weir/internal/testenv"
)

// The NATS server is killed under load, with the leases, which it has in
// memory: whoever owned the shard and whoever stood by both try.
func TestNATSIsKilled(t *testing.T) {
	t.Parallel()
	s, restart := newSystemOnMortalNATS(t)
	s.writer()
	s.limiter("one")
	l := s.load()
	l.awaitAnswers(answersBetween)
	s.limiter("two")
	for range kills - 1 {
		restart()
		l.awaitAnswers(answersBetween)
	}
	l.stop()
	s.check(l)
}

// The bucket of the leases is deleted again and again: the limiter that stood by
// takes the lease of one that still believes that it has it. They are of one
// shard each, as limiters that divide shards would wait for each other.
func TestTwoOwnersAreForced(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	for _, name := range []string{"one", "two", "three"} {
		s.inside(s.nats, func(c *limiter.Config) { c.Name = name })
	}
	l := s.load()
	js, err := jetstream.New(testenv.Connect(t, s.nats))
	if err != nil {
		t.Fatal(err)
	}
	// Whose lease is taken away may win for as long as it does not notice, which
	// takes a second: the more so the faster it is.
	const least, most = 6, 40
	for times := range most {
		if times >= least && s.owners(js) >= least/2 {
			break
		}
		l.awaitAnswers(answersBetween / 10)
		if err := js.DeleteKeyValue(t.Context(), names.LeaseBucket()); err != nil {
			t.Fatal(err)
		}
		testenv.Eventually(t, patience, func() error { // it is somebody's again
			bucket, err := js.KeyValue(t.Context(), names.LeaseBucket())
			if err == nil {
				_, err = bucket.Get(t.Context(), "shard.0")
			}
			return err
		})
	}
	l.awaitAnswers(answersBetween)
	l.stop()
	s.check(l)
	if owners := s.owners(js); owners < least/2 {
		t.Errorf("the journal has blocks of %d owners; want some of one after the other", owners)
	}
}

// owners counts who has appended to the journal.
func (s *system) owners(js jetstream.JetStream) int {
	s.Helper()
	j, err := journal.Open(s.Context(), js, names, 0)
	if err != nil {
		s.Fatal(err)
	}
	extent, err := j.Extent(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	owners := map[string]bool{}
	err = j.Read(s.Context(), journal.Start{Seq: extent.First}, extent.Last, func(b journal.Block) error {
		owners[b.Owner] = true
		return nil
	})
	if err != nil {
		s.Fatal(err)
	}
	return len(owners)
}

// The lease of the only limiter is lost, and the bucket with it.
func TestLeaseBucketIsDeleted(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	limiter := s.limiter("one")
	l := s.load()
	l.awaitAnswers(answersBetween)
	js, err := jetstream.New(testenv.Connect(t, s.nats))
	if err != nil {
		t.Fatal(err)
	}
	if err := js.DeleteKeyValue(t.Context(), names.LeaseBucket()); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, patience, func() error {
		if !strings.Contains(limiter.Output(), "the shard's lease is lost") {
			return errors.New("it takes itself for the owner")
		}
		return nil
	})
	l.awaitAnswers(answersBetween)
	l.stop()
	s.check(l)
}
