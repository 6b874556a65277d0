//go:build unix && !linux

package embedded

import (
	"os"
	"os/exec"
	"syscall"
)

// bind keeps a terminal's Ctrl-C from ending the server before those who use
// it. A kill -9 of ours leaves it running; the next start says so.
func bind(cmd *exec.Cmd, _ syscall.Signal) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setsid = true
}

func handOver(_ *exec.Cmd, dir string) (path string, opened *os.File, err error) {
	opened, err = os.Open(dir)
	return dir, opened, err
}

func running(pid int, _ string) (alive, postgres, ours bool) {
	alive = syscall.Kill(pid, 0) == nil
	return alive, alive, false
}
