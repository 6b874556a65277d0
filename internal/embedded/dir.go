// Package embedded runs what `weir up` needs besides Weir itself: a NATS server
// in this process and a private Postgres cluster from the binaries installed on
// the machine. Both listen on loopback only and end with the process.
package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// layout names what a data directory holds and where. A change that an older
// or newer program could not read counts it up.
const layout = "1"

const (
	lockName   = "lock"
	layoutName = "VERSION"
)

// Dir is a data directory that no other process uses meanwhile.
type Dir struct {
	path string
	lock *os.File
}

// OpenDir takes the data directory at path, which it makes if it is missing. It
// refuses one that is in use, that cannot be written, that has another layout,
// or that holds files of something else.
func OpenDir(path string) (*Dir, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	lock, err := lockDir(path)
	if err != nil {
		return nil, err
	}
	if err := checkLayout(path); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &Dir{path: path, lock: lock}, nil
}

// Path returns the absolute path of name in the directory.
func (d *Dir) Path(name string) string { return filepath.Join(d.path, name) }

// Close lets others take the directory.
func (d *Dir) Close() error { return d.lock.Close() }

// lockDir makes the directory if it is missing and locks it until the returned
// file is closed or the process ends, however it ends.
func lockDir(path string) (*os.File, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, unwritable(path, err)
	}
	lock, err := os.OpenFile(filepath.Join(path, lockName), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, unwritable(path, err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = fmt.Errorf("data directory %s is in use by process %s: stop that one or choose another directory", path, holder(lock))
		} else {
			err = fmt.Errorf("lock data directory %s: %w", path, err)
		}
		return nil, errors.Join(err, lock.Close())
	}
	err = lock.Truncate(0)
	if err == nil {
		_, err = lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		return nil, errors.Join(unwritable(path, err), lock.Close())
	}
	return lock, nil
}

// holder reads who wrote the lock file.
func holder(lock *os.File) string {
	text := make([]byte, 20)
	n, _ := lock.ReadAt(text, 0) // also at its end: the file is shorter
	if pid := strings.TrimSpace(string(text[:n])); pid != "" {
		return pid
	}
	return "(starting)"
}

func checkLayout(path string) error {
	file := filepath.Join(path, layoutName)
	found, err := os.ReadFile(file)
	if err == nil {
		if got := strings.TrimSpace(string(found)); got != layout {
			return fmt.Errorf("data directory %s has layout %q, this program reads layout %q: use the version of weir that made it, or choose another directory", path, got, layout)
		}
		return nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("data directory %s: %w", path, err)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("data directory %s: %w", path, err)
	}
	for _, entry := range entries {
		if name := entry.Name(); name != lockName && name != layoutName+".new" {
			return fmt.Errorf("data directory %s holds %s but no %s file, so it is not one of weir: choose another directory", path, name, layoutName)
		}
	}
	// Renamed into place, so that a crash leaves no empty file behind.
	if err := os.WriteFile(file+".new", []byte(layout+"\n"), 0o600); err != nil {
		return unwritable(path, err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		return unwritable(path, err)
	}
	return nil
}

func unwritable(path string, err error) error {
	return fmt.Errorf("data directory %s cannot be written by user %d: choose another or give it to that user: %w", path, os.Geteuid(), err)
}

// AddressError says what is wrong with the address that a server was to have.
type AddressError struct {
	Addr  string // as it was given
	Fault string // what is wrong, or was expected
}

func (e *AddressError) Error() string { return fmt.Sprintf("address %q: %s", e.Addr, e.Fault) }

// loopback splits host:port, refusing a host other machines could reach. The
// name localhost is 127.0.0.1.
func loopback(addr string) (netip.AddrPort, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return netip.AddrPort{}, &AddressError{addr, "want host:port"}
	}
	if host == "localhost" {
		host = "127.0.0.1"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil || !ip.IsLoopback() {
		return netip.AddrPort{}, &AddressError{addr, "want a loopback host, for example 127.0.0.1"}
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, &AddressError{addr, "want a port from 0 to 65535"}
	}
	return netip.AddrPortFrom(ip, uint16(number)), nil
}

// free returns addr with a port that was free just now.
func free(ctx context.Context, addr netip.AddrPort) (netip.AddrPort, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", addr.String())
	if errors.Is(err, syscall.EADDRINUSE) {
		return addr, &AddressError{addr.String(), "it is taken by another program: stop that one or choose another port"}
	}
	if err != nil {
		return addr, fmt.Errorf("address %s: %w", addr, err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	return netip.AddrPortFrom(addr.Addr(), uint16(port)), listener.Close()
}
