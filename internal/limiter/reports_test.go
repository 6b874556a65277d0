package limiter_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/limiter/limitertest"
	"github.com/weirhq/weir/internal/testenv"
)

// report publishes reports and waits until they are records.
func report(t *testing.T, js jetstream.JetStream, want int, payloads ...string) []events.Record {
	t.Helper()
	for _, p := range payloads {
		if _, err := js.Publish(t.Context(), names.Report(0, "acme", "g"), []byte(p)); err != nil {
			t.Fatal(err)
		}
	}
	var all []events.Record
	testenv.Eventually(t, 5*time.Second, func() error {
		if all = limitertest.Records(t, js.Conn()); len(all) < want {
			return fmt.Errorf("%d records, want %d", len(all), want)
		}
		return nil
	})
	if len(all) != want {
		t.Fatalf("%d records, want %d", len(all), want)
	}
	return all
}

func TestReports(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	run := start(t, nc, nil)
	old := time.Now().Add(-time.Hour).UTC().Format(time.RFC3339)
	ahead := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	all := report(t, js, 8,
		`{"id":"1","user":"42","status":200,"latency_us":1500}`,
		`{"id":"1","user":"42"}`, // comes twice, counts once
		`{"id":"2","user":"42","time":"`+old+`"}`,
		`{"id":"3","user":"42","verdict":"deny","reason":"local","count":17}`,
		`{"id":"4","user":"42","verdict":"allow","reason":"timeout"}`,
		`{"id":"5","user":42}`,
		`{"id":"6","user":"42","cost":300,"verdict":"allow","reason":"timeout"}`,
		`{"id":"7","user":"42"}`,
		`{"id":"8","user":"9","time":"`+ahead+`"}`, // its gateway's clock is wrong, and has no say
	)
	for i, want := range []struct {
		verdict   events.Verdict
		reason    events.Reason
		cost      int64
		remaining int64
	}{
		{events.Allow, events.ReasonRule, 1, 255},
		{events.Allow, events.ReasonLate, 1, 0},
		{events.Deny, events.ReasonLocal, 0, 0},
		{events.Allow, events.ReasonTimeout, 1, 254},
		{}, // refused
		{events.Allow, events.ReasonTimeout, 254, 0},
		{events.Deny, events.ReasonRule, 1, 0},
		{events.Allow, events.ReasonRule, 1, 255},
	} {
		d := all[i].Decision
		if d.Verdict != want.verdict || d.Reason != want.reason || d.Cost != want.cost || d.Remaining != want.remaining {
			t.Errorf("record %d: %s, want %+v", i, events.AppendRecord(nil, &all[i]), want)
		}
	}
	if d := all[7].Decision; time.Until(d.DecidedAt) > time.Minute {
		t.Errorf("of a report from the future: %+v", d)
	}
	if refused := all[4].Refused; refused == nil || string(refused.Payload) != `{"id":"5","user":42}` || refused.Subject != "weir.report.0.acme.g" {
		t.Errorf("the report that is wrong: %+v", refused)
	}
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}

	// A limiter that starts applies none again and misses none.
	if _, err := js.Publish(t.Context(), names.Report(0, "acme", "g"), []byte(`{"id":"9","user":"7"}`)); err != nil {
		t.Fatal(err)
	}
	start(t, nc, nil)
	all = report(t, js, 10, `{"id":"10","user":"7"}`)
	if d := all[9].Decision; d.ID != "10" || d.Remaining != 254 {
		t.Errorf("after a restart: %+v", d)
	}
}

// A check that its gateway gave up on and that was decided all the same is
// charged once.
func TestTimeoutOfADecidedCheckIsFree(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	run := start(t, nc, nil)
	ask(t, nc, "acme", `{"id":"1","user":"42"}`)
	all := report(t, js, 2, `{"id":"1","user":"42","verdict":"allow","reason":"timeout"}`)
	if d := all[1].Decision; d.Cost != 0 || d.Reason != events.ReasonTimeout {
		t.Errorf("the report: %+v", d)
	}
	if d := ask(t, nc, "acme", `{"user":"42"}`); d.Remaining != 254 {
		t.Errorf("the next check: %+v, want 254 left", d)
	}
	if d := ask(t, nc, "acme", `{"id":"1","user":"42"}`); d.Reason != events.ReasonRule {
		t.Errorf("asked again after the report: %+v, want what was decided first", d)
	}
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	start(t, nc, nil)
	if d := ask(t, nc, "acme", `{"id":"1","user":"42"}`); d.Reason != events.ReasonRule {
		t.Errorf("asked again after a restart: %+v, want what was decided first", d)
	}
}

// A reports stream that was made anew is read from its beginning.
func TestReportsStreamMadeAnew(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	run := start(t, nc, nil)
	report(t, js, 3, `{"id":"1"}`, `{"id":"2"}`, `{"id":"3"}`)
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	anew := func() {
		t.Helper()
		if err := js.DeleteStream(t.Context(), names.ReportsStream()); err != nil {
			t.Fatal(err)
		}
	}
	anew()
	run = start(t, nc, nil)
	if all := report(t, js, 4, `{"id":"4"}`); all[3].Request.ID != "4" {
		t.Errorf("the last record: %+v", all[3].Request)
	}
	if err := run.stop(); err != nil {
		t.Fatal(err)
	}
	anew()
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: names.ReportsStream(), Subjects: []string{names.Reports(0)}}); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"5", "6", "7"} { // more than were applied of the one before
		if _, err := js.Publish(t.Context(), names.Report(0, "acme", "g"), fmt.Appendf(nil, `{"id":%q}`, id)); err != nil {
			t.Fatal(err)
		}
	}
	start(t, nc, nil)
	for i, r := range report(t, js, 7) {
		if want := fmt.Sprint(i + 1); r.Request.ID != want {
			t.Errorf("record %d is of %s", i, r.Request.ID)
		}
	}
}

// A reports stream that is made anew under a running limiter is read from its
// beginning, too.
func TestReportsStreamMadeAnewUnderway(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	start(t, nc, nil)
	report(t, js, 3, `{"id":"1"}`, `{"id":"2"}`, `{"id":"3"}`)
	if err := js.DeleteStream(t.Context(), names.ReportsStream()); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 20*time.Second, func() error { // the limiter makes it again
		_, err := js.Publish(t.Context(), names.Report(0, "acme", "g"), []byte(`{"id":"4"}`), jetstream.WithMsgID("4"))
		return err
	})
	testenv.Eventually(t, 20*time.Second, func() error {
		if n := len(limitertest.Records(t, nc)); n != 4 {
			return fmt.Errorf("%d records, want 4", n)
		}
		return nil
	})
}

// A report for a shard that there is not is not acknowledged: nobody would
// decide it.
func TestReportToNoShard(t *testing.T) {
	t.Parallel()
	nc := testenv.Connect(t, testenv.NATS(t))
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	start(t, nc, nil)
	for _, subject := range []string{"weir.report.7.acme.g", "weir.report.x.acme.g", "weir.report.00.acme.g", "weir.report.0"} {
		if ack, err := js.Publish(t.Context(), subject, []byte(`{"user":"42"}`), jetstream.WithRetryAttempts(0)); err == nil {
			t.Errorf("%s is acknowledged: %+v", subject, ack)
		}
	}
}
