package limiter

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/events"
)

// A decision is remembered for the horizon at least, the first one of an id.
func TestSeenForTheHorizon(t *testing.T) {
	t.Parallel()
	s := newSeen()
	start := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for second := range 600 {
		now := start.Add(time.Duration(second) * time.Second)
		s.add(s.fingerprint("acme", fmt.Sprint(second)), 1, now, decided{events.Deny, fmt.Append(nil, second)})
		oldest := max(0, second-int(Horizon/time.Second))
		for id := oldest; id <= second; id++ {
			d, known := s.decision(s.fingerprint("acme", fmt.Sprint(id)))
			if !known || string(d.text) != fmt.Sprint(id) || d.verdict != events.Deny {
				t.Fatalf("at second %d the decision of second %d is %q, %v", second, id, d.text, known)
			}
		}
	}
	if _, known := s.decision(s.fingerprint("acme", "1")); known {
		t.Error("a decision is remembered for ten minutes: what bounds the memory?")
	}
	if _, known := s.decision(s.fingerprint("umbrella", "599")); known {
		t.Error("one tenant's id is another one's")
	}
}

// However many there are, they take no more than two generations, and the
// younger one's worth is remembered.
func TestSeenIsBounded(t *testing.T) {
	t.Parallel()
	s := newSeen()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	text := []byte(strings.Repeat("x", 64<<10))
	worth := seenBytes / len(text)
	for n := range 3 * worth {
		s.add(s.fingerprint("acme", fmt.Sprint(n)), 1, now, decided{events.Allow, text})
		if back := n - worth + 1; back >= 0 {
			if _, known := s.decision(s.fingerprint("acme", fmt.Sprint(back))); !known {
				t.Fatalf("after %d decisions number %d is forgotten", n+1, back)
			}
		}
		if size := s.young.size + s.old.size; size > 2*seenBytes {
			t.Fatalf("%d bytes are remembered, want at most %d", size, 2*seenBytes)
		}
	}
}
