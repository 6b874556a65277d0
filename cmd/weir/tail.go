package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/accesslog"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/tail"
)

type tailCommand struct {
	dataFlag
	natsFlags
	Log         string `arg:"" help:"Access log, in the combined format or as JSON lines; it may be rotated, and need not be there yet." type:"path"`
	State       string `help:"File that remembers how far the log has been read; default: beside the log, with .weir at its end." env:"WEIR_STATE" type:"path"`
	FromStart   bool   `help:"Where nothing is remembered, begin at the log's beginning; else only what is written from now on counts."`
	Tenant      string `help:"Whose requests they are, where the log does not say." default:"default" env:"WEIR_TENANT"`
	TenantField string `help:"JSON field that says whose a request is; what a tenant's name cannot have becomes -. Default: weir_tenant."`
	User        string `help:"JSON field that says who makes a request; default: remote_user and the like." placeholder:"FIELD"`
	Gateway     string `help:"Name of this process among all gateways; default: made of the host's name." env:"WEIR_GATEWAY"`
}

// Run follows the log until it is told to stop, and prints a summary.
func (c *tailCommand) Run(ctx context.Context, out console) error {
	name := c.Gateway
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("--gateway: %w", err)
		}
		name = events.Token("tail-" + host)
	}
	nc, err := c.connect(ctx, c.dataFlag)
	if err != nil {
		return err
	}
	defer nc.Close()
	client, err := gateway.Connect(nc, gateway.Config{Name: name, Prefix: c.Prefix, Shards: c.Shards})
	if err != nil {
		return err
	}
	summary, err := tail.Run(ctx, client, tail.Options{
		Log: c.Log, Gateway: name, State: cmp.Or(c.State, c.Log+".weir"), FromStart: c.FromStart, Tenant: c.Tenant,
		Fields: accesslog.Fields{User: c.User, Tenant: c.TenantField}, Progress: out.err,
	})
	err = errors.Join(err, client.Close())
	if summary.Took == time.Duration(0) {
		return err // it did not begin
	}
	return errors.Join(summary.Print(out.out), err)
}
