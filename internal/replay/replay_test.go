package replay_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/replay"
)

// standIn takes what is sent in place of a gateway's client.
type standIn struct {
	check  func(context.Context, events.Request) (events.Decision, error)
	report func(context.Context, ...events.Request) error

	mu   sync.Mutex // guards sent
	sent []events.Request
	at   []time.Time // parallel to sent
}

func (s *standIn) Check(ctx context.Context, r events.Request) (events.Decision, error) {
	s.keep(r)
	return s.check(ctx, r)
}

func (s *standIn) Report(ctx context.Context, requests ...events.Request) error {
	s.keep(requests...)
	return s.report(ctx, requests...)
}

func (s *standIn) keep(requests ...events.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range requests {
		s.sent = append(s.sent, r)
		s.at = append(s.at, time.Now())
	}
}

func (s *standIn) paths() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var paths []string
	for i := range s.sent {
		paths = append(paths, s.sent[i].Path)
	}
	return strings.Join(paths, " ")
}

func allowing() *standIn {
	return &standIn{
		check: func(context.Context, events.Request) (events.Decision, error) {
			return events.Decision{Verdict: events.Allow, Reason: events.ReasonRule}, nil
		},
		report: func(context.Context, ...events.Request) error { return nil },
	}
}

// mustWrite writes a log of lines and returns its name.
func mustWrite(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "access.log")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// line is a request at a second of a day.
func line(second int, path string) string {
	at := time.Date(2015, 5, 17, 10, 0, second, 0, time.UTC)
	return fmt.Sprintf(`192.0.2.7 - - [%s] "GET %s HTTP/1.1" 200 17 "-" "curl"`, at.Format("02/Jan/2006:15:04:05 -0700"), path)
}

func options(change func(*replay.Options)) replay.Options {
	o := replay.DefaultOptions()
	change(&o)
	return o
}

func TestOrder(t *testing.T) {
	first := mustWrite(t, line(5, "/c"), line(1, "/a"), line(5, "/d"), line(9, "/f"))
	second := mustWrite(t, line(5, "/e"), line(2, "/b"))
	s := allowing()
	sum, err := replay.Run(t.Context(), s, options(func(o *replay.Options) { o.Files, o.InFlight = []string{first, second}, 1 }))
	if err != nil {
		t.Fatal(err)
	}
	if got := s.paths(); got != "/a /b /c /d /e /f" {
		t.Errorf("sent %s", got)
	}
	if sum.Read != 6 || sum.Requests != 6 || sum.Allowed != 6 || sum.BadLines != 0 {
		t.Errorf("summary %+v", sum)
	}
	ids := map[string]bool{}
	for _, r := range s.sent {
		ids[r.ID] = true
		r.Gateway = "replay"
		if err := r.Validate(); err != nil || r.Tenant != "default" || r.IP.String() != "192.0.2.7" || time.Since(r.Time) > time.Minute {
			t.Errorf("sent %+v, %v", r, err)
		}
	}
	if len(ids) != 6 {
		t.Errorf("%d different ids", len(ids))
	}
}

func TestPace(t *testing.T) {
	log := mustWrite(t, line(0, "/a"), line(10, "/b"), line(50, "/d"), line(20, "/c"))
	for _, tt := range []struct {
		speed float64
		want  []time.Duration // after the start
	}{
		{1, []time.Duration{0, 10 * time.Second, 20 * time.Second, 50 * time.Second}},
		{10, []time.Duration{0, time.Second, 2 * time.Second, 5 * time.Second}},
		{0.5, []time.Duration{0, 20 * time.Second, 40 * time.Second, 100 * time.Second}},
		{0, []time.Duration{0, 0, 0, 0}},
	} {
		synctest.Test(t, func(t *testing.T) {
			s := allowing()
			start := time.Now()
			sum, err := replay.Run(t.Context(), s, options(func(o *replay.Options) { o.Files, o.Speed = []string{log}, tt.speed }))
			if err != nil {
				t.Fatal(err)
			}
			var at []time.Duration
			for i, r := range s.sent {
				at = append(at, s.at[i].Sub(start))
				if !r.Time.Equal(s.at[i]) {
					t.Errorf("speed %v: %s sent at %v says %v", tt.speed, r.Path, s.at[i], r.Time)
				}
			}
			if !slices.Equal(at, tt.want) || sum.Took != tt.want[3] {
				t.Errorf("speed %v: sent after %v in %v, want %v", tt.speed, at, sum.Took, tt.want)
			}
		})
	}
}

func TestInFlightIsBounded(t *testing.T) {
	var lines []string
	for range 100 {
		lines = append(lines, line(0, "/"))
	}
	log := mustWrite(t, lines...)
	synctest.Test(t, func(t *testing.T) {
		s := allowing()
		s.check = func(context.Context, events.Request) (events.Decision, error) {
			time.Sleep(time.Second)
			return events.Decision{Verdict: events.Allow}, nil
		}
		sum, err := replay.Run(t.Context(), s, options(func(o *replay.Options) { o.Files, o.InFlight = []string{log}, 10 }))
		if err != nil || sum.Took != 10*time.Second || sum.Rate != 10 {
			t.Errorf("100 requests of a second each, 10 at once: %+v, %v", sum, err)
		}
	})
}

func TestOutcomesAreCounted(t *testing.T) {
	var lines []string
	for i := range 60 {
		lines = append(lines, line(i, fmt.Sprint("/", i%6)))
	}
	log := mustWrite(t, lines...)
	s := allowing()
	s.check = func(_ context.Context, r events.Request) (events.Decision, error) {
		switch r.Path {
		case "/0":
			return events.Decision{Verdict: events.Allow, Reason: events.ReasonExempt}, nil
		case "/1":
			return events.Decision{Verdict: events.Allow, Reason: events.ReasonNoRule}, nil
		case "/2":
			return events.Decision{Verdict: events.Deny, Reason: events.ReasonRule}, nil
		case "/3":
			return events.Decision{Verdict: events.Allow, Reason: events.ReasonTimeout}, nil
		case "/4":
			return events.Decision{}, errors.Join(&events.FieldError{Field: "path", Value: "/4", Want: "another"})
		}
		return events.Decision{Verdict: events.Allow, Reason: events.ReasonRule}, nil
	}
	sum, err := replay.Run(t.Context(), s, options(func(o *replay.Options) { o.Files = []string{log} }))
	if err != nil {
		t.Fatal(err)
	}
	if sum.Requests != 60 || sum.Allowed != 30 || sum.Exempt != 10 || sum.NoRule != 10 || sum.Denied != 10 || sum.Timeouts != 10 ||
		sum.Errors != 10 || len(sum.Refusals) != 10 || sum.Refusals[0] != `path: want another, found "/4"` {
		t.Errorf("summary %+v", sum)
	}
}

func TestReports(t *testing.T) {
	log := mustWrite(t, line(0, "/a"), line(1, "/b"))
	synctest.Test(t, func(t *testing.T) {
		s := allowing()
		tries := 0
		s.report = func(context.Context, ...events.Request) error {
			if tries++; tries < 3 {
				return errors.New("no stream yet")
			}
			return nil
		}
		sum, err := replay.Run(t.Context(), s, options(func(o *replay.Options) { o.Files, o.Reports, o.InFlight = []string{log}, true, 1 }))
		if err != nil || sum.Reported != 2 || sum.Requests != 2 || sum.Allowed != 0 || s.paths() != "/a /a /a /b" {
			t.Errorf("%+v, %v, tried %s", sum, err, s.paths())
		}
		if s.sent[0].ID != s.sent[2].ID || s.sent[0].Status != 200 {
			t.Errorf("tried again as %+v, first as %+v", s.sent[2], s.sent[0])
		}
	})
}

func TestReportThatIsRefused(t *testing.T) {
	log := mustWrite(t, line(0, "/a"), line(1, "/b"))
	s := allowing()
	s.report = func(_ context.Context, requests ...events.Request) error {
		if requests[0].Path == "/a" {
			return errors.Join(&gateway.RequestError{Err: &events.FieldError{Field: "path", Value: "/a", Want: "another"}})
		}
		return nil
	}
	sum, err := replay.Run(t.Context(), s, options(func(o *replay.Options) { o.Files, o.Reports, o.InFlight = []string{log}, true, 1 }))
	if err != nil || sum.Reported != 1 || sum.Errors != 1 || s.paths() != "/a /b" {
		t.Errorf("%+v, %v, tried %s", sum, err, s.paths())
	}
}

func TestWhatEndsAReplay(t *testing.T) {
	var lines []string
	for range 100 {
		lines = append(lines, line(0, "/"))
	}
	log := mustWrite(t, lines...)
	run := func(s *standIn, change func(*replay.Options)) (sum replay.Summary, err error) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			sum, err = replay.Run(ctx, s, options(func(o *replay.Options) { o.Files, o.InFlight = []string{log}, 4; change(o) }))
		})
		return sum, err
	}
	nobody := allowing()
	nobody.check = func(ctx context.Context, _ events.Request) (events.Decision, error) {
		select {
		case <-ctx.Done():
			return events.Decision{}, ctx.Err()
		case <-time.After(5 * time.Second):
			return events.Decision{Verdict: events.Allow, Reason: events.ReasonTimeout}, nil
		}
	}
	if sum, err := run(nobody, func(*replay.Options) {}); !errors.Is(err, replay.ErrNobody) || sum.Took != 10*time.Second || sum.Timeouts < 8 {
		t.Errorf("nobody decides: %+v, %v", sum, err)
	}
	closed := errors.New("closed")
	shut := allowing()
	shut.check = func(context.Context, events.Request) (events.Decision, error) { return events.Decision{}, closed }
	if sum, err := run(shut, func(*replay.Options) {}); !errors.Is(err, closed) || sum.Requests != 0 || sum.Read != 100 {
		t.Errorf("the client is closed: %+v, %v", sum, err)
	}
	full := allowing()
	full.report = func(context.Context, ...events.Request) error { return closed }
	if sum, err := run(full, func(o *replay.Options) { o.Reports = true }); !errors.Is(err, closed) || sum.Took < 20*time.Second || sum.Took > 40*time.Second {
		t.Errorf("reports are not stored: %+v, %v", sum, err)
	}
	slow := allowing()
	slow.check = func(ctx context.Context, _ events.Request) (events.Decision, error) {
		select {
		case <-ctx.Done():
			return events.Decision{}, ctx.Err()
		case <-time.After(25 * time.Second):
			return events.Decision{Verdict: events.Allow, Reason: events.ReasonRule}, nil
		}
	}
	sum, err := run(slow, func(*replay.Options) {})
	if !errors.Is(err, context.DeadlineExceeded) || sum.Allowed != 8 || !strings.Contains(err.Error(), "ended after 8 of 100 requests") {
		t.Errorf("the context ends: %+v, %v", sum, err)
	}
}

func TestBadLinesAreShown(t *testing.T) {
	lines := []string{line(0, "/a"), "", "what is this", line(1, "/b")}
	for range 12 {
		lines = append(lines, "\x00\xff")
	}
	log := mustWrite(t, lines...)
	s := allowing()
	sum, err := replay.Run(t.Context(), s, options(func(o *replay.Options) { o.Files, o.InFlight = []string{log}, 1 }))
	if err != nil || sum.Requests != 2 || sum.BadLines != 13 || len(sum.Bad) != 10 {
		t.Fatalf("summary %+v, %v", sum, err)
	}
	if b := sum.Bad[0]; b.File != log || b.Line != 3 || b.Text != "what is this" || b.Reason == "" {
		t.Errorf("the first bad line: %+v", b)
	}
}

func TestLogsThatCannotBeRead(t *testing.T) {
	good := mustWrite(t, line(0, "/a"))
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	if _, err := io.WriteString(z, strings.Repeat(line(0, "/a")+"\n", 1000)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	cut := filepath.Join(t.TempDir(), "cut.gz")
	if err := os.WriteFile(cut, zipped.Bytes()[:zipped.Len()-10], 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ file, want string }{
		{filepath.Join(t.TempDir(), "absent.log"), "absent.log"},
		{t.TempDir(), "is a directory"},
		{cut, "cut.gz: after line 1000: unexpected EOF"},
	} {
		s := allowing()
		_, err := replay.Run(t.Context(), s, options(func(o *replay.Options) { o.Files = []string{good, tt.file} }))
		if err == nil || !strings.Contains(err.Error(), tt.want) || len(s.sent) > 0 {
			t.Errorf("%s: %v, sent %d", tt.file, err, len(s.sent))
		}
	}
	if sum, err := replay.Run(t.Context(), allowing(), options(func(o *replay.Options) { o.Files = []string{mustWrite(t)} })); err != nil || sum.Requests != 0 {
		t.Errorf("an empty log: %+v, %v", sum, err)
	}
}

func TestOptionsNameEveryFault(t *testing.T) {
	_, err := replay.Run(t.Context(), allowing(), replay.Options{Tenant: "a.b", Speed: math.NaN()})
	for _, want := range []string{"tenant: ", "files: ", "speed: ", "in flight: "} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v lacks %q", err, want)
		}
	}
}

func TestProgressLines(t *testing.T) {
	log := mustWrite(t, line(0, "/a"), line(6, "/b"), line(12, "/c"))
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		s := allowing()
		s.check = func(_ context.Context, r events.Request) (events.Decision, error) {
			if r.Path == "/b" {
				return events.Decision{Verdict: events.Deny, Reason: events.ReasonRule}, nil
			}
			return events.Decision{Verdict: events.Allow, Reason: events.ReasonRule}, nil
		}
		if _, err := replay.Run(t.Context(), s, options(func(o *replay.Options) { o.Files, o.Speed, o.Progress = []string{log}, 1, &out })); err != nil {
			t.Fatal(err)
		}
		const want = "1 of 3 requests, 0/s, denied 0.0%, 0 errors\n2 of 3 requests, 0/s, denied 50.0%, 0 errors\n"
		if got := out.String(); got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	})
}

func TestPrint(t *testing.T) {
	sum := replay.Summary{
		Read: 10_000, Requests: 9_999, Allowed: 9_000, Exempt: 5, Denied: 999, BadLines: 1, Errors: 1, Took: 1234567 * time.Microsecond, Rate: 8100,
		Bad: []replay.BadLine{{File: "access.log", Line: 17, Text: "what is this", Reason: "want a request"}}, Refusals: []string{"path: want another"},
	}
	var out bytes.Buffer
	if err := sum.Print(&out); err != nil {
		t.Fatal(err)
	}
	const want = `
        requests    9999
        not sent       1
         allowed    9000
  of them exempt       5
          denied     999 (10.0%)
        timeouts       0
          errors       1
       bad lines       1
        duration  1.235s
            rate  8100/s

bad lines, the first 1:
  access.log:17: want a request
    what is this

errors, the first 1:
  path: want another
`
	if got := "\n" + out.String(); got != want {
		t.Errorf("got:%s\nwant:%s", got, want)
	}
}
