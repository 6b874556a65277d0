package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/weirhq/weir/internal/load"
)

type benchCommand struct {
	dataFlag
	natsFlags
	InFlight []int         `help:"Requests under way at once; one run for each." default:"1,64,256" placeholder:"N"`
	Duration time.Duration `help:"How long each run lasts." default:"5s"`
	Requests int64         `help:"Requests of each run at most; 0 for no such bound." default:"0"`
	Rate     float64       `help:"Requests a second; 0 for as many as possible." default:"0"`
	Tenant   string        `help:"Whose limits apply." default:"bench"`
	Keys     int           `help:"Number of different users." default:"10000"`
	Zipf     float64       `help:"Above 1: few users ask much, the more so the larger; 0: all the same." default:"0"`
	Timeout  time.Duration `help:"How long to wait for a decision." default:"5s"`
	JSON     bool          `help:"Print the results as JSON." name:"json"`
}

// Run measures a running system and prints what it found.
func (c *benchCommand) Run(ctx context.Context, out console) error {
	client, err := c.client(ctx, c.dataFlag, c.Timeout)
	if err != nil {
		return err
	}
	results, err := c.measure(ctx, client)
	if err = errors.Join(err, client.Close()); err != nil {
		return err
	}
	if c.JSON {
		text, err := json.Marshal(results)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out.out, "%s\n", text)
		return err
	}
	return load.Print(out.out, results...)
}

func (c *benchCommand) measure(ctx context.Context, client *client) ([]load.Result, error) {
	var results []load.Result
	for _, n := range c.InFlight {
		r, err := load.Run(ctx, client, load.Config{
			InFlight: n, Requests: c.Requests, Duration: c.Duration, Rate: c.Rate, Tenant: c.Tenant, Keys: c.Keys, Zipf: c.Zipf,
		})
		if err != nil {
			return nil, err
		}
		if r.Requests == 0 {
			break // told to stop
		}
		results = append(results, r)
	}
	return results, nil
}
