package backtest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

const (
	maxWindows = 4       // limits are looked for at once
	maxBy      = 8       // by so many keys of rules
	maxKeys    = 1 << 22 // that ask, by each of them: about 1 GiB
	maxEntries = 1 << 26 // in the windows of all its keys: 1 GiB
	minSweep   = 1 << 20 // entries that are not worth a look for old ones
)

// usage is what the keys of a rule have asked for. Of each it knows the requests
// of the longest window, and the most that any window of each length held. Asks
// come in the order of their times.
type usage struct {
	windows []int64 // microseconds, ascending
	keys    []keyUse
	known   map[string]uint32 // to the place in keys

	entries int // that all keys hold
	sweepAt int // so many of them are worth a look for old ones
}

// keyUse is what one key has asked for.
type keyUse struct {
	name     string
	requests int64 // that are counted
	entries  []entry
	first    [maxWindows]int32 // place of each window's first entry
	units    [maxWindows]int64 // in each window
	highest  [maxWindows]int64 // the most of them, of windows that are counted
}

// entry is what was asked for at one instant.
type entry struct{ at, units int64 }

func newUsage(windows []time.Duration) *usage {
	u := &usage{known: map[string]uint32{}, sweepAt: minSweep}
	for _, w := range windows {
		u.windows = append(u.windows, w.Microseconds())
	}
	return u
}

// key returns the place of a key.
func (u *usage) key(name string) (uint32, error) {
	place, ok := u.known[name]
	if ok {
		return place, nil
	}
	if len(u.keys) == maxKeys {
		return 0, fmt.Errorf("more than %d keys: ask for less time, or by something else", maxKeys)
	}
	place, name = uint32(len(u.keys)), strings.Clone(name)
	u.keys = append(u.keys, keyUse{name: name})
	u.known[name] = place
	return place, nil
}

// ask adds what a key asks for at an instant by a number of requests, which is 0
// if only later ones are counted.
func (u *usage) ask(key uint32, at, units, requests int64) error {
	k := &u.keys[key]
	k.requests += requests
	if n := len(k.entries); n > 0 && k.entries[n-1].at == at {
		k.entries[n-1].units += units
	} else {
		k.entries = append(k.entries, entry{at, units})
		u.entries++
	}
	for i := range u.windows {
		k.units[i] += units
	}
	u.entries -= k.slide(u.windows, at)
	for i := range u.windows {
		if requests > 0 {
			k.highest[i] = max(k.highest[i], k.units[i])
		}
	}
	if u.entries < u.sweepAt {
		return nil
	}
	for i := range u.keys {
		u.entries -= u.keys[i].slide(u.windows, at)
	}
	if u.entries > maxEntries {
		return fmt.Errorf("more than %d requests in a window: ask for a shorter one", maxEntries)
	}
	u.sweepAt = max(minSweep, 2*u.entries)
	return nil
}

// slide lets go of what windows that end now do not hold, and returns how many
// entries were freed.
func (k *keyUse) slide(windows []int64, now int64) (freed int) {
	for i, w := range windows {
		for int(k.first[i]) < len(k.entries) && k.entries[k.first[i]].at <= now-w {
			k.units[i] -= k.entries[k.first[i]].units
			k.first[i]++
		}
	}
	unused := k.first[len(windows)-1]
	if unused == 0 || int(unused) < len(k.entries)/2 {
		return 0
	}
	k.entries = append(make([]entry, 0, len(k.entries)-int(unused)), k.entries[unused:]...)
	for i := range windows {
		k.first[i] -= unused
	}
	return int(unused)
}

// distribution returns the keys' highest uses of a window, the highest first, of
// keys that are counted.
func (u *usage) distribution(window int) []int64 {
	list := make([]int64, 0, len(u.keys))
	for i := range u.keys {
		if u.keys[i].requests > 0 {
			list = append(list, u.keys[i].highest[window])
		}
	}
	slices.SortFunc(list, func(a, b int64) int { return cmp.Compare(b, a) })
	return list
}
