// Weir is one binary for trying, operating and scripting: it runs the whole
// system, sends it requests, and asks what became of them.
package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/alecthomas/kong"

	"github.com/weirhq/weir/internal/service"
)

// commands is the command line. Flags go before the environment, and that
// before the defaults.
type commands struct {
	Up       upCommand       `cmd:"" help:"Run everything in one process: NATS, Postgres, ingest, limiter and writer."`
	Check    checkCommand    `cmd:"" help:"Ask for one decision."`
	Backtest backtestCommand `cmd:"" help:"Tell what a policy would have done to access logs, or to what is recorded."`
	Suggest  suggestCommand  `cmd:"" help:"Find limits that would have denied few, from what is recorded."`
	Replay   replayCommand   `cmd:"" help:"Send the requests of access logs through a running system."`
	Tail     tailCommand     `cmd:"" help:"Follow an access log, and tell of its requests and what became of them."`
	Query    queryCommand    `cmd:"" help:"Ask about the stored requests."`
	Audit    auditCommand    `cmd:"" help:"Prove over what is stored that the limits held and that nothing is lost."`
	Reset    resetCommand    `cmd:"" help:"Give a key all of its limit again, now."`
	Override overrideCommand `cmd:"" help:"Give a key another limit until a time, end that, or list what is in force."`
	Policy   policyCommand   `cmd:"" help:"Check, apply and look at policies."`
	Token    tokenCommand    `cmd:"" help:"Make a token for callers over HTTP and gRPC."`
	Bench    benchCommand    `cmd:"" help:"Measure a running system under load."`
}

// console is where a command reads and prints.
type console struct {
	in       io.Reader
	out, err io.Writer
}

func main() {
	service.Main("weir", func(ctx context.Context, args []string) error {
		return run(ctx, args, console{os.Stdin, os.Stdout, os.Stderr})
	})
}

func run(ctx context.Context, args []string, c console) error {
	var cli commands
	parser, err := kong.New(&cli,
		kong.Name("weir"),
		kong.Description("Exact, durable rate limiting for APIs, with every decision in SQL."),
		kong.Writers(c.out, c.err),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(c),
	)
	if err != nil {
		return err
	}
	command, err := parser.Parse(args)
	if err != nil {
		return fmt.Errorf("%w (see 'weir --help')", err)
	}
	return command.Run()
}
