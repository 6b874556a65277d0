package tail_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// eachOnce follows a log through what is done with it, of which six lines come, each
// once and in order.
func eachOnce(t *testing.T, cases map[string]func(p *place)) {
	t.Helper()
	for name, run := range cases {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			p.write(p.path+".9", line("/old")) // from before
			synctest.Test(t, func(t *testing.T) {
				p.t = t
				p.follow(fromStart)
				run(p)
				sum := p.stop()
				p.want("/1 /2 /3 /4 /5 /6")
				if sum.Losses != 0 || sum.BadLines != 0 || sum.Behind != 0 || strings.Contains(p.out.String(), "Lost") {
					t.Errorf("%+v\n%s", sum, p.out.String())
				}
				if n := len(p.client.reports); n != 6 {
					t.Errorf("%d reports, want each once", n)
				}
			})
		})
	}
}

func TestRenamed(t *testing.T) {
	eachOnce(t, map[string]func(p *place){
		"and written to": func(p *place) {
			p.write(p.path, line("/1"))
			after(2 * time.Minute)
			p.rename(p.path, p.path+".1")
			p.write(p.path+".1", line("/2")) // not opened anew yet
			after(aLook)
			p.write(p.path, line("/3"))
			after(aLook)
			p.write(p.path+".1", line("/4")) // by a process that is late
			after(30 * time.Second)
			p.write(p.path+".1", strings.TrimSuffix(line("/5"), "\n")) // and is killed
			after(2 * time.Minute)
			p.write(p.path, line("/6"))
			after(aLook)
		},
		"again and again": func(p *place) {
			for i := range 5 {
				p.write(p.path, line(fmt.Sprint("/", i+1)))
				p.rename(p.path, fmt.Sprint(p.path, "-2026112", i))
			}
			p.write(p.path, line("/6"))
			after(aLook)
		},
		"before a line has ended": func(p *place) {
			for i := range 5 { // each with a line alone, whose writer is killed
				p.write(p.path, strings.TrimSuffix(line(fmt.Sprint("/", i+1)), "\n"))
				after(aLook)
				p.rename(p.path, fmt.Sprint(p.path, "-2026112", i))
			}
			p.write(p.path, "")
			after(3 * time.Minute)
			p.write(p.path, line("/6"))
			after(aLook)
		},
		"and compressed at once": func(p *place) {
			p.write(p.path, line("/1"))
			after(aLook)
			p.write(p.path, line("/2"))
			p.rename(p.path, p.path+".away")
			p.write(p.path+".1.gz", "what gzip makes of it")
			if err := os.Chtimes(p.path+".1.gz", p.clock.Add(-time.Second), p.clock.Add(-time.Second)); err != nil {
				p.t.Fatal(err)
			}
			p.write(p.path, line("/3"))
			after(aLook)
			p.stop()
			p.rename(p.path, filepath.Join(p.t.TempDir(), "away"))
			p.write(p.path+".1.gz", "another one")
			if err := os.Chtimes(p.path+".1.gz", p.clock.Add(-time.Second), p.clock.Add(-time.Second)); err != nil {
				p.t.Fatal(err)
			}
			p.write(p.path, line("/4")+line("/5"))
			p.follow()
			p.write(p.path, line("/6"))
			after(aLook)
		},
	})
}

func TestCopiedAndCut(t *testing.T) {
	eachOnce(t, map[string]func(p *place){
		"again and again": func(p *place) {
			p.write(p.path, line("/1"))
			after(aLook)
			p.write(p.path, line("/2"))
			p.copyAndCut(p.path + ".1")
			after(aLook)
			p.write(p.path, line("/3")+line("/4")+line("/5"))
			after(aLook)
			p.rename(p.path+".1", p.path+".2")
			p.copyAndCut(p.path + ".1")
			p.write(p.path, line("/6"))
			after(aLook)
		},
		"where as much is written again": func(p *place) {
			p.write(p.path, line("/1")+line("/2"))
			after(aLook)
			p.copyAndCut(p.path + ".1")
			p.write(p.path, line("/3")+line("/4")+line("/5")+line("/6"))
			after(aLook)
		},
	})
}

func TestRotatedWhileNobodyLooks(t *testing.T) {
	eachOnce(t, map[string]func(p *place){
		"renamed": func(p *place) {
			p.write(p.path, line("/1"))
			after(aLook)
			p.stop()
			p.write(p.path, line("/2"))
			p.rename(p.path, p.path+".3")
			p.write(p.path, line("/3")+line("/4"))
			p.rename(p.path, p.path+".2")
			p.write(p.path, line("/5"))
			p.rename(p.path, p.path+".1")
			p.follow()
			after(aLook)
			p.write(p.path, line("/6"))
			after(aLook)
		},
		"copied and cut": func(p *place) {
			p.write(p.path, line("/1"))
			after(aLook)
			p.stop()
			p.write(p.path, line("/2"))
			p.copyAndCut(p.path + ".1")
			p.write(p.path, line("/3")+line("/4"))
			p.rename(p.path+".1", p.path+".2")
			p.copyAndCut(p.path + ".1")
			p.write(p.path, line("/5")+line("/6"))
			p.follow()
			after(aLook)
		},
		"between name and name": func(p *place) {
			p.write(p.path, line("/1"))
			after(aLook)
			p.rename(p.path, p.path+".1")
			after(aLook)
			p.stop()
			p.write(p.path+".1", line("/2"))
			p.follow()
			after(aLook)
			p.write(p.path+".1", line("/3"))
			after(aLook)
			p.write(p.path, line("/4"))
			after(aLook)
			p.write(p.path+".1", line("/5"))
			after(aLook)
			p.stop()
			p.follow()
			p.write(p.path, line("/6"))
			after(aLook)
		},
	})
}

func TestWhatIsLostIsSaid(t *testing.T) {
	for name, tt := range map[string]struct {
		run  func(p *place)
		want string
	}{
		"removed": {func(p *place) {
			p.stop()
			p.rename(p.path, filepath.Join(p.t.TempDir(), "away"))
			p.write(p.path, line("/2"))
			p.follow()
		}, "Lost: the file that was followed is gone, with what was not read of it\n"},
		"compressed": {func(p *place) {
			p.stop()
			p.write(p.path, line("/x"))
			p.rename(p.path, filepath.Join(p.t.TempDir(), "away"))
			p.write(p.path+".2.gz", "what gzip makes of it")
			p.write(p.path, line("/2"))
			p.follow()
		}, "access.log.2.gz was compressed before it was read\n"},
		"cut": {func(p *place) {
			if err := os.Truncate(p.path, 0); err != nil {
				p.t.Fatal(err)
			}
			after(aLook)
			p.write(p.path, line("/2"))
		}, "Lost: the log was cut, and there is no copy of what was not read of it\n"},
		"overwritten": {func(p *place) {
			p.rename(p.path, p.path+".1")
			p.write(p.path, line("/2"))
			after(aLook)
			if err := os.WriteFile(p.path+".1", []byte(line("/another")), 0o600); err != nil {
				p.t.Fatal(err)
			}
		}, "Lost: a rotated file was overwritten, with what was not read of it\n"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			synctest.Test(t, func(t *testing.T) {
				p.t = t
				p.follow()
				p.write(p.path, line("/1"))
				after(aLook)
				tt.run(p)
				after(aLook)
				sum := p.stop()
				p.want("/1 /2")
				if !strings.Contains(p.out.String(), tt.want) || sum.Losses == 0 {
					t.Errorf("%+v, says %q, want %q", sum, p.out.String(), tt.want)
				}
			})
		})
	}
}

// A rotated file that may not be read ends nothing, and is lost only if it is of use.
func TestNotAllowed(t *testing.T) {
	p := newPlace(t)
	p.write(p.path+".7", line("/old"))
	p.write(p.path, line("/1"))
	p.forbid(p.path + ".7")
	p.unprivileged()
	synctest.Test(t, func(t *testing.T) {
		p.t = t
		p.follow(fromStart)
		after(aLook)
		p.rename(p.path, p.path+".4")
		p.write(p.path, line("/2"))
		after(aLook)
		p.stop()
		p.forbid(p.path + ".4") // which is read
		p.rename(p.path, p.path+".3")
		p.write(p.path+".3", line("/x")) // which is not
		p.forbid(p.path + ".3")
		p.follow()
		after(aLook)
		p.write(p.path, line("/3"))
		after(aLook)
		for i := range 2 {
			p.rename(p.path, fmt.Sprint(p.path, ".", 2-i))
			p.write(p.path, line(fmt.Sprint("/", i+4)))
			after(aLook)
		}
		sum := p.stop()
		p.want("/1 /2 /3 /4 /5")
		if said := p.out.String(); sum.Losses != 1 || strings.Count(said, "Lost: ") != 1 || !strings.Contains(said, "access.log.3 may not be read\n") {
			t.Errorf("%+v\n%s", sum, said)
		}
	})
}
