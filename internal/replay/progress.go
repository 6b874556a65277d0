package replay

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

const (
	barEvery  = 200 * time.Millisecond
	lineEvery = 5 * time.Second
)

// show tells Progress how far the replay is until stop is called, which waits
// for the last word.
func (r *run) show() (stop func()) {
	if r.Progress == nil {
		return func() {}
	}
	every, tell := lineEvery, r.line
	if terminal(r.Progress) {
		bar := progressbar.NewOptions64(r.summary.Read,
			progressbar.OptionSetWriter(r.Progress), progressbar.OptionShowCount(), progressbar.OptionSetWidth(30),
			progressbar.OptionThrottle(barEvery/2), progressbar.OptionUseANSICodes(true), progressbar.OptionShowDescriptionAtLineEnd())
		every, tell = barEvery, func(s Summary, last bool) { draw(bar, s, last, r.Progress) }
	}
	over := make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() {
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				tell(r.sofar(), false)
			case <-over:
				tell(r.sofar(), true)
				return
			}
		}
	})
	return func() {
		close(over)
		done.Wait()
	}
}

// sofar is the summary of what is done.
func (r *run) sofar() Summary {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.summary
	if s.Took == 0 {
		s.Rate = float64(s.Requests) / time.Since(r.start).Seconds()
	}
	return s
}

func terminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	return ok && term.IsTerminal(int(file.Fd()))
}

// line tells with one line, which a summary makes needless at the end.
func (r *run) line(s Summary, last bool) {
	if !last {
		fmt.Fprintf(r.Progress, "%d of %d requests, %s\n", s.Requests, s.Read, s.pace())
	}
}

// draw tells with a bar.
func draw(bar *progressbar.ProgressBar, s Summary, last bool, w io.Writer) {
	bar.Describe(s.pace())
	_ = bar.Set64(s.Requests) // a terminal that is gone needs no bar
	if last {
		_ = bar.Exit()
		fmt.Fprintln(w)
	}
}

// pace is the rate, what is denied, and what went wrong.
func (s *Summary) pace() string {
	text := fmt.Sprintf("%.0f/s", s.Rate)
	if share := s.share(); share != "" {
		text += ", denied " + share[1:len(share)-1]
	}
	if s.Timeouts > 0 {
		text += fmt.Sprintf(", %d timeouts", s.Timeouts)
	}
	return text + fmt.Sprintf(", %d errors", s.Errors)
}
