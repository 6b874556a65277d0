// Package testenv gives tests real servers and real processes: a NATS server,
// a Postgres database and Redis servers of their own, and the module's programs,
// built. All end with the test that asked for them, or with the test process at the latest.
package testenv

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// stopWithin is how long a program may take to drain.
const stopWithin = 30 * time.Second

var builds struct {
	sync.Mutex // guards the rest

	dir  string
	made map[string]string // package to program
}

// Build builds a program of this module, given by its path from the module's
// root ("./cmd/writer"), once per test process, and returns the program's path.
func Build(tb testing.TB, pkg string) string {
	tb.Helper()
	builds.Lock()
	defer builds.Unlock()
	if program, ok := builds.made[pkg]; ok {
		return program
	}
	if builds.dir == "" {
		builds.dir = processDir(tb)
		builds.made = map[string]string{}
	}
	program := filepath.Join(builds.dir, filepath.Base(pkg))
	cmd := exec.CommandContext(tb.Context(), "go", "build", "-o", program, pkg)
	cmd.Dir = Root(tb)
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	builds.made[pkg] = program
	return program
}

// Root returns the directory of the module's go.mod.
func Root(tb testing.TB) string {
	tb.Helper()
	dir, err := os.Getwd()
	if err != nil {
		tb.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			tb.Fatal("no go.mod in a parent directory")
		}
		dir = parent
	}
}

// Process is a program that a test started.
type Process struct {
	tb   testing.TB
	cmd  *exec.Cmd
	out  output
	done chan struct{} // closed when it has ended
	err  error         // how it ended; read it after done
}

// Start starts a program. It is killed when the test ends; its output is logged
// if the test failed.
func Start(tb testing.TB, program string, args ...string) *Process {
	tb.Helper()
	p := &Process{tb: tb, cmd: exec.Command(program, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.WaitDelay = time.Second // a grandchild may hold the output open
	dieWithUs(p.cmd)
	started := make(chan error, 1)
	go func() { // ends with the child
		runtime.LockOSThread() // and so does the thread, see dieWithUs
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		tb.Fatalf("start %s: %v", program, err)
	}
	tb.Cleanup(func() {
		p.Kill()
		if tb.Failed() {
			tb.Logf("%s %q:\n%s", program, args, p.Output())
		}
	})
	return p
}

// Pid is the process's number.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Output is what it wrote until now, standard output and error together.
func (p *Process) Output() string { return p.out.String() }

// Done is closed when it has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Kill kills it (SIGKILL) and returns when it is gone.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill() // fails only when it has ended
	<-p.done
}

// Stop asks it to end (SIGTERM), waits, and returns how it ended. The test fails
// if it takes longer than 30 seconds.
func (p *Process) Stop() error {
	p.tb.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // fails only when it has ended
	select {
	case <-p.done:
		return p.err
	case <-time.After(stopWithin):
		p.Kill()
		p.tb.Errorf("%s did not end within %s of SIGTERM", p.cmd.Path, stopWithin)
		return errors.New("killed")
	}
}

// output collects what a process writes.
type output struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (o *output) Write(text []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(text)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Eventually fails the test unless condition returns nil within timeout.
func Eventually(tb testing.TB, timeout time.Duration, condition func() error) {
	tb.Helper()
	deadline := time.Now().Add(timeout)
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("not within %s: %v", timeout, err)
		}
		time.Sleep(pause)
	}
}

// processDir makes a directory that goes when the test process ends, however
// it ends: a shell waits for the end of a pipe that only this process holds,
// and removes it. Servers that are on their way out may still write there, so
// it tries for some seconds.
func processDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("", "weir-test-")
	if err != nil {
		tb.Fatal(err)
	}
	const script = `read -r _; for _ in 1 2 3 4 5 6 7 8 9 10; do sleep 0.3; rm -rf "$0" 2>/dev/null && exit; done`
	keeper := exec.Command("sh", "-c", script, dir)
	keeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a terminal's Ctrl-C is for us
	if _, err := keeper.StdinPipe(); err != nil {
		tb.Fatal(err)
	}
	if err := keeper.Start(); err != nil {
		tb.Fatal(err)
	}
	keepers.Lock()
	defer keepers.Unlock()
	keepers.all = append(keepers.all, keeper)
	return dir
}

// keepers keeps their pipes from being closed as garbage.
var keepers struct {
	sync.Mutex // guards all

	all []*exec.Cmd
}
