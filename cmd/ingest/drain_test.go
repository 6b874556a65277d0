package main

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/testenv"
)

// TestChecksUnderWayAreAnswered stops the service while checks wait for their
// decisions, and decides them only then.
func TestChecksUnderWayAreAnswered(t *testing.T) {
	url := testenv.NATS(t)
	nc := testenv.Connect(t, url)
	names := events.Names{Prefix: events.DefaultPrefix}
	const checks = 20
	asked := make(chan *nats.Msg, 100*checks)
	if _, err := nc.ChanSubscribe(names.Checks(0), asked); err != nil {
		t.Fatal(err)
	}
	addr := testenv.FreeAddr(t)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() {
		ended <- run(ctx, []string{"--nats", url, "--shards", "1", "--timeout", "10s", "--http-addr", addr, "--grpc-addr", "127.0.0.1:0"})
	}()
	testenv.Eventually(t, 10*time.Second, func() error { return ready(addr) })

	answered := make(chan string, checks)
	for range checks {
		go func() {
			resp, err := http.Post("http://"+addr+"/v1/check", "application/json", strings.NewReader(`{"tenant":"acme"}`))
			if err != nil {
				answered <- err.Error()
				return
			}
			answered <- resp.Status
			resp.Body.Close()
		}()
	}
	waiting := make(map[string]*nats.Msg, checks) // by id: who waits for long asks again
	for len(waiting) < checks {
		m := <-asked
		r, err := events.DecodeRequest(m.Data, true)
		if err != nil {
			t.Fatal(err)
		}
		waiting[r.ID] = m
	}
	stop()
	testenv.Eventually(t, 10*time.Second, func() error { // nothing new is taken
		if ready(addr) == nil {
			return errors.New("still ready")
		}
		return nil
	})
	for id, m := range waiting {
		from, err := names.ParseOrigin(m.Subject)
		if err != nil {
			t.Fatal(err)
		}
		d := events.Decision{ID: id, Verdict: events.Deny, Reason: events.ReasonRule, Rule: "r", RetryAfterMS: 1}
		if err := nc.Publish(names.Decision(d.Verdict, from.Tenant, from.Gateway), events.AppendDecision(nil, &d)); err != nil {
			t.Fatal(err)
		}
	}
	for range checks {
		if got := <-answered; got != "429 Too Many Requests" {
			t.Errorf("answered %s", got)
		}
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
