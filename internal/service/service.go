// Package service is the frame that programs run in: signals and the exit
// status, flags and the environment, logs and metrics.
package service

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Main runs a program and ends the process. The first signal ends run's
// context, so that it drains; a second one kills.
func Main(name string, run func(ctx context.Context, args []string) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1) // nowhere else: run's defers are done
	}
}

// Parse reads flags, a pointer to a struct with kong's tags: arguments go
// before the environment, and that before the defaults.
func Parse(flags any, name, about string, args []string) error {
	parser, err := kong.New(flags, kong.Name(name), kong.Description(about))
	if err != nil {
		return err
	}
	if _, err := parser.Parse(args); err != nil {
		return fmt.Errorf("%w (see '%s --help')", err, name)
	}
	return nil
}

// Observe returns where a service logs, as JSON lines on standard error, and
// the metrics of its process, to which it adds its own.
func Observe() (*zap.Logger, *prometheus.Registry, error) {
	config := zap.NewProductionConfig()
	config.EncoderConfig.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	config.DisableStacktrace = true // what goes wrong is the world's doing, and told in full
	log, err := config.Build()
	return log, Registry(), err
}

// Registry returns the metrics of this process.
func Registry() *prometheus.Registry {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return registry
}
