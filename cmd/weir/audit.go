package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/audit"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/shards"
)

type auditCommand struct {
	dataFlag
	natsFlags
	postgresFlags
	Wait time.Duration `help:"How long the writer may take to store what the journal holds now; 0 tells its lag and goes on." default:"30s"`
	JSON bool          `help:"Print the report as JSON." name:"json"`
}

// Run audits and fails when anything is off.
func (c *auditCommand) Run(ctx context.Context, out console) error {
	db, err := c.open(ctx, c.dataFlag)
	if err != nil {
		return err
	}
	defer db.Close()
	nc, err := c.connect(ctx, c.dataFlag)
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	names := events.Names{Prefix: c.Prefix}
	number, err := shards.Find(ctx, js, names, c.Shards)
	if err != nil {
		return err
	}
	if number == 0 {
		return errors.New("audit: no limiter has said yet how many shards there are: say --shards N")
	}
	report, err := audit.Run(ctx, audit.Options{
		DB: db, JetStream: js, Names: names, Shards: number, Wait: c.Wait,
	})
	if err != nil {
		return err
	}
	if c.JSON {
		text, err := json.MarshalIndent(report, "", "  ")
		if err != nil {
			return err
		}
		fmt.Fprintf(out.out, "%s\n", text)
	} else {
		fmt.Fprint(out.out, report.String())
	}
	if !report.OK() {
		return errors.New("audit: what is stored is not as promised")
	}
	return nil
}
