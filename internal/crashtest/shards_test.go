package crashtest

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/internal/testenv"
)

// onTheWay is how long decisions of one who is no more may be on their way.
const onTheWay = 500 * time.Millisecond

// shares follows which limiter holds which shards, as they tell each other.
type shares struct {
	*system

	mu    sync.Mutex // guards holds
	holds map[string][]int
}

func (s *system) shares() *shares {
	s.Helper()
	w := &shares{system: s, holds: map[string][]int{}}
	nc := testenv.Connect(s.T, s.nats)
	_, err := nc.Subscribe(names.Limiters(), func(m *nats.Msg) {
		var p struct {
			Name  string
			Holds []int
		}
		if err := json.Unmarshal(m.Data, &p); err != nil {
			s.Error(err)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.holds[p.Name] = p.Holds
	})
	if err != nil {
		s.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		s.Fatal(err)
	}
	return w
}

// await waits until limiters hold so many shards each.
func (w *shares) await(want map[string]int) {
	w.Helper()
	testenv.Eventually(w.T, patience, func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		for name, n := range want {
			if len(w.holds[name]) != n {
				return fmt.Errorf("%s holds %v, want %d shards", name, w.holds[name], n)
			}
		}
		return nil
	})
}

// Limiters divide the shards, also with one more, and with one that is killed
// under load: all shards decide again in less than six seconds.
func TestShards(t *testing.T) {
	t.Parallel()
	s := newSystem(t)
	s.shards = 4
	held := s.shares()
	s.writer()
	s.limiter("one")
	two := s.limiter("two")
	held.await(map[string]int{"one": 2, "two": 2})
	l := s.load()
	l.awaitAnswers(answersBetween)

	three := s.limiter("three")
	held.await(map[string]int{"three": 1})
	l.awaitAnswers(answersBetween)
	l.awaitEachTenant(time.Now())

	two.Kill()
	killed := time.Now()
	took := l.awaitEachTenant(killed.Add(onTheWay)).Sub(killed)
	t.Logf("all shards decide again %v after the kill", took.Round(time.Millisecond))
	if took > 6*time.Second {
		t.Errorf("it took %v until all shards decided again", took)
	}
	held.await(map[string]int{"one": 2, "three": 2})
	l.awaitAnswers(answersBetween)

	three.Kill()
	s.limiter("three") // has its shards again without waiting for their leases
	killed = time.Now()
	if took := l.awaitEachTenant(killed.Add(onTheWay)).Sub(killed); took > 3*time.Second {
		t.Errorf("it took %v until a restarted limiter decided again", took)
	}
	held.await(map[string]int{"one": 2, "three": 2})
	l.awaitAnswers(answersBetween)
	l.stop()
	s.check(l)
}
