package limiter

import (
	"errors"
	"testing"
	"time"
)

// An owner that was asleep for longer than its lease answers nobody, also when
// it is degraded and need not wait for the journal.
func TestDegradedNeedsTheLease(t *testing.T) {
	t.Parallel()
	l := &lease{began: time.Now()}
	if l.extend(l.began.Add(-leaseTTL)); l.held() {
		t.Error("a lease that has run out is held")
	}
	o := owner{Limiter: &Limiter{}, lease: l, degraded: true} // without a connection: to publish would panic
	if err := o.release(&block{answers: []answer{{subject: "weir.decision.allow.acme.g"}}}); !errors.Is(err, errLeaseLost) {
		t.Errorf("release: %v, want the lease to be lost", err)
	}
	if l.extend(time.Now()); !l.held() {
		t.Error("a lease that was renewed is not held")
	}
}
