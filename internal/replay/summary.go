package replay

import (
	"fmt"
	"io"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/weirhq/weir/internal/events"
)

// maxShown bounds the bad lines and the refusals that a summary shows.
const maxShown = 10

// Summary is what came of a replay.
type Summary struct {
	Read     int64         `json:"read"`     // requests in the logs
	Requests int64         `json:"requests"` // sent and answered in whatever way
	Allowed  int64         `json:"allowed"`
	Denied   int64         `json:"denied"`
	Exempt   int64         `json:"exempt"`   // among those allowed
	NoRule   int64         `json:"no_rule"`  // among those allowed
	Reported int64         `json:"reported"` // stored as reports; decided later
	Timeouts int64         `json:"timeouts"` // no decision in time; neither allowed nor denied
	Errors   int64         `json:"errors"`   // refused
	BadLines int64         `json:"bad_lines"`
	Bad      []BadLine     `json:"bad,omitempty"`     // the first ten
	Refusals []string      `json:"refused,omitempty"` // why, of the first ten
	Took     time.Duration `json:"took_ns"`
	Rate     float64       `json:"rate"` // requests a second
}

// BadLine is a line that could not be read as a request.
type BadLine struct {
	File   string `json:"file"`
	Line   int    `json:"line"` // from 1
	Text   string `json:"text"` // cut
	Reason string `json:"reason"`
}

func (s *Summary) bad(line BadLine) {
	if s.BadLines++; len(s.Bad) < maxShown {
		s.Bad = append(s.Bad, line)
	}
}

// outcome is what a request that was not refused came to.
type outcome struct {
	decision events.Decision
	reported bool
}

// tally counts what becomes of requests.
type tally struct {
	mu      sync.Mutex // guards summary while requests are sent
	summary Summary
}

func (t *tally) add(o outcome) {
	s := &t.summary
	s.Requests++
	switch d := &o.decision; {
	case o.reported:
		s.Reported++
	case d.Reason == events.ReasonTimeout:
		s.Timeouts++
	case d.Verdict == events.Deny:
		s.Denied++
	default:
		s.Allowed++
		switch d.Reason {
		case events.ReasonExempt:
			s.Exempt++
		case events.ReasonNoRule:
			s.NoRule++
		}
	}
}

func (t *tally) refuse(err error) {
	s := &t.summary
	s.Requests++
	if s.Errors++; len(s.Refusals) < maxShown {
		s.Refusals = append(s.Refusals, err.Error())
	}
}

func (t *tally) took(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.summary.Took = d
	if d > 0 {
		t.summary.Rate = float64(t.summary.Requests) / d.Seconds()
	}
}

// count takes the outcome of one request, or why it has none. The error is one
// that ends the replay.
func (r *run) count(o outcome, err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case refused(err):
		r.refuse(err)
	case err != nil:
		return err
	default:
		r.add(o)
	}
	if s := &r.summary; s.Timeouts == s.Requests && s.Timeouts >= 2*int64(r.InFlight) {
		return ErrNobody
	}
	return nil
}

// Print prints the summary as a table, and the first of the bad lines and
// refusals.
func (s *Summary) Print(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := func(name string, n int64, note string) { fmt.Fprintf(table, "%s\t%d\t%s\n", name, n, note) }
	some := func(name string, n int64) {
		if n > 0 {
			row(name, n, "")
		}
	}
	row("requests", s.Requests, "")
	some("not sent", s.Read-s.Requests)
	if s.Reported > 0 {
		row("reported", s.Reported, "")
	} else {
		row("allowed", s.Allowed, "")
		some("of them exempt", s.Exempt)
		some("of them without a rule", s.NoRule)
		row("denied", s.Denied, " "+s.share())
		row("timeouts", s.Timeouts, "")
	}
	row("errors", s.Errors, "")
	row("bad lines", s.BadLines, "")
	fmt.Fprintf(table, "duration\t%s\t\n", s.Took.Round(time.Millisecond))
	fmt.Fprintf(table, "rate\t%.0f/s\t\n", s.Rate)
	if err := table.Flush(); err != nil {
		return err
	}
	if len(s.Bad) > 0 {
		fmt.Fprintf(w, "\nbad lines, the first %d:\n", len(s.Bad))
	}
	for _, b := range s.Bad {
		fmt.Fprintf(w, "  %s:%d: %s\n    %s\n", b.File, b.Line, b.Reason, b.Text)
	}
	if len(s.Refusals) > 0 {
		fmt.Fprintf(w, "\nerrors, the first %d:\n", len(s.Refusals))
	}
	for _, text := range s.Refusals {
		fmt.Fprintf(w, "  %s\n", text)
	}
	return nil
}

// share is the part of those decided that was denied.
func (s *Summary) share() string {
	decided := s.Allowed + s.Denied
	if decided == 0 {
		return ""
	}
	return fmt.Sprintf("(%.1f%%)", 100*float64(s.Denied)/float64(decided))
}
