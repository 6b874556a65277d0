package tail_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"
	"pgregory.net/rapid"

	"github.com/weirhq/weir/internal/accesslog"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/tail"
)

// standIn keeps what it is told, in place of a gateway's client.
type standIn struct {
	mu       sync.Mutex // guards the rest
	reports  []events.Request
	outcomes []events.Outcome
	fault    error // of every call, after it has kept what it is told
	away     error // of every call, before
	calls    int
}

func (s *standIn) Report(_ context.Context, requests ...events.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	if s.away != nil {
		return s.away
	}
	s.reports = append(s.reports, requests...)
	return s.fault
}

func (s *standIn) Outcome(_ context.Context, outcomes ...events.Outcome) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away != nil {
		return s.away
	}
	s.outcomes = append(s.outcomes, outcomes...)
	return s.fault
}

func (s *standIn) set(away, fault error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away, s.fault = away, fault
}

// paths lists what was reported, each id once, in order.
func (s *standIn) paths() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []string
	known := map[string]bool{}
	for _, r := range s.reports {
		if !known[r.ID] {
			all = append(all, r.Path)
		}
		known[r.ID] = true
	}
	return strings.Join(all, " ")
}

// place is a log in a directory of its own, and who follows it.
type place struct {
	t      *testing.T
	path   string
	client *standIn
	clock  time.Time // of the files
	out    bytes.Buffer
	stop   func() tail.Summary
}

func newPlace(t *testing.T) *place {
	return &place{t: t, path: filepath.Join(t.TempDir(), "access.log"), client: &standIn{}, clock: time.Now().Add(-24 * time.Hour)}
}

func line(path string) string {
	return `192.0.2.7 - - [17/May/2015:10:05:03 +0000] "GET ` + path + ` HTTP/1.1" 200 12` + "\n"
}

// write appends to a file. Each write is a second after the one before: files
// cannot tell those of one moment apart.
func (p *place) write(path, text string) {
	p.t.Helper()
	file, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err = file.WriteString(text); err != nil {
		p.t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		p.t.Fatal(err)
	}
	p.touch(path)
}

func (p *place) touch(path string) {
	p.t.Helper()
	p.clock = p.clock.Add(time.Second)
	if err := os.Chtimes(path, p.clock, p.clock); err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) rename(from, to string) {
	p.t.Helper()
	if err := os.Rename(from, to); err != nil {
		p.t.Fatal(err)
	}
}

// forbid takes the right to read a file.
func (p *place) forbid(path string) {
	p.t.Helper()
	if err := os.Chmod(path, 0o200); err != nil {
		p.t.Fatal(err)
	}
}

// unprivileged makes somebody else of root, who may read everything, until the
// test ends.
func (p *place) unprivileged() {
	p.t.Helper()
	if os.Geteuid() != 0 {
		return
	}
	const nobody = 65534
	dir := filepath.Dir(p.path)
	entries, err := filepath.Glob(p.path + "*")
	if err != nil {
		p.t.Fatal(err)
	}
	for _, path := range append(entries, dir, filepath.Dir(dir)) {
		if err := os.Chown(path, nobody, -1); err != nil {
			p.t.Fatal(err)
		}
	}
	if err := syscall.Seteuid(nobody); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if err := syscall.Seteuid(0); err != nil {
			p.t.Error(err)
		}
	})
}

// copyAndCut rotates as logrotate's copytruncate does.
func (p *place) copyAndCut(to string) {
	p.t.Helper()
	text, err := os.ReadFile(p.path)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := os.WriteFile(to, text, 0o600); err != nil {
		p.t.Fatal(err)
	}
	p.touch(to)
	if err := os.Truncate(p.path, 0); err != nil {
		p.t.Fatal(err)
	}
	p.touch(p.path)
}

// follow follows the log until stop is called.
func (p *place) follow(change ...func(*tail.Options)) {
	o := tail.Options{Log: p.path, State: p.path + ".weir", Tenant: "acme", Gateway: "tail", Progress: &p.out}
	for _, f := range change {
		f(&o)
	}
	ctx, cancel := context.WithCancel(p.t.Context())
	type result struct {
		tail.Summary
		error
	}
	done := make(chan result, 1)
	go func() {
		sum, err := tail.Run(ctx, p.client, o)
		done <- result{sum, err}
	}()
	synctest.Wait()
	p.stop = func() tail.Summary {
		cancel()
		r := <-done
		if r.error != nil {
			p.t.Error(r.error)
		}
		return r.Summary
	}
}

// after lets a time pass in which the log is looked at.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

const aLook = 300 * time.Millisecond

func fromStart(o *tail.Options) { o.FromStart = true }

func (p *place) want(paths string) {
	p.t.Helper()
	if got := p.client.paths(); got != paths {
		p.t.Errorf("reported %q, want %q", got, paths)
	}
}

func TestWhereItBegins(t *testing.T) {
	for name, tt := range map[string]struct {
		exists, fromStart bool
		want, says        string
	}{
		"at the end":   {true, false, "/2 /3", "from byte 136, 5 B to read;"},
		"at the start": {true, true, "/0 /1 /2 /3", "from byte 0, 141 B to read;"},
		"not there":    {false, false, "/0 /1 /2 /3", "which is not there yet;"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			synctest.Test(t, func(t *testing.T) {
				p.t = t
				first := line("/0") + line("/1") + line("/2")[:5] // written in two parts
				if tt.exists {
					p.write(p.path, first)
				}
				p.follow(func(o *tail.Options) { o.FromStart = tt.fromStart })
				if !tt.exists {
					p.write(p.path, first)
				}
				after(aLook)
				p.write(p.path, line("/2")[5:]+line("/3"))
				after(aLook)
				sum := p.stop()
				p.want(tt.want)
				if n := int64(strings.Count(tt.want, "/")); sum.Lines != n || sum.Reports != n || sum.Behind != 0 {
					t.Errorf("%+v", sum)
				}
				if !strings.Contains(p.out.String(), tt.says) {
					t.Errorf("says %q, want %q", p.out.String(), tt.says)
				}
			})
		})
	}
}

func TestWhatIsTold(t *testing.T) {
	p := newPlace(t)
	const weir = `{"msec":"1431857103.000","remote_addr":"192.0.2.7","user":"ann","sub":"bob","method":"GET","host":"Shop.example","uri":"/a","status":"%d",` +
		`"request_time":"0.250","request_length":"99","body_bytes_sent":"12","weir_tenant":"%s","weir_id":"id-%d","weir_status":"%s"}` + "\n"
	p.write(p.path, fmt.Sprintf(weir, 200, "shop", 1, "200")+fmt.Sprintf(weir, 429, "", 2, "403")+fmt.Sprintf(weir, 200, "shop", 3, "204")+
		fmt.Sprintf(weir, 200, "", 4, "")+line("/b"))
	synctest.Test(t, func(t *testing.T) {
		p.t = t
		p.follow(fromStart)
		after(aLook)
		sum := p.stop()
		if sum.Outcomes != 2 || sum.Reports != 3 || sum.Passed != 1 || sum.Lines != 5 {
			t.Errorf("%+v", sum)
		}
		at := time.Date(2015, 5, 17, 10, 5, 3, 0, time.UTC)
		o := events.Outcome{ID: "id-1", Tenant: "shop", Gateway: "tail", Time: at, Status: 200, LatencyUS: 250_000, BytesIn: 99, BytesOut: 12}
		if got := p.client.outcomes; len(got) != 2 || got[0] != o || got[1].ID != "id-2" || got[1].Status != 429 || got[1].Tenant != "acme" {
			t.Errorf("outcomes %+v", got)
		}
		r := p.client.reports
		if len(r) != 3 {
			t.Fatalf("reports %+v", r)
		}
		if r[0].ID != "id-3" || r[0].Verdict != events.Allow || r[0].Reason != events.ReasonTimeout || r[0].Tenant != "shop" || r[0].User != "ann" || r[0].Status != 200 {
			t.Errorf("let through: %+v", r[0])
		}
		if r[1].ID == "id-4" || r[1].Verdict != "" || r[1].Tenant != "acme" || r[1].BytesIn != 99 {
			t.Errorf("not asked about: %+v", r[1])
		}
		if r[2].Path != "/b" || r[2].ID == r[1].ID || !strings.HasPrefix(r[2].ID, "tail-") {
			t.Errorf("of a log in another format: %+v", r[2])
		}
	})
	p.client = &standIn{}
	synctest.Test(t, func(t *testing.T) {
		p.t = t
		p.follow(fromStart, func(o *tail.Options) {
			o.State += "2"
			o.Fields = accesslog.Fields{User: "sub", Tenant: "host"}
		})
		after(aLook)
		p.stop()
		if r := p.client.reports[0]; r.User != "bob" || r.Tenant != "Shop-example" {
			t.Errorf("with fields that are named: %+v", r)
		}
	})
}

func TestBadLines(t *testing.T) {
	p := newPlace(t)
	text := line("/1") + "\n  \nwhat is this\n" + strings.Repeat("x", accesslog.MaxLine-1) + "\n" + strings.Repeat("y", 3*accesslog.MaxLine) + "\n" + line("/2")
	p.write(p.path, text+strings.Repeat("z", accesslog.MaxLine+10))
	synctest.Test(t, func(t *testing.T) {
		p.t = t
		p.follow(fromStart)
		after(aLook)
		p.write(p.path, strings.Repeat("z", 3*accesslog.MaxLine))
		after(aLook)
		p.write(p.path, "\n"+line("/3"))
		after(aLook)
		p.write(p.path, strings.Repeat("bad\n", 20)+line("/4"))
		after(aLook)
		sum := p.stop()
		p.want("/1 /2 /3 /4")
		if sum.BadLines != 24 || sum.Lines != 30 {
			t.Errorf("%+v", sum)
		}
		said := p.out.String()
		for want, times := range map[string]int{
			"Bad line at byte 72: time: want a time such as [17/May/2015:10:05:03 +0000] after the user, found \"this\"\n  what is this\n": 1,
			"want a line of at most 65536 bytes\n  ": 2,
			"Bad line":                               10,
			"Further bad lines are only counted.\n":  1,
		} {
			if got := strings.Count(said, want); got != times {
				t.Errorf("says %q %d times, want %d:\n%s", want, got, times, said)
			}
		}
	})
}

func TestRotation(t *testing.T) {
	for name, run := range map[string]func(p *place){
		"renamed": func(p *place) {
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
		"renamed again and again": func(p *place) {
			for i := range 5 {
				p.write(p.path, line(fmt.Sprint("/", i+1)))
				p.rename(p.path, fmt.Sprint(p.path, "-2026112", i))
			}
			p.write(p.path, line("/6"))
			after(aLook)
		},
		"copied and cut": func(p *place) {
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
		"cut where as much is written again": func(p *place) {
			p.write(p.path, line("/1")+line("/2"))
			after(aLook)
			p.copyAndCut(p.path + ".1")
			p.write(p.path, line("/3")+line("/4")+line("/5")+line("/6"))
			after(aLook)
		},
		"renamed while nobody looks": func(p *place) {
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
		"copied and cut while nobody looks": func(p *place) {
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
		"compressed at once": func(p *place) {
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
		"ended before a line did": func(p *place) {
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
		"started between name and name": func(p *place) {
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
	} {
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

// While Weir takes nothing the log waits, and goes on in order; what was told and
// not acknowledged is told again under the same ids, also by a start after a kill.
func TestWeirAway(t *testing.T) {
	p := newPlace(t)
	synctest.Test(t, func(t *testing.T) {
		p.t = t
		p.client.set(fmt.Errorf("store it: %w", nats.ErrReconnectBufExceeded), nil)
		p.follow()
		var want []string
		var text strings.Builder
		for i := range 2000 {
			want = append(want, fmt.Sprint("/", i))
			text.WriteString(line(want[i]))
		}
		p.write(p.path, text.String())
		after(time.Minute)
		if n := p.client.calls; n < 30 || n > 100 {
			t.Errorf("tried %d times in a minute", n)
		}
		p.client.set(nil, nil)
		after(2 * time.Minute)
		p.want(strings.Join(want, " "))

		p.client.set(nil, errors.New("killed before it is written down"))
		p.write(p.path, line("/last"))
		after(aLook)
		p.stop()
		p.client.set(nil, nil)
		p.follow()
		after(aLook)
		sum := p.stop()
		p.want(strings.Join(append(want, "/last"), " "))
		if len(p.client.reports) < 2002 || sum.Lines != 1 {
			t.Errorf("%d reports, %+v; want one that comes again", len(p.client.reports), sum)
		}
		for _, want := range []string{"Weir cannot be told, so the log waits where it is: there is no connection to NATS\n", ": killed before it is written down\n", "Weir takes it again, after 1m", "2000 lines: 0 outcomes, 2000 reports, 0 bad; "} {
			if !strings.Contains(p.out.String(), want) {
				t.Errorf("says %q, want %q", p.out.String(), want)
			}
		}
	})
}

func TestWhatEndsIt(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "access.log")
	broken := filepath.Join(dir, "broken")
	for path, text := range map[string]string{log: line("/"), broken: "x"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		o    tail.Options
		want string
	}{
		{tail.Options{Tenant: "a.b"}, "tenant: want"},
		{tail.Options{Tenant: "a.b"}, "gateway: want"},
		{tail.Options{Tenant: "a.b"}, "log: want a path"},
		{tail.Options{Tenant: "a.b"}, "state: want a path"},
		{tail.Options{Tenant: "a", Gateway: "g", Log: log, State: dir + "/./access.log"}, "state: want another file than the log"},
		{tail.Options{Tenant: "a", Gateway: "g", Log: log, State: broken}, "broken does not say how far the log was read"},
		{tail.Options{Tenant: "a", Gateway: "g", Log: log, State: filepath.Join(dir, "absent", "state")}, "(say --state FILE to keep it elsewhere)"},
		{tail.Options{Tenant: "a", Gateway: "g", Log: dir, State: filepath.Join(dir, "state")}, "want a file, found a directory"},
	} {
		_, err := tail.Run(t.Context(), &standIn{}, tt.o)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %s", tt.o, err, tt.want)
		}
	}
}

func TestPrint(t *testing.T) {
	sum := tail.Summary{Lines: 1234, Outcomes: 1200, Reports: 30, Passed: 7, BadLines: 4, Losses: 1, Behind: 4_200_000, Took: 61_234 * time.Millisecond}
	var out bytes.Buffer
	if err := sum.Print(&out); err != nil {
		t.Fatal(err)
	}
	const want = `
                lines      1234
             outcomes      1200
              reports        30
  of them let through         7
            bad lines         4
           lost files         1
         not read yet    4.2 MB
             duration  1m1.234s
`
	if got := "\n" + out.String(); got != want {
		t.Errorf("got:%s\nwant:%s", got, want)
	}
}

// Whatever happens to a log and to whoever follows it, each line counts once.
func TestEachLineOnce(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		type step struct {
			what string
			n    int
		}
		steps := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) step {
			return step{
				rapid.SampledFrom([]string{"write", "write", "write", "look", "look", "half", "rename", "late", "copy", "restart", "kill", "away", "back", "pause"}).Draw(rt, "what"),
				rapid.IntRange(1, 5).Draw(rt, "n"),
			}
		}), 1, 60).Draw(rt, "steps")
		fromEnd := rapid.Bool().Draw(rt, "from the end")
		var p *place
		var want []string
		synctest.Test(t, func(t *testing.T) {
			p = newPlace(t)
			number, half, rotations, old := 0, "", 0, ""
			next := func() string {
				number++
				want = append(want, fmt.Sprint("/", number))
				return line(fmt.Sprint("/", number))
			}
			if fromEnd {
				p.write(p.path, line("/before"))
			}
			p.follow()
			for _, s := range steps {
				switch s.what {
				case "write":
					var text strings.Builder
					text.WriteString(half)
					half = ""
					for range s.n {
						text.WriteString(next())
					}
					p.write(p.path, text.String())
				case "half":
					if half == "" {
						text := next()
						p.write(p.path, text[:9*s.n])
						half = text[9*s.n:]
					}
				case "look":
					after(time.Duration(s.n) * aLook)
				case "rename", "copy":
					if _, err := os.Stat(p.path); err != nil || half != "" {
						continue
					}
					rotations++
					old = fmt.Sprint(p.path, ".", rotations)
					if s.what == "rename" {
						p.rename(p.path, old)
					} else {
						p.copyAndCut(old)
						old = ""
					}
				case "late":
					if old != "" {
						p.write(old, next())
					}
				case "pause":
					after(2 * time.Minute)
					old = ""
				case "restart":
					p.stop()
					p.follow()
				case "kill":
					p.client.set(nil, errors.New("killed"))
					after(aLook)
					p.stop()
					p.client.set(nil, nil)
					p.follow()
				case "away":
					p.client.set(errors.New("away"), nil)
				case "back":
					p.client.set(nil, nil)
				}
			}
			p.write(p.path, half+next())
			p.client.set(nil, nil)
			after(2 * time.Minute)
			p.stop()
		})
		got := strings.Fields(p.client.paths())
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			rt.Errorf("reported %v\nwant %v\n%s", got, want, p.out.String())
		}
	})
}
