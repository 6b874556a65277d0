package testenv

import (
	"os/exec"
	"syscall"
)

// dieWithUs has cmd killed when the thread that starts it ends.
func dieWithUs(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
