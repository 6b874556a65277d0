package backtest

import (
	"fmt"
	"testing"
	"time"
)

// Keys that ask no more are let go of what they asked for.
func TestUsageForgets(t *testing.T) {
	u := newUsage([]time.Duration{time.Second, 2 * time.Second})
	u.sweepAt = 101
	ask := func(name string, at time.Duration) {
		t.Helper()
		key, err := u.key(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := u.ask(key, at.Microseconds(), 1, 1); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 100 {
		ask(fmt.Sprint(i), time.Duration(i)*time.Millisecond)
	}
	if u.entries != 100 {
		t.Errorf("%d entries", u.entries)
	}
	ask("late", 2050*time.Millisecond)
	if u.entries != 50 { // of 51 to 99, and the late one
		t.Errorf("%d entries after a sweep", u.entries)
	}
	ask("99", 2060*time.Millisecond)
	if k := u.keys[99]; k.highest[0] != 1 || k.highest[1] != 2 || len(k.entries) != 2 {
		t.Errorf("%+v", k)
	}
}
