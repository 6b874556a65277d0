package gateway_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/limiter/limitertest"
	"github.com/weirhq/weir/internal/testenv"
)

// underLimit starts a limiter under one rule of a user's, and a client that counts
// the checks it sends.
func underLimit(t *testing.T, url, limit string) (nc *nats.Conn, c *gateway.Client, sent *atomic.Int64) {
	t.Helper()
	nc = testenv.Connect(t, url)
	revision := apply(t, nc, "version: 1\ntenants: {acme: {rules: [{name: r, key: [user], limit: "+limit+"}]}}\n")
	limitertest.Start(t, nc)
	sent = new(atomic.Int64)
	own := testenv.Connect(t, testenv.Proxy(t, url, func(m testenv.Passing) testenv.Fate {
		if strings.HasPrefix(m.Subject, "weir.check.") {
			sent.Add(1)
		}
		return testenv.Arrives
	}))
	c = connect(t, own, gateway.Config{Timeout: 10 * time.Second})
	testenv.Eventually(t, 10*time.Second, func() error {
		d, err := c.Check(t.Context(), gateway.Request{Tenant: "nobody"})
		if err == nil && d.Policy != revision {
			err = fmt.Errorf("revision %d", d.Policy)
		}
		return err
	})
	return nc, c, sent
}

// check checks a request of a user's and wants a verdict for a reason.
func check(t *testing.T, c *gateway.Client, user string, verdict gateway.Verdict, reason events.Reason) gateway.Decision {
	t.Helper()
	d, err := c.Check(t.Context(), gateway.Request{Tenant: "acme", User: user, Method: "GET", Path: "/"})
	if err != nil || d.Verdict != verdict || d.Reason != reason {
		t.Fatalf("decision %+v, %v; want %s, %s", d, err, verdict, reason)
	}
	return d
}

// denied waits until a user's requests are denied locally: a denial is remembered
// once the client follows the policy that it was given under.
func denied(t *testing.T, c *gateway.Client, user string) {
	t.Helper()
	testenv.Eventually(t, 10*time.Second, func() error {
		d, err := c.Check(t.Context(), gateway.Request{Tenant: "acme", User: user, Method: "GET", Path: "/"})
		if err == nil && d.Reason != events.ReasonLocal {
			err = fmt.Errorf("%+v", d)
		}
		return err
	})
}

// local returns the records of local denials.
func local(t *testing.T, nc *nats.Conn) (list []events.Record) {
	t.Helper()
	for _, r := range limitertest.Records(t, nc) {
		if r.Request.Reason == events.ReasonLocal {
			list = append(list, r)
		}
	}
	return list
}

// A denied client costs no check until it could pass, and then passes.
func TestDeniedLocally(t *testing.T) {
	t.Parallel()
	_, c, sent := underLimit(t, testenv.NATS(t), "2 per 3s")
	denied(t, c, "42")
	before := sent.Load()
	began, n := time.Now(), 0
	for ; ; n++ {
		d, err := c.Check(t.Context(), gateway.Request{Tenant: "acme", User: "42", Method: "GET", Path: "/"})
		if err != nil {
			t.Fatal(err)
		}
		if d.Verdict == gateway.Allow {
			break
		}
		if d.Reason == events.ReasonLocal {
			if d.Rule != "r" || d.Key != "42" || d.Limit != 2 || d.WindowMS != 3000 || d.RetryAfterMS < 1 || d.RetryAfterMS > 3000 || d.ID == "" || d.Cost != 1 {
				t.Fatalf("%+v", d)
			}
		}
		if time.Since(began) > 10*time.Second {
			t.Fatal("denied for more than a window")
		}
	}
	// The last thousandth of the wait and its last millisecond are asked about.
	if asked := sent.Load() - before; n < 10_000 || asked < 1 || asked > 200 {
		t.Errorf("%d denials and %d checks in %v", n, asked, time.Since(began))
	}
}

// What is denied locally is recorded: at most once a second for each key, with
// the count, and nothing is lost when the client ends.
func TestLocalDenialsAreFolded(t *testing.T) {
	t.Parallel()
	nc, c, _ := underLimit(t, testenv.NATS(t), "1/hour")
	for _, user := range []string{"42", "43"} {
		denied(t, c, user)
	}
	began := time.Now()
	counted := map[string]int64{"42": 1, "43": 1} // denied has seen one each
	for time.Since(began) < 2500*time.Millisecond {
		for user := range counted {
			check(t, c, user, gateway.Deny, events.ReasonLocal)
			counted[user]++
		}
	}
	check(t, c, "42", gateway.Deny, events.ReasonLocal)
	counted["42"]++
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	most := int(time.Since(began)/time.Second) + 3 // began within a second, ended within one, closed
	testenv.Eventually(t, 10*time.Second, func() error {
		found, records := map[string]int64{}, map[string]int{}
		for _, r := range local(t, nc) {
			q, d := &r.Request, &r.Decision
			if q.Verdict != gateway.Deny || d.Verdict != gateway.Deny || d.Rule != "r" || d.Key != q.User || d.Cost != 0 || q.Path != "/" || q.Method != "GET" || q.ID == "" {
				t.Fatalf("%+v", r)
			}
			found[q.User] += max(q.Count, 1)
			records[q.User]++
		}
		for user, want := range counted {
			if found[user] != want {
				return fmt.Errorf("user %s was denied %d times, recorded are %d", user, want, found[user])
			}
			if records[user] > most {
				t.Errorf("%d records of user %s, want %d at most", records[user], user, most)
			}
		}
		return nil
	})
	if n := c.Overflow(); n > 0 {
		t.Errorf("%d are not recorded", n)
	}
}

// A check is decided no sooner than it was sent: local denials rest on that.
func TestDecidedAfterSent(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	limitertest.Start(t, testenv.Connect(t, url))
	c := connect(t, testenv.Connect(t, url), gateway.Config{Timeout: 10 * time.Second})
	var askers sync.WaitGroup
	for i := range 256 {
		askers.Go(func() {
			for range 50 {
				sent := time.Now().Truncate(time.Microsecond)
				d, err := c.Check(t.Context(), gateway.Request{Tenant: "acme", User: fmt.Sprint(i)})
				if err != nil || d.DecidedAt.Before(sent) {
					t.Errorf("sent at %v, decision %+v, %v", sent, d, err)
					return
				}
			}
		})
	}
	askers.Wait()
}

// What another cost would have to wait is asked, and remembered for itself.
func TestDeniedByCost(t *testing.T) {
	t.Parallel()
	_, c, _ := underLimit(t, testenv.NATS(t), "2/hour")
	denied(t, c, "42")
	never := gateway.Request{Tenant: "acme", User: "42", Cost: 3}
	for _, reason := range []gateway.Reason{gateway.ReasonRule, gateway.ReasonLocal} {
		d, err := c.Check(t.Context(), never)
		if err != nil || d.Reason != reason || d.RetryAfterMS != 0 || d.Cost != 3 {
			t.Errorf("%+v, %v; want %s, and that it can never pass", d, err, reason)
		}
	}
	if d := check(t, c, "42", gateway.Deny, events.ReasonLocal); d.RetryAfterMS == 0 || d.Cost != 1 {
		t.Errorf("%+v", d)
	}
}

// Who resets a limit need not wait for the notice.
func TestCommandsDropDenials(t *testing.T) {
	t.Parallel()
	_, c, _ := underLimit(t, testenv.NATS(t), "1/hour")
	for range 20 {
		denied(t, c, "42")
		if _, err := c.Command(t.Context(), "acme", gateway.Command{Kind: gateway.Reset, Rule: "r", Key: []string{"42"}, By: "ann"}); err != nil {
			t.Fatal(err)
		}
		check(t, c, "42", gateway.Allow, events.ReasonRule)
	}
}

// Whatever happens to a limit drops what is remembered of it.
func TestNoticesDropDenials(t *testing.T) {
	t.Parallel()
	nc, c, _ := underLimit(t, testenv.NATS(t), "1/hour")
	operator := connect(t, testenv.Connect(t, nc.ConnectedUrl()), gateway.Config{Name: "operator"})
	passes := func(what string) {
		t.Helper()
		testenv.Eventually(t, 10*time.Second, func() error {
			d, err := c.Check(t.Context(), gateway.Request{Tenant: "acme", User: "42", Method: "GET", Path: "/"})
			if err == nil && d.Verdict != gateway.Allow {
				err = fmt.Errorf("after the %s: %+v", what, d)
			}
			return err
		})
	}
	denied(t, c, "42")
	denied(t, c, "43")
	for _, command := range []gateway.Command{
		{Kind: gateway.Reset},
		{Kind: gateway.Override, Limit: "2/hour", Until: time.Now().Add(time.Hour)},
	} {
		command.Rule, command.Key, command.By = "r", []string{"42"}, "ann"
		if _, err := operator.Command(t.Context(), "acme", command); err != nil {
			t.Fatal(err)
		}
		passes(string(command.Kind))
		denied(t, c, "42")
		check(t, c, "43", gateway.Deny, events.ReasonLocal) // another key is as it was
	}
	apply(t, nc, "version: 1\ntenants: {acme: {rules: [{name: r, key: [user], limit: 1/hour, overrides: [{key: [42], limit: unlimited}, {key: [43], limit: 3/hour}]}]}}\n")
	testenv.Eventually(t, 10*time.Second, func() error {
		d, err := c.Check(t.Context(), gateway.Request{Tenant: "acme", User: "43"})
		if err == nil && d.Verdict != gateway.Allow {
			err = fmt.Errorf("after the policy: %+v", d)
		}
		return err
	})
}

// A connection that comes back may have missed a notice.
func TestReconnectDropsDenials(t *testing.T) {
	t.Parallel()
	url := testenv.NATS(t)
	var cut, noticesLost atomic.Bool
	proxy := testenv.Proxy(t, url, func(m testenv.Passing) testenv.Fate {
		if strings.HasPrefix(m.Subject, "weir.report.") && cut.CompareAndSwap(true, false) {
			return testenv.Fate{Cut: true}
		}
		if strings.HasPrefix(m.Subject, "weir.control.") && noticesLost.Load() {
			return testenv.Fate{}
		}
		return testenv.Arrives
	})
	nc := testenv.Connect(t, url)
	revision := apply(t, nc, "version: 1\ntenants: {acme: {rules: [{name: r, key: [user], limit: 1/hour}]}}\n")
	limitertest.Start(t, nc)
	own, err := nats.Connect(proxy, nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond), nats.ReconnectJitter(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(own.Close)
	c := connect(t, own, gateway.Config{Timeout: 10 * time.Second})
	denied(t, c, "42")
	operator := connect(t, nc, gateway.Config{Name: "operator"})
	reset := gateway.Command{Kind: gateway.Reset, Rule: "r", Key: []string{"42"}, By: "ann"}
	noticesLost.Store(true)
	if _, err := operator.Command(t.Context(), "acme", reset); err != nil {
		t.Fatal(err)
	}
	check(t, c, "42", gateway.Deny, events.ReasonLocal) // it knows nothing
	cut.Store(true)                                     // with the next report of what is denied
	testenv.Eventually(t, 10*time.Second, func() error {
		d, err := c.Check(t.Context(), gateway.Request{Tenant: "acme", User: "42"})
		if err == nil && (d.Verdict != gateway.Allow || d.Policy != revision) {
			err = fmt.Errorf("%+v", d)
		}
		return err
	})
}

// A request with an id of its own may repeat one that was admitted.
func TestRequestsWithAnIDAreAsked(t *testing.T) {
	t.Parallel()
	_, c, _ := underLimit(t, testenv.NATS(t), "1/hour")
	first := gateway.Request{ID: "one", Tenant: "acme", User: "42"}
	for range 2 {
		d, err := c.Check(t.Context(), first)
		if err != nil || d.Verdict != gateway.Allow {
			t.Fatalf("%+v, %v", d, err)
		}
		denied(t, c, "42")
	}
}
