package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/weirhq/weir/internal/replay"
)

type replayCommand struct {
	dataFlag
	natsFlags
	Files    []string      `arg:"" name:"log" help:"Access logs, in the combined format or as JSON lines, gzip too; - is the standard input."`
	As       string        `help:"Send the requests as checks, or as reports." enum:"checks,reports" default:"checks"`
	Speed    float64       `help:"Factor of the log's own pace: 1 is as it was, 10 ten times as fast; 0 is as fast as possible." default:"0"`
	Tenant   string        `help:"Whose requests they are." default:"default"`
	InFlight int           `help:"Requests under way at once." default:"64"`
	Timeout  time.Duration `help:"How long a check waits for its decision." default:"5s"`
	JSON     bool          `help:"Print the summary as JSON." name:"json"`
}

// Run replays the logs and prints a summary, also when it is cut short.
func (c *replayCommand) Run(ctx context.Context, out console) error {
	client, err := c.client(ctx, c.dataFlag, c.Timeout)
	if err != nil {
		return err
	}
	summary, err := replay.Run(ctx, client, replay.Options{
		Files: c.Files, Tenant: c.Tenant, Reports: c.As == "reports", Speed: c.Speed, InFlight: c.InFlight, Progress: out.err,
	})
	err = errors.Join(err, client.Close())
	if summary.Read == 0 && summary.BadLines == 0 {
		return err // it did not begin
	}
	return errors.Join(c.print(out, &summary), err)
}

func (c *replayCommand) print(out console, summary *replay.Summary) error {
	if !c.JSON {
		return summary.Print(out.out)
	}
	text, err := json.Marshal(summary)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(out.out, "%s\n", text)
	return err
}
