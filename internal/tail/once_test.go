package tail_test

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// fate is what happens to a log and to whoever follows it.
type fate struct {
	*place
	lines     int
	half      string // of the last line, what is not written yet
	rotations int
	old       string // the file that was renamed last, while somebody may still write to it
	told      []string
}

type step struct {
	what string
	n    int
}

var steps = rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
	return step{
		rapid.SampledFrom([]string{"write", "write", "write", "look", "look", "half", "rename", "late", "copy", "restart", "kill", "away", "back", "pause"}).Draw(t, "what"),
		rapid.IntRange(1, 5).Draw(t, "n"),
	}
}), 1, 60)

// next returns a line of its own, which is to be reported.
func (f *fate) next() string {
	f.lines++
	path := fmt.Sprint("/", f.lines)
	f.told = append(f.told, path)
	return line(path)
}

func (f *fate) do(s step) {
	switch s.what {
	case "write":
		var text strings.Builder
		text.WriteString(f.half)
		f.half = ""
		for range s.n {
			text.WriteString(f.next())
		}
		f.write(f.path, text.String())
	case "half":
		if f.half == "" {
			text := f.next()
			f.write(f.path, text[:9*s.n])
			f.half = text[9*s.n:]
		}
	case "look":
		after(time.Duration(s.n) * aLook)
	case "rename", "copy":
		f.rotate(s.what)
	case "late":
		if f.old != "" {
			f.write(f.old, f.next())
		}
	case "pause":
		after(2 * time.Minute)
		f.old = ""
	case "restart":
		f.stop()
		f.follow()
	case "kill":
		f.client.set(nil, errors.New("killed"))
		after(aLook)
		f.stop()
		f.client.set(nil, nil)
		f.follow()
	case "away":
		f.client.set(errors.New("away"), nil)
	case "back":
		f.client.set(nil, nil)
	}
}

func (f *fate) rotate(how string) {
	if _, err := os.Stat(f.path); err != nil || f.half != "" {
		return
	}
	f.rotations++
	to := fmt.Sprint(f.path, ".", f.rotations)
	if how == "copy" {
		f.copyAndCut(to)
		f.old = ""
		return
	}
	f.rename(f.path, to)
	f.old = to
}

// Whatever happens to a log and to whoever follows it, each line counts once.
func TestEachLineOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		all := steps.Draw(rt, "steps")
		fromEnd := rapid.Bool().Draw(rt, "from the end")
		var f fate
		synctest.Test(t, func(t *testing.T) {
			f.place = newPlace(t)
			if fromEnd {
				f.write(f.path, line("/before"))
			}
			f.follow()
			for _, s := range all {
				f.do(s)
			}
			f.write(f.path, f.half+f.next())
			f.client.set(nil, nil)
			after(2 * time.Minute)
			f.stop()
		})
		got := strings.Fields(f.client.paths())
		slices.Sort(got)
		slices.Sort(f.told)
		if !slices.Equal(got, f.told) {
			rt.Errorf("reported %v\nwant %v\n%s", got, f.told, f.out.String())
		}
	})
}
