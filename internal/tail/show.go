package tail

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/nats-io/nats.go"
	"golang.org/x/term"

	"github.com/weirhq/weir/internal/accesslog"
)

const (
	statusEvery = 200 * time.Millisecond // on a terminal
	lineEvery   = time.Minute            // elsewhere, if there is news
	// maxShown bounds the bad lines that are shown: the rest is counted.
	maxShown = 10
)

// Summary is what came of a log's lines.
type Summary struct {
	Lines    int64         // that were read, and of which Weir was told what there is to tell
	Outcomes int64         // of requests that Weir had decided
	Reports  int64         // of requests that it had not
	Passed   int64         // of the reports, those of requests let through because it did not answer
	BadLines int64         // that say of no request
	Losses   int64         // files, or parts of them, that were gone before they were read
	Behind   int64         // bytes of the log that are not read
	Took     time.Duration // from the start
}

// tally counts, and tells how it goes.
type tally struct {
	mu       sync.Mutex // guards the rest
	summary  Summary
	out      io.Writer // nil: nobody is told
	terminal *os.File  // that out is; nil: it is none
	status   string    // what the last line of the terminal says
	waiting  time.Time // since when Weir takes nothing; zero: it does
	shown    int       // bad lines
}

func (t *tally) stored(b *batch, behind int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &t.summary
	s.Lines += int64(b.lines)
	s.Outcomes += int64(len(b.outcomes))
	s.Reports += int64(len(b.reports))
	s.Passed += int64(b.passed)
	s.BadLines += int64(b.bad)
	s.Behind = behind
	if !t.waiting.IsZero() {
		t.sayLocked(fmt.Sprintf("Weir takes it again, after %v.", time.Since(t.waiting).Round(time.Second)))
		t.waiting = time.Time{}
	}
}

func (t *tally) isBehind(behind int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.summary.Behind = behind
}

// waits says why Weir could not be told, once.
func (t *tally) waits(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting.IsZero() {
		t.waiting = time.Now()
		t.sayLocked(fmt.Sprintf("Weir cannot be told, so the log waits where it is: %s", why(err)))
	}
}

// why says in a person's words what is usually wrong.
func why(err error) string {
	switch {
	case errors.Is(err, nats.ErrReconnectBufExceeded): // nothing is held back, see package bus
		return "there is no connection to NATS"
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("NATS has not answered for %v", storeTimeout)
	}
	return err.Error()
}

// warn says what is lost.
func (t *tally) warn(what string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.summary.Losses++
	t.sayLocked("Lost: " + what)
}

// bad shows a line that could not be read, if it is one of the first.
func (t *tally) bad(line text, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.shown++; t.shown > maxShown {
		return
	}
	said := fmt.Sprintf("Bad line at byte %d: %v", line.at, err)
	if bad, ok := errors.AsType[*accesslog.LineError](err); ok {
		said = fmt.Sprintf("Bad line at byte %d: %v\n  %s", line.at, bad.Err, bad.Text)
	}
	if t.shown == maxShown {
		said += "\nFurther bad lines are only counted."
	}
	t.sayLocked(said)
}

// speakTo says who is told.
func (t *tally) speakTo(w io.Writer) {
	t.out = w
	if file, ok := w.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		t.terminal = file
	}
}

func (t *tally) say(lines string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sayLocked(lines)
}

// sayLocked prints lines above the status.
func (t *tally) sayLocked(lines string) {
	switch {
	case t.out == nil:
	case t.terminal != nil:
		fmt.Fprintf(t.out, "\r\x1b[K%s\n%s", lines, t.status)
	default:
		fmt.Fprintln(t.out, lines)
	}
}

// show tells Progress how it goes until stop is called, which waits for the last
// word.
func (t *tail) show() (stop func()) {
	t.say(t.begins())
	every := lineEvery
	if t.terminal != nil {
		every = statusEvery
	}
	over := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		last, at, rate := int64(0), t.start, 0.0
		for {
			select {
			case now := <-ticker.C:
				lines := t.sofar().Lines
				if since := now.Sub(at); since >= time.Second || t.terminal == nil {
					rate = float64(lines-last) / since.Seconds()
					if lines == last && t.terminal == nil {
						at = now
						continue // no news
					}
					last, at = lines, now
				}
				t.tellStatus(rate)
			case <-over:
				t.finish()
				return
			}
		}
	})
	return func() {
		close(over)
		done.Wait()
	}
}

// begins says where it begins.
func (t *tail) begins() string {
	where := "which is not there yet"
	if own := t.log.own; own != nil {
		where = fmt.Sprintf("from byte %d", own.Offset)
	}
	if n := t.log.behind(); n > 0 {
		where += fmt.Sprintf(", %s to read", size(n))
	}
	return fmt.Sprintf("Following %s, %s; Ctrl-C ends it, and the next start goes on from there.", t.Log, where)
}

func (t *tail) sofar() Summary {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.summary
}

func (t *tail) tellStatus(rate float64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &t.summary
	t.status = fmt.Sprintf("%d lines: %d outcomes, %d reports, %d bad; %.0f/s, %s behind", s.Lines, s.Outcomes, s.Reports, s.BadLines, rate, size(s.Behind))
	if !t.waiting.IsZero() {
		t.status += fmt.Sprintf("; waiting for Weir for %v", time.Since(t.waiting).Round(time.Second))
	}
	switch {
	case t.out == nil:
	case t.terminal != nil:
		// A line that is broken in two could not be written over.
		if width, _, err := term.GetSize(int(t.terminal.Fd())); err == nil && width > 0 {
			t.status = t.status[:min(len(t.status), width-1)]
		}
		fmt.Fprintf(t.out, "\r\x1b[K%s", t.status)
	default:
		fmt.Fprintln(t.out, t.status)
	}
}

// finish takes the status away, of which the summary will speak.
func (t *tail) finish() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.summary.Took = time.Since(t.start)
	if t.terminal != nil {
		fmt.Fprint(t.out, "\r\x1b[K")
	}
}

// size is a number of bytes for a person.
func size(n int64) string {
	const unit = 1000
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	f, suffix := float64(n)/unit, 0
	for f >= unit && suffix < 3 {
		f, suffix = f/unit, suffix+1
	}
	return fmt.Sprintf("%.1f %cB", f, "kMGT"[suffix])
}

// Print prints the summary as a table.
func (s *Summary) Print(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(name string, n int64) { fmt.Fprintf(table, "%s\t%d\t\n", name, n) }
	some := func(name string, n int64) {
		if n > 0 {
			row(name, n)
		}
	}
	row("lines", s.Lines)
	row("outcomes", s.Outcomes)
	row("reports", s.Reports)
	some("of them let through", s.Passed)
	row("bad lines", s.BadLines)
	some("lost files", s.Losses)
	if s.Behind > 0 {
		fmt.Fprintf(table, "not read yet\t%s\t\n", size(s.Behind))
	}
	fmt.Fprintf(table, "duration\t%s\t\n", s.Took.Round(time.Millisecond))
	return table.Flush()
}
