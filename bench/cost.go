package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// cost is what storing the rows took.
type cost struct {
	took time.Duration
	wal  float64 // bytes of Postgres' log
	cpu  float64 // seconds: of this process, with NATS in it, and of Postgres'
}

// cost measures a run, which returns the time that counts of it.
func (s *stage) cost(ctx context.Context, run func(context.Context) (time.Duration, error)) func() (cost, error) {
	return func() (c cost, err error) {
		before, err := s.spent(ctx)
		if err != nil {
			return c, err
		}
		if c.took, err = run(ctx); err != nil {
			return c, err
		}
		after, err := s.spent(ctx)
		return cost{took: c.took, wal: after.wal - before.wal, cpu: after.cpu - before.cpu}, err
	}
}

// spent is what has been spent by now.
func (s *stage) spent(ctx context.Context) (c cost, err error) {
	var backend int
	if err := s.conn.QueryRow(ctx, `SELECT pg_current_wal_insert_lsn() - '0/0', pg_backend_pid()`).Scan(&c.wal, &backend); err != nil {
		return c, err
	}
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return c, err
	}
	c.cpu = time.Duration(usage.Utime.Nano() + usage.Stime.Nano()).Seconds()
	postmaster, _, err := processTime(backend)
	if err != nil {
		return c, err
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	for _, p := range processes {
		number, _ := strconv.Atoi(filepath.Base(p))
		if parent, spent, err := processTime(number); err == nil && parent == postmaster { // else it has ended
			c.cpu += spent
		}
	}
	return c, err
}

// processTime tells a process's parent and the seconds it has worked, as
// proc(5) has them on Linux.
func processTime(number int) (parent int, spent float64, err error) {
	const ticks = 100 // a second
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", number))
	if err != nil {
		return 0, 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ") // after the name
	var fields [13]string
	if copied := copy(fields[:], strings.Fields(rest)); copied < len(fields) {
		return 0, 0, fmt.Errorf("process %d: unknown stat", number)
	}
	parent, err = strconv.Atoi(fields[1])
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return parent, float64(user+system) / ticks, err
}
