package embedded

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"go.uber.org/zap"
)

// process is a child of this process.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how it ended; read it after done
}

// startProcess starts cmd, which gets signal when this process ends, however
// it ends (Linux).
func startProcess(cmd *exec.Cmd, signal syscall.Signal) (*process, error) {
	bind(cmd, signal)
	cmd.WaitDelay = time.Second // a grandchild may hold the output open
	p := &process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	// This goroutine ends with the child. The kernel counts the end of the
	// thread that started the child as its parent's end, so the goroutine keeps
	// that thread for itself: locked, and never unlocked.
	go func() {
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// within waits for the end, at most that long, and tells whether it came.
func (p *process) within(bound time.Duration) bool {
	select {
	case <-p.done:
		return true
	case <-time.After(bound):
		return false
	}
}

// stop asks the server to end: at once but in order, then without tidying up
// (it recovers at the next start), then not asking.
func (p *process) stop() {
	for _, ask := range []struct {
		signal os.Signal
		within time.Duration
	}{
		{syscall.SIGINT, 30 * time.Second},
		{syscall.SIGQUIT, 5 * time.Second},
		{os.Kill, 5 * time.Second},
	} {
		_ = p.cmd.Process.Signal(ask.signal) // fails only when it has ended
		if p.within(ask.within) {
			return
		}
	}
}

// serverLog takes what a Postgres program writes to stderr: each line goes to
// the log, and the last ones that tell of a fault are kept for an error.
type serverLog struct {
	log *zap.Logger

	mu     sync.Mutex // guards the rest
	part   []byte     // a line whose end has not come
	faults []string   // the last faultsKept
}

const (
	faultsKept = 4
	lineMost   = 8 << 10 // bytes; a longer line is cut in pieces
)

func (l *serverLog) Write(text []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.part = append(l.part, text...)
	for {
		line, rest, ok := bytes.Cut(l.part, []byte("\n"))
		if !ok && len(l.part) < lineMost {
			return len(text), nil
		}
		l.lineLocked(strings.TrimSpace(string(line)))
		l.part = append(l.part[:0], rest...)
	}
}

func (l *serverLog) lineLocked(line string) {
	level, said, ok := strings.Cut(line, ":")
	if said = strings.TrimSpace(said); !ok {
		said = line
	}
	fault := false
	switch level {
	case "FATAL", "PANIC", "initdb", "postgres":
		l.log.Error(said)
		fault = true
	case "ERROR", "WARNING":
		l.log.Warn(said)
		fault = true
	case "LOG":
		l.log.Debug(said)
		// A port that cannot be had comes as a remark before the FATAL.
		fault = strings.HasPrefix(said, "could not ")
	default: // details, hints and second lines of the above
		if line != "" {
			l.log.Debug(line)
		}
	}
	if fault {
		if len(l.faults) == faultsKept {
			l.faults = l.faults[1:]
		}
		l.faults = append(l.faults, said)
	}
}

// said returns the last faults.
func (l *serverLog) said() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.faults) == 0 {
		return "it said nothing"
	}
	return strings.Join(l.faults, "; ")
}
