package tail_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

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
