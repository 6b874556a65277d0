package ingest_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/testenv"
)

var names = events.Names{Prefix: events.DefaultPrefix}

// mustBus starts a NATS server whose one limiter denies the user "42".
func mustBus(t *testing.T) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc := testenv.Connect(t, testenv.NATS(t))
	js := mustStreams(t, nc)
	_, err := nc.Subscribe(names.Checks(0), func(m *nats.Msg) {
		from, err := names.ParseOrigin(m.Subject)
		if err != nil {
			t.Error(err)
			return
		}
		r, err := events.DecodeRequest(m.Data, true)
		if err != nil {
			t.Error(err)
			return
		}
		d := allowed
		if d.ID = r.ID; r.User == "42" {
			d.Verdict, d.RetryAfterMS = events.Deny, 15_001
		}
		if err := nc.Publish(names.Decision(d.Verdict, from.Tenant, from.Gateway), events.AppendDecision(nil, &d)); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

func mustJetStream(t *testing.T, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// mustStreams makes what keeps reports and outcomes, as a limiter does.
func mustStreams(t *testing.T, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js := mustJetStream(t, nc)
	for stream, subject := range map[string]string{names.ReportsStream(): names.Reports(0), names.OutcomesStream(): names.Outcomes(0)} {
		if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: stream, Subjects: []string{subject}}); err != nil {
			t.Fatal(err)
		}
	}
	return js
}

func mustClient(t *testing.T, nc *nats.Conn) *gateway.Client {
	t.Helper()
	client, err := gateway.Connect(nc, gateway.Config{Name: "edge", Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

func TestOverNATS(t *testing.T) {
	nc, js := mustBus(t)
	e := mustServe(t, usual, mustClient(t, nc), nc.IsConnected())

	a := e.post(t, "/v1/check", `{"tenant":"acme","user":"41"}`)
	if a.code != 200 || a.member["id"] == "" || a.header.Get("X-RateLimit-Remaining") != "12" {
		t.Errorf("allowed: %d %v %s", a.code, a.header, a.body)
	}
	a = e.post(t, "/v1/check", `{"tenant":"acme","user":"42"}`)
	if a.code != 429 || a.header.Get("Retry-After") != "16" || a.member["retry_after_ms"] != 15_001.0 {
		t.Errorf("denied: %d %v %s", a.code, a.header, a.body)
	}
	a = e.post(t, "/v1/check", `{"tenant":"acme","user":"42","verdict":"allow"}`)
	if a.code != 400 || !strings.Contains(a.body, "a check has none yet") {
		t.Errorf("a check with a verdict: %d %s", a.code, a.body)
	}
	e.counted(t, `weir_ingest_check_seconds_count{verdict="allow"} 1`, `weir_ingest_check_seconds_count{verdict="deny"} 1`)

	a = e.post(t, "/v1/reports", strings.Repeat(`{"tenant":"acme","api_key":"`+strings.Repeat("k", 2000)+`","status":200}`+"\n", 5000))
	if a.code != 200 || a.body != "{\"stored\":5000}\n" {
		t.Fatalf("reports: %d %s", a.code, a.body)
	}
	stream, err := js.Stream(t.Context(), names.ReportsStream())
	if err != nil {
		t.Fatal(err)
	}
	if got := stream.CachedInfo().State.Msgs; got != 5000 {
		t.Errorf("acknowledged 5000 reports, the stream has %d", got)
	}
	// Sent twice under one id, stored once.
	for range 2 {
		e.post(t, "/v1/reports", `{"tenant":"acme","id":"again"}`)
	}
	if info, err := stream.Info(t.Context()); err != nil || info.State.Msgs != 5001 {
		t.Errorf("the stream: %+v, %v", info, err)
	}
	a = e.post(t, "/v1/outcomes", strings.Repeat(`{"tenant":"acme","id":"again","status":200}`+"\n", 2)+`{"tenant":"acme","id":"other"}`)
	if stream, err = js.Stream(t.Context(), names.OutcomesStream()); err != nil || a.body != "{\"stored\":3}\n" || stream.CachedInfo().State.Msgs != 2 {
		t.Errorf("outcomes: %d %s, the stream: %+v, %v", a.code, a.body, stream.CachedInfo().State, err)
	}
}

func TestReportsWithoutAStream(t *testing.T) {
	nc := testenv.Connect(t, testenv.NATS(t))
	e := mustServe(t, usual, mustClient(t, nc), true)
	if a := e.post(t, "/v1/reports", `{"tenant":"acme"}`); a.code != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("got %d %v %s", a.code, a.header, a.body)
	}
}
