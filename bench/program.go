package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// watch runs a server until its standard input ends, as it does when this
// process does, however that comes about.
const watch = `"$0" "$@" & cat; kill $! && wait $!`

// startProgram starts a server that reports errors to a writer, with nothing else
// in its environment than what is said.
func startProgram(ctx context.Context, faults io.Writer, environment []string, program string, args ...string) (stop func() error, err error) {
	server := exec.CommandContext(context.WithoutCancel(ctx), "sh", append([]string{"-c", watch, program}, args...)...)
	server.Env = append(environment, "PATH="+os.Getenv("PATH"))
	server.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a terminal's Ctrl-C is for us
	server.Stderr = faults
	input, err := server.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := server.Start(); err != nil {
		return nil, err
	}
	return func() error { return errors.Join(input.Close(), server.Wait()) }, nil
}

// freeAddr returns an address of loopback that nobody listens on.
func freeAddr(ctx context.Context) (host, port string, err error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	host, port, _ = strings.Cut(l.Addr().String(), ":")
	return host, port, l.Close()
}
