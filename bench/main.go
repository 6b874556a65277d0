// Bench measures Weir against the bare parts it is made of, and against other
// limiters, side by side in one run: checks against a NATS echo of the same
// messages, the whole of it against Envoy's rate limit service, the writer against
// COPY of the same rows, windows against theirs in the process and on Redis. What
// counts are the ratios; the figures beside them belong to the machine and to what
// else it was doing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// options bound a run.
type options struct {
	json     bool
	serve    string        // directory of the Weir that this process then is
	rounds   int           // of each measurement; the median is reported
	duration time.Duration // of one run of checks, echoes or decisions on Redis
	records  int           // in the journal that the writer copies, and a limiter recovers from
	keys     int           // of the windows in memory
}

// measurements are made in this order. Each adds what it found to the report, and
// may use a directory.
var measurements = []func(ctx context.Context, dir string, o options, r *report, progress func(string, ...any)) error{
	checks, setups, services, writes, visible, recovery, windowsInMemory, keys, windowsOnRedis,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the first signal ends in order, a second kills
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) // nowhere else: run's defers are done
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if o.serve != "" {
		return serveWeir(ctx, o.serve)
	}
	dir, err := os.MkdirTemp("", "weir-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // a directory for temporary files
	r := report{Machine: describe()}
	progress := func(format string, args ...any) { fmt.Fprintf(stderr, format+"\n", args...) }
	for _, measure := range measurements {
		if err := measure(ctx, dir, o, &r, progress); err != nil {
			return err
		}
	}
	r.Machine.LoadAfter = load()
	if o.json {
		return r.writeJSON(stdout)
	}
	return r.writeTables(stdout)
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.BoolVar(&o.json, "json", false, "print JSON")
	flags.StringVar(&o.serve, "serve", "", "directory to serve Weir from, as a run of bench has another process of it do, instead of measuring")
	flags.IntVar(&o.rounds, "rounds", 5, "rounds of each measurement, of which the median is reported")
	flags.DurationVar(&o.duration, "duration", 2*time.Second, "length of one run of checks, echoes or decisions on Redis")
	flags.IntVar(&o.records, "records", 256_000, "records in the journal that the writer copies; recovery is of ten times as many")
	flags.IntVar(&o.keys, "keys", 1_000_000, "keys of the windows in memory, at most")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	var faults []error
	fault := func(wrong bool, name, want string, found any) {
		if wrong {
			faults = append(faults, fmt.Errorf("-%s: want %s, found %v", name, want, found))
		}
	}
	fault(flags.NArg() > 0, "help", "no arguments but flags", flags.Args())
	fault(o.rounds < 1 || o.rounds > 100, "rounds", "1 to 100", o.rounds)
	fault(o.duration < 10*time.Millisecond || o.duration > time.Minute, "duration", "10ms to 1m", o.duration)
	fault(o.records < 1 || o.records > 10_000_000, "records", "1 to 10000000", o.records)
	fault(o.keys < 1000 || o.keys > 10_000_000, "keys", "1000 to 10000000", o.keys)
	return o, errors.Join(faults...)
}
