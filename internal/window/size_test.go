package window_test

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"time"

	"github.com/weirhq/weir/internal/window"
)

// heap returns the bytes in use. What is pooled goes with the second collection.
func heap() int64 {
	runtime.GC()
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

func TestMemoryOfIdleKeys(t *testing.T) {
	// Names of 16 bytes. Tables have grown at one of these numbers or another.
	for _, keys := range []int{90_000, 120_000, 150_000} {
		before := heap()
		m := window.NewMemory()
		var name [16]byte
		for i := range keys {
			binary.LittleEndian.PutUint64(name[:], uint64(i))
			admit(m, start, name[:], 1, time.Hour)
		}
		perKey := (heap()-before)/int64(keys) - int64(len(name))
		t.Logf("%d keys: %d bytes a key besides its name", keys, perKey)
		if perKey > 120 {
			t.Errorf("%d keys: %d bytes a key besides its name, want at most 120", keys, perKey)
		}
		for range 100 {
			m.Sweep(start.Add(2*time.Hour), keys/100+1)
		}
		if left := heap() - before; left > 1<<20 {
			t.Errorf("%d bytes left after all keys are swept", left)
		}
		runtime.KeepAlive(m)
	}
}

func TestMemoryOfUnits(t *testing.T) {
	for _, c := range []struct {
		every, span time.Duration
		limit       int64
	}{
		{time.Microsecond, time.Hour, 5000},
		{60 * time.Millisecond, time.Minute, 1000},
		{127 * time.Second, 25 * 24 * time.Hour, 17_000}, // nearly 4 bytes
		{80 * time.Minute, 25 * 24 * time.Hour, 450},     // 5 bytes
		{5 * time.Hour, 25 * 24 * time.Hour, 120},        // 6 bytes
	} {
		t.Run(c.every.String(), func(t *testing.T) { memoryOfUnits(t, c.every, c.span, c.limit) })
	}
}

// memoryOfUnits fills windows and lets them go on, sees what the most is that
// they take, and then lets all but the last admission leave.
func memoryOfUnits(t *testing.T, every, span time.Duration, limit int64) {
	keys := max(40, int(200_000/limit)) // some kilobytes that others allocate meanwhile are no byte a unit
	m := window.NewMemory()
	names := make([][]byte, keys)
	for k := range names {
		names[k] = fmt.Append(nil, "key", k)
		admit(m, start, names[k], 1, time.Microsecond)
	}
	before := heap()
	at, last := start.Add(time.Second), start
	var most float64
	batch := []window.Request{{Charges: []window.Charge{{Cost: 1, Limit: limit, Window: span}}}}
	for n := range 2 * limit {
		at = at.Add(every)
		for k := range keys {
			batch[0].Charges[0].Key = names[k]
			decide(m, at, batch)
		}
		if batch[0].Admitted {
			last = at
		}
		if n > 0 && n%(limit/10+1) == 0 {
			most = max(most, float64(heap()-before)/float64(int64(keys)*min(n, limit)))
		}
	}
	t.Logf("%.2f bytes a unit", most)
	if most > 8 {
		t.Errorf("%.2f bytes an admitted unit, want at most 8", most)
	}
	m.Sweep(last.Add(span-time.Microsecond), keys)
	if left := float64(heap() - before); left > float64(keys*200) { // others may have touched something
		t.Errorf("%.0f bytes left for %d keys with one admission each", left, keys)
	}
	if m.Len() != keys {
		t.Errorf("%d keys left, want %d", m.Len(), keys)
	}
}

func TestMemoryOfBuckets(t *testing.T) {
	const keys, buckets = 40, 16
	m := window.NewMemory()
	batch := []window.Request{{Charges: []window.Charge{
		{Cost: 3, Limit: 1_000_000, Window: time.Hour, Buckets: buckets}}}}
	at := start
	for range 3 * 3600 {
		at = at.Add(time.Second)
		for k := range keys {
			batch[0].Charges[0].Key = fmt.Append(nil, k)
			decide(m, at, batch)
		}
		if got := m.Usage().Bytes / keys; got > 300 { // with up to 3,600 admissions
			t.Fatalf("%d bytes a key of %d buckets, want at most 300", got, buckets)
		}
	}
}

// Many keys are freed by many short sweeps. The machine does something else at
// times, so it is the middle one that must not take long.
func TestSweepPauses(t *testing.T) {
	const keys, sweep = 200_000, 2000
	m := window.NewMemory()
	for i := range keys {
		admit(m, start, fmt.Append(nil, "key", i), 1, time.Minute)
	}
	var pauses []time.Duration
	for m.Len() > 0 {
		began := time.Now()
		m.Sweep(start.Add(time.Minute), sweep)
		pauses = append(pauses, time.Since(began))
	}
	if len(pauses) > keys/sweep+1 {
		t.Errorf("%d sweeps of %d for %d keys", len(pauses), sweep, keys)
	}
	slices.Sort(pauses)
	t.Logf("sweeps of %d keys: half within %v, 99 of 100 within %v", sweep, pauses[len(pauses)/2], pauses[len(pauses)*99/100])
	if got, most := pauses[len(pauses)/2], time.Millisecond*slower(); got > most {
		t.Errorf("half of the sweeps of %d keys took more than %v, want at most %v", sweep, got, most)
	}
}

// slower is by how much the race detector may slow things.
func slower() time.Duration {
	info, _ := debug.ReadBuildInfo()
	if info != nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		return 10
	}
	return 1
}
