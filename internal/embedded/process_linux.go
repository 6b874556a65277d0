package embedded

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// inherited is the directory that a Postgres program got as its descriptor 3.
const inherited = "/proc/self/fd/3"

// bind ties cmd to our life: signal comes when the thread that started it ends.
// The kernel forgets that when a program changes its user afterwards, so cmd's
// Credential must be set here and not by a wrapper like su. A session of its own
// keeps a terminal's Ctrl-C from ending the server before those who use it.
func bind(cmd *exec.Cmd, signal syscall.Signal) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
	cmd.SysProcAttr.Pdeathsig = signal
}

// handOver gives cmd the directory dir and returns the path by which it, and
// every process it starts, reaches it.
//
// Started as root, the server runs as another user, who may not be allowed to
// look into a parent of dir (a checkout under /root, a temporary directory of
// mode 0700). So we open dir and the server inherits the descriptor: a path
// through it asks nothing of the parents, and neither mounts nor capabilities
// are needed. The working directory will not do: Postgres up to 15 leaves it and
// comes back by its absolute path when it looks for its own program.
func handOver(cmd *exec.Cmd, dir string) (path string, opened *os.File, err error) {
	opened, err = os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	cmd.Dir = "/"
	cmd.ExtraFiles = []*os.File{opened}
	return inherited, opened, nil
}

// running tells whether the process lives and whether it is a Postgres server;
// ours tells that its data directory is data, as far as we may look.
func running(pid int, data string) (alive, postgres, ours bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false, false, false
	}
	// "12 (postgres) S 1 …"; a name may hold spaces and parentheses itself.
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open || len(stat) < end+3 || stat[end+2] == 'Z' || stat[end+2] == 'X' {
		return false, false, false
	}
	name := filepath.Base(string(stat[open+1 : end]))
	at, err := os.Stat(fmt.Sprintf("/proc/%d/cwd", pid))
	if err == nil {
		here, err := os.Stat(data)
		ours = err == nil && os.SameFile(at, here)
	}
	return true, name == "postgres" || name == "postmaster", ours
}
