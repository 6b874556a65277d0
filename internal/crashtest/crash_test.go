// Package crashtest kills the real programs while they work, and takes away
// what they stand on, and then asks whether every promise was kept: what
// somebody has seen is stored, every request counts once, every record is one
// row, nothing vanishes.
package crashtest

import (
	"fmt"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/testenv"
)

const (
	kills = 3
	// answersBetween is how many checks are answered between two faults: those of
	// fifty blocks or more.
	answersBetween = 1500
	// patience is for a busy machine; nothing here takes a tenth of it.
	patience = 30 * time.Second
)

func TestLimiterIsKilled(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.writer()
	limiter := s.limiter("one")
	l := s.load()
	for range kills {
		l.awaitAnswers(answersBetween)
		limiter.Kill()
		limiter = s.limiter("one")
	}
	l.awaitAnswers(answersBetween)
	l.stop()
	s.check(l)
}

func TestWriterIsKilled(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.limiter("one")
	writer := s.writer()
	l := s.load()
	for n := range kills {
		l.awaitAnswers(answersBetween)
		s.awaitRows(s.rows() + answersBetween) // it is at work
		release := func() {}
		if n > 0 { // at first at whatever moment, then in the midst of transactions
			release = s.hold([]string{"requests", "outcomes"}[n%2])
		}
		writer.Kill()
		writer = s.writer()
		release()
	}
	l.awaitAnswers(answersBetween)
	l.stop()
	s.check(l)
}

// The owner is killed for good; the limiter that stands by goes on.
func TestStandbyTakesOver(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.writer()
	owner := s.limiter("one")
	l := s.load()
	l.awaitAnswers(answersBetween)
	s.limiter("two")
	owner.Kill()
	killed := time.Now()
	l.awaitAnswers(1)
	t.Logf("decisions again %v after the kill", time.Since(killed).Round(time.Millisecond))
	l.awaitAnswers(answersBetween)
	l.stop()
	s.check(l)
}

// A limiter that was asleep while another one took over finds that out before
// it answers anybody, even though its block has waited long enough to be
// answered as degraded. A decision that it had stored before may go out twice,
// which check forgives, as both are the same.
func TestLimiterSleepsWhileAnotherTakesOver(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.writer()
	asleep := s.limiterThatDegrades("one", "3s")
	l := s.load()
	l.awaitAnswers(answersBetween)
	if err := syscall.Kill(asleep.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.limiter("two")
	l.awaitAnswers(answersBetween) // once the lease has run out
	if err := syscall.Kill(asleep.Pid(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, patience, func() error {
		if !strings.Contains(asleep.Output(), "not the owner") {
			return fmt.Errorf("the limiter that slept takes itself for the owner")
		}
		return nil
	})
	l.stop()
	s.check(l)
}

// A limiter that does not reach the journal, and so answers as degraded, sleeps
// while another one takes over. It may go on only while it has the lease: it
// answers nobody when it wakes up.
func TestDegradedLimiterSleeps(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.forgives = true
	var off atomic.Bool
	narrow := *s
	narrow.nats = testenv.Proxy(t, s.nats, func(m testenv.Passing) testenv.Fate {
		if off.Load() && m.ToServer && m.Subject == names.Journal(0) {
			return testenv.Fate{}
		}
		return testenv.Arrives
	})
	asleep := narrow.limiterThatDegrades("one", "50ms")
	l := s.load()
	l.awaitAnswers(answersBetween / 3)
	off.Store(true)
	l.awaitDegraded(answersBetween / 3)
	if err := syscall.Kill(asleep.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.limiter("two")
	l.awaitPlain(answersBetween / 3) // once the lease has run out
	before := l.degraded.Load()
	if err := syscall.Kill(asleep.Pid(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, patience, func() error {
		if !strings.Contains(asleep.Output(), "not the owner") {
			return fmt.Errorf("the limiter that slept takes itself for the owner")
		}
		return nil
	})
	l.awaitPlain(answersBetween / 3)
	if n := l.degraded.Load() - before; n > 0 {
		t.Errorf("%d decisions of one that slept", n)
	}
	l.stop()
	s.check(l)
}
