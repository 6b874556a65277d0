package crashtest

import (
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

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
// takes the lease of one that still believes that it has it.
func TestTwoOwnersAreForced(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.limiter("one")
	l := s.load()
	l.awaitAnswers(answersBetween)
	limiters := []*testenv.Process{s.limiter("two"), s.limiter("three")}
	js, err := jetstream.New(testenv.Connect(t, s.nats))
	if err != nil {
		t.Fatal(err)
	}
	for range 8 {
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
	fenced := 0
	for _, p := range limiters {
		fenced += strings.Count(p.Output(), "another owner has appended")
	}
	t.Logf("%d times an owner was fenced", fenced)
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
