package gateway_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/limiter/limitertest"
	"github.com/weirhq/weir/internal/testenv"
)

func TestExplain(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	limitertest.Start(t, testenv.Connect(t, url))
	c := connect(t, testenv.Connect(t, url), gateway.Config{Timeout: 10 * time.Second})
	r := gateway.Request{Tenant: "acme", User: "42", Method: "GET", Cost: 200}
	if _, err := c.Check(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		x, err := c.Explain(t.Context(), r)
		if err != nil || x.Decision.Verdict != gateway.Deny || x.Decision.ID != "" || len(x.Rules) != 1 || x.Rules[0].Charge.Used != 200 || x.Rules[0].Charge.RetryAfterMS == 0 {
			t.Fatalf("%+v, %v", x, err)
		}
	}
	if _, err := c.Explain(t.Context(), gateway.Request{Tenant: "a b"}); err == nil || !strings.HasPrefix(err.Error(), "tenant: want") {
		t.Errorf("a wrong request: %v", err)
	}
}

func TestCommand(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	limitertest.Start(t, testenv.Connect(t, url))
	c := connect(t, testenv.Connect(t, url), gateway.Config{Timeout: 10 * time.Second})
	override := gateway.Command{Kind: gateway.Override, Rule: "per-minute", Key: []string{"42"}, Limit: "1/min", Until: time.Now().Add(time.Hour), By: "ann"}
	list, err := c.Command(t.Context(), "acme", override)
	if err != nil || len(list) != 1 || list[0].Limit != 1 || list[0].Block != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, want := range []gateway.Verdict{gateway.Allow, gateway.Deny} {
		if d, err := c.Check(t.Context(), gateway.Request{Tenant: "acme", User: "42"}); err != nil || d.Verdict != want || d.Limit != 1 {
			t.Errorf("%+v, %v; want %s", d, err, want)
		}
	}
	if list, err := c.Command(t.Context(), "acme", gateway.Command{Kind: gateway.List}); err != nil || len(list) != 1 || list[0].By != "ann" {
		t.Errorf("in force %+v, %v", list, err)
	}
	_, err = c.Command(t.Context(), "acme", gateway.Command{Kind: gateway.Reset, Rule: "x", Key: []string{"42"}, By: "ann"})
	if refused, ok := errors.AsType[*gateway.RefusedError](err); !ok || refused.Status != 400 || err.Error() != `rule: want a rule of the tenant's: per-minute, found "x"` {
		t.Errorf("a wrong command: %v", err)
	}
}

// A command that finds no limiter waits for one, and is done once.
func TestCommandWaits(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	nc := testenv.Connect(t, url)
	c := connect(t, nc, gateway.Config{Shards: 1})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	reset := gateway.Command{Kind: gateway.Reset, Rule: "per-minute", Key: []string{"42"}, By: "ann"}
	if _, err := c.Command(ctx, "acme", reset); err == nil || !strings.HasPrefix(err.Error(), "no limiter has answered (is one running?): ") {
		t.Errorf("without a limiter: %v", err)
	}
	answer := make(chan error, 1)
	go func() {
		_, err := c.Command(t.Context(), "acme", reset)
		answer <- err
	}()
	limitertest.Start(t, testenv.Connect(t, url))
	if err := <-answer; err != nil {
		t.Error(err)
	}
	if all := limitertest.Records(t, nc); len(all) != 1 || all[0].Control == nil || all[0].Control.Kind != events.ControlReset {
		t.Errorf("records %+v", all)
	}
}
