package tail_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/internal/accesslog"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/tail"
)

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
