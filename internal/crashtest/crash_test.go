// Package crashtest kills the real programs while they work, and then asks
// whether every promise was kept: what somebody has seen is stored, every
// request counts once, every record is one row, nothing vanishes.
package crashtest

import (
	"fmt"
	"strings"
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
	limiter := s.limiter()
	l := s.load()
	for range kills {
		l.awaitAnswers(answersBetween)
		limiter.Kill()
		limiter = s.limiter()
	}
	l.awaitAnswers(answersBetween)
	l.stop()
	s.check(l)
}

func TestWriterIsKilled(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.limiter()
	writer := s.writer()
	l := s.load()
	for range kills {
		l.awaitAnswers(answersBetween)
		s.awaitRows(s.rows() + answersBetween) // it is at work
		writer.Kill()
		writer = s.writer()
	}
	l.awaitAnswers(answersBetween)
	l.stop()
	s.check(l)
}

// A limiter that was asleep while another one took over finds that out before
// it answers anybody. A decision that it had stored before may go out twice,
// which check forgives, as both are the same.
func TestLimiterSleepsWhileAnotherTakesOver(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.writer()
	asleep := s.limiter()
	l := s.load()
	l.awaitAnswers(answersBetween)
	if err := syscall.Kill(asleep.Pid(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.limiter()
	l.awaitAnswers(answersBetween)
	if err := syscall.Kill(asleep.Pid(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, patience, func() error {
		select {
		case <-asleep.Done():
			return nil
		default:
			return fmt.Errorf("the limiter that slept still runs")
		}
	})
	if out := asleep.Output(); !strings.Contains(out, "another owner has appended to the journal") {
		t.Errorf("the limiter that slept ended otherwise than fenced:\n%s", out)
	}
	l.stop()
	s.check(l)
}
