package access_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/bus"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/limiter"
	"github.com/weirhq/weir/internal/limiter/limitertest"
	"github.com/weirhq/weir/internal/pg"
	"github.com/weirhq/weir/internal/policy"
	"github.com/weirhq/weir/internal/revision"
	"github.com/weirhq/weir/internal/testenv"
	"github.com/weirhq/weir/internal/writer"
)

var names = events.Names{Prefix: events.DefaultPrefix}

// natsServer is one with the configuration of deployments/nats.
type natsServer struct {
	*testing.T
	url string
}

// mustStart starts it, with a tenant evil beside acme.
func mustStart(t *testing.T) natsServer {
	t.Helper()
	dir := t.TempDir()
	from := filepath.Join(testenv.Root(t), "deployments", "nats")
	text := func(name string) string {
		b, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	tenant := text("tenants/acme.conf")
	other := strings.NewReplacer("acme", "evil", "ACME", "EVIL", "shop-1", "den-1", "SHOP_1", "DEN_1").Replace(tenant)
	mustWrite(t, filepath.Join(dir, "acme.conf"), tenant)
	mustWrite(t, filepath.Join(dir, "evil.conf"), other)
	config := mustWrite(t, filepath.Join(dir, "weir.conf"),
		strings.Replace(text("weir.conf"), "include tenants/acme.conf", "include acme.conf\n  include evil.conf", 1))
	for _, name := range []string{"LIMITER", "WRITER", "INGEST", "OPERATOR", "ACME_SHOP_1", "ACME_OBSERVER", "ACME_ANALYST", "EVIL_DEN_1", "EVIL_OBSERVER", "EVIL_ANALYST"} {
		t.Setenv("WEIR_"+name+"_PASSWORD", "of-"+name)
	}
	options, err := server.ProcessConfigFile(config)
	if err != nil {
		t.Fatal(err)
	}
	options.Port, options.StoreDir, options.NoLog, options.NoSigs = server.RANDOM_PORT, filepath.Join(dir, "store"), true, true
	srv, err := server.NewServer(options)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	})
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server is not ready")
	}
	return natsServer{t, srv.ClientURL()}
}

func password(user string) string {
	return "of-" + map[string]string{"limiter": "LIMITER", "writer": "WRITER", "ingest": "INGEST", "operator": "OPERATOR",
		"shop-1": "ACME_SHOP_1", "acme-observer": "ACME_OBSERVER", "acme-analyst": "ACME_ANALYST", "den-1": "EVIL_DEN_1", "evil-observer": "EVIL_OBSERVER"}[user]
}

// program connects as a program does; whatever it is refused fails the test.
func (s natsServer) program(user, name string) *nats.Conn {
	s.Helper()
	core, logs := observer.New(zap.WarnLevel)
	url := strings.Replace(s.url, "://", "://"+user+":"+password(user)+"@", 1)
	nc, err := bus.Connect(s.Context(), url, bus.Credentials{}, name, zap.New(core))
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		nc.Close()
		for _, entry := range logs.All() {
			s.Errorf("%s: %s %v", user, entry.Message, entry.ContextMap())
		}
	})
	return nc
}

// stranger connects as whoever has a user's password; what it is refused comes
// out of the channel.
func (s natsServer) stranger(user string) (*nats.Conn, <-chan error) {
	s.Helper()
	refused := make(chan error, 100)
	nc, err := nats.Connect(s.url, nats.UserInfo(user, password(user)), nats.CustomInboxPrefix("_INBOX."+user),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(nc.Close)
	return nc, refused
}

// limiter runs a limiter that saves its windows early, until it is stopped.
func (s natsServer) limiter(nc *nats.Conn) (stop func()) {
	s.Helper()
	config := limiter.DefaultConfig()
	config.DegradeAfter, config.SnapshotEvery = time.Minute, 10
	l, err := limiter.NewFleet(nc, config, zap.NewNop(), prometheus.NewRegistry())
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.Context()))
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	select {
	case <-l.Ready():
	case <-time.After(20 * time.Second):
		s.Fatal("the limiter is not ready")
	}
	return func() {
		cancel()
		if err := <-done; err != nil {
			s.Error(err)
		}
	}
}

func (s natsServer) gateway(nc *nats.Conn, config gateway.Config) *gateway.Client {
	s.Helper()
	config.Timeout = 10 * time.Second
	client, err := gateway.Connect(nc, config)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = client.Close() })
	return client
}

// use does all that a gateway does.
func (s natsServer) use(client *gateway.Client, tenant string) {
	s.Helper()
	for i := range 10 {
		d, err := client.Check(s.Context(), gateway.Request{Tenant: tenant, User: "42"})
		if err != nil || d.Reason != events.ReasonRule {
			s.Errorf("check %d of %s: %+v, %v", i, client.Name(), d, err)
		}
	}
	if x, err := client.Explain(s.Context(), gateway.Request{Tenant: tenant, User: "42"}); err != nil || len(x.Rules) == 0 {
		s.Errorf("explain of %s: %+v, %v", client.Name(), x, err)
	}
	if err := client.Report(s.Context(), gateway.Request{Tenant: tenant, User: "43"}, gateway.Request{Tenant: tenant, User: "44"}); err != nil {
		s.Errorf("report of %s: %v", client.Name(), err)
	}
	if err := client.Outcome(s.Context(), gateway.Outcome{Tenant: tenant, ID: "1", Status: 200}); err != nil {
		s.Errorf("outcome of %s: %v", client.Name(), err)
	}
}

// TestNATSServices runs everything under the permissions that deployments/nats
// grants. What any of them is refused fails the test.
func TestNATSServices(t *testing.T) {
	s := mustStart(t)
	deciding := s.program("limiter", "weir-limiter")
	stop := s.limiter(deciding)
	s.use(s.gateway(s.program("ingest", "weir-ingest"), gateway.Config{Name: "edge"}), "acme")
	tenants := s.program("shop-1", "shop-1")
	notices := make(chan *nats.Msg, 10)
	for _, subject := range []string{names.Notice("acme"), names.NoticeToAll()} {
		if _, err := tenants.ChanSubscribe(subject, notices); err != nil {
			t.Fatal(err)
		}
	}
	s.use(s.gateway(tenants, gateway.Config{Name: "shop-1", Tenant: "acme", Shards: 1}), "")

	// A person's commands, and a policy.
	person := s.program("operator", "weir")
	js, err := jetstream.New(person)
	if err != nil {
		t.Fatal(err)
	}
	operator := s.gateway(person, gateway.Config{Name: "operator"})
	if done, err := operator.Command(t.Context(), "acme", gateway.Command{Kind: gateway.Reset, Rule: "per-minute", Key: []string{"42"}, By: "ann"}); err != nil || len(done) != 1 {
		t.Errorf("reset: %+v, %v", done, err)
	}
	for range 2 { // the bucket is made, then changed
		if _, err := revision.Apply(t.Context(), js, names, []byte(policy.DefaultSource()+fmt.Sprintf("# %s\n", time.Now()))); err != nil {
			t.Error(err)
		}
	}
	if list, err := revision.History(t.Context(), js, names); err != nil || len(list) != 3 {
		t.Errorf("history: %d revisions, %v", len(list), err)
	}
	for _, want := range []string{`"kind":"reset"`, `"kind":"policy"`} {
		select {
		case m := <-notices:
			if !strings.Contains(string(m.Data), want) {
				t.Errorf("notice %s, want %s", m.Data, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no notice with %s", want)
		}
	}

	// The limiter saves its windows, and another goes on with them.
	saved, err := jetstream.New(deciding)
	if err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 20*time.Second, func() error {
		store, err := saved.ObjectStore(t.Context(), names.SnapshotBucket(0))
		if err != nil {
			return err
		}
		list, err := store.Status(t.Context())
		if err == nil && list.Size() == 0 {
			err = errors.New("no snapshot yet")
		}
		return err
	})
	stop()
	defer s.limiter(deciding)()
	if d, err := operator.Check(t.Context(), gateway.Request{Tenant: "acme", User: "43"}); err != nil || d.Remaining != 253 {
		t.Errorf("after a restart: %+v, %v", d, err)
	}

	// The writer has stored all: 20 checks, 4 reports, the reset, and the last check.
	config := pg.DefaultConfig()
	config.URL = testenv.Postgres(t)
	db, err := pg.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if js, err = jetstream.New(s.program("writer", "weir-writer")); err != nil {
		t.Fatal(err)
	}
	w := writer.New(writer.DefaultConfig(), writer.Parts{DB: db, JetStream: js, Log: zap.NewNop(), Metrics: prometheus.NewRegistry()})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	testenv.Eventually(t, 20*time.Second, func() error {
		a, err := db.Query(t.Context(), &pg.Query{}, time.Now().Add(time.Minute))
		if err != nil {
			return err
		}
		if got := fmt.Sprint(a.Rows); got != "[[26]]" && got != "[[25]]" {
			return fmt.Errorf("stored are %s", got)
		}
		return nil
	})
	for _, tt := range []struct{ user, name, subject, body, want string }{
		{"acme-analyst", "acme-analyst", "weir.query.acme", `{"wait_for":"now","group_by":["tenant"]}`, `{"rows":[{"tenant":"acme","count":`},
		{"acme-analyst", "acme-analyst", "weir.query.acme", `{"tenant":"evil"}`, `"errors":[{"field":"tenant","found":"evil"`},
		{"operator", "weir", "weir.query", `{"where":[{"col":"tenant","op":"=","value":"nobody"}]}`, `{"rows":[{"count":0}]`},
		{"operator", "weir", "$SRV.PING.weir-query", ``, `"name":"weir-query"`},
	} {
		m, err := s.program(tt.user, tt.name).Request(tt.subject, []byte(tt.body), 20*time.Second)
		if err != nil || !strings.Contains(string(m.Data), tt.want) {
			t.Errorf("%s asks %s %s: %+v, %v", tt.user, tt.subject, tt.body, m, err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestNATSAttacks tries, with the password of each user, to do what is not that
// user's to do.
func TestNATSAttacks(t *testing.T) {
	s := mustStart(t)
	deciding := s.program("limiter", "weir-limiter")
	defer s.limiter(deciding)()
	for user, tries := range map[string]struct{ subscribe, publish []string }{
		"shop-1": {
			subscribe: []string{">", "weir.>", "weir.decision.>", "weir.decision.*.acme.other", "weir.decision.*.*.shop-1", "weir.decision.allow.evil.den-1",
				"weir.check.>", "weir.check.*.acme.shop-1", "weir.report.>", "weir.journal.0", "weir.control.*", "weir.control.evil", "weir.limiter",
				"_INBOX.>", "_INBOX.weir-limiter.>", "_INBOX.den-1.>", "_R_.>", "$JS.API.>", "$KV.>", "$O.>", "$SYS.>", "$SRV.>"},
			publish: []string{"weir.check.0.evil.shop-1", "weir.check.0.evil.den-1", "weir.check.0.acme.other", "weir.check.0.acme.shop-1.more",
				"weir.report.0.evil.den-1", "weir.outcome.0.evil.den-1", "weir.explain.0.evil.den-1", "weir.query", "weir.query.acme", "weir.query.evil",
				"weir.decision.allow.acme.shop-1", "weir.decision.deny.evil.den-1", "weir.command.0.acme", "weir.command.0.evil",
				"weir.journal.0", "weir.control.acme", "weir.control.@all", "weir.limiter", "_INBOX.weir-limiter.x",
				"$KV.weir_policy.policy", "$KV.weir_lease.shard.0", "$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO.WEIR_REPORTS",
				"$JS.API.STREAM.PURGE.WEIR_JOURNAL_0", "$JS.API.STREAM.DELETE.WEIR_REPORTS", "$JS.API.CONSUMER.CREATE.WEIR_JOURNAL_0.x",
				"$JS.API.DIRECT.GET.KV_weir_policy.$KV.weir_policy.policy", "$JS.API.DIRECT.GET.WEIR_JOURNAL_0"},
		},
		"acme-observer": {
			subscribe: []string{"weir.>", "weir.decision.>", "weir.decision.*.evil.*", "weir.check.>", "_INBOX.>", "_INBOX.shop-1.>"},
			publish:   []string{"weir.check.0.acme.shop-1", "weir.report.0.acme.shop-1", "weir.decision.allow.acme.shop-1", "$JS.API.INFO"},
		},
		"acme-analyst": {
			subscribe: []string{"weir.>", "weir.decision.*.acme.*", "weir.query.acme", "_INBOX.>", "_INBOX.shop-1.>", "$SRV.>"},
			publish:   []string{"weir.query", "weir.query.evil", "weir.query.acme.more", "weir.check.0.acme.shop-1", "$SRV.PING", "$JS.API.INFO"},
		},
		"ingest": {
			subscribe: []string{"weir.>", "weir.check.>", "weir.journal.0", "_INBOX.>", "_INBOX.weir-limiter.>", "_INBOX.weir-writer.>"},
			publish: []string{"weir.decision.allow.acme.shop-1", "weir.journal.0", "weir.command.0.acme", "weir.control.@all", "$KV.weir_policy.policy",
				"$JS.API.STREAM.PURGE.WEIR_JOURNAL_0", "$JS.API.STREAM.INFO.WEIR_JOURNAL_0", "$JS.API.CONSUMER.CREATE.WEIR_REPORTS.x"},
		},
		"writer": {
			subscribe: []string{"weir.>", "weir.decision.>", "_INBOX.>"},
			publish: []string{"weir.query", "weir.journal.0", "weir.check.0.acme.shop-1", "weir.command.0.acme", "weir.decision.allow.acme.shop-1", "$KV.weir_policy.policy",
				"$JS.API.STREAM.PURGE.WEIR_JOURNAL_0", "$JS.API.STREAM.DELETE.WEIR_JOURNAL_0", "$JS.API.STREAM.UPDATE.WEIR_JOURNAL_0"},
		},
		"operator": {
			subscribe: []string{"weir.>", "weir.check.>", "_INBOX.>", "_INBOX.weir-limiter.>"},
			publish: []string{"weir.journal.0", "weir.decision.allow.acme.shop-1", "$KV.weir_lease.shard.0", "$JS.API.STREAM.DELETE.KV_weir_policy",
				"$JS.API.STREAM.PURGE.KV_weir_policy", "$JS.API.STREAM.UPDATE.WEIR_JOURNAL_0", "$JS.API.CONSUMER.CREATE.WEIR_JOURNAL_0.x"},
		},
		"limiter": {
			subscribe: []string{"weir.>", "weir.report.>", "weir.decision.>", "_INBOX.>"},
			publish:   []string{"weir.check.0.acme.shop-1", "weir.command.0.acme", "$JS.API.STREAM.DELETE.WEIR_JOURNAL_0"},
		},
	} {
		t.Run(user, func(t *testing.T) {
			nc, refused := s.stranger(user)
			tell := func(what, subject string, err error) {
				if err == nil {
					err = nc.Flush()
				}
				if err != nil {
					t.Fatal(err)
				}
				select {
				case err := <-refused:
					if !errors.Is(err, nats.ErrPermissionViolation) || !strings.Contains(err.Error(), `"`+subject+`"`) {
						t.Errorf("%s %s: %v", what, subject, err)
					}
				case <-time.After(2 * time.Second):
					t.Errorf("may %s %s", what, subject)
				}
			}
			for _, subject := range tries.subscribe {
				_, err := nc.SubscribeSync(subject)
				tell("subscribe to", subject, err)
				_, err = nc.QueueSubscribeSync(subject, "thieves")
				tell("queue for", subject, err)
			}
			for _, subject := range tries.publish {
				tell("publish to", subject, nc.Publish(subject, []byte(`{"user":"42"}`)))
			}
		})
	}
	for _, login := range []nats.Option{nil, nats.UserInfo("shop-1", "guess"), nats.UserInfo("shop-1", password("den-1")), nats.Token("weir")} {
		options := []nats.Option{nats.Timeout(2 * time.Second)}
		if login != nil {
			options = append(options, login)
		}
		if nc, err := nats.Connect(s.url, options...); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("connected as nobody: %v, %v", nc, err)
		}
	}
}

// TestNATSAnswersStayInTheAccount has a gateway name subjects of others for its
// answers, where the limiter and the server may publish and it may not.
func TestNATSAnswersStayInTheAccount(t *testing.T) {
	s := mustStart(t)
	deciding := s.program("limiter", "weir-limiter")
	defer s.limiter(deciding)()
	victim := s.program("den-1", "den-1")
	reached := make(chan *nats.Msg, 100)
	for _, subject := range []string{"weir.decision.*.evil.den-1", "weir.control.@all", "weir.control.evil"} {
		if _, err := victim.ChanSubscribe(subject, reached); err != nil {
			t.Fatal(err)
		}
	}
	if err := victim.Flush(); err != nil {
		t.Fatal(err)
	}
	nc, refused := s.stranger("shop-1")
	answers := []string{"weir.journal.0", "weir.decision.allow.evil.den-1", "weir.control.@all", "weir.command.0.evil", "weir.report.0.evil.den-1",
		"$JS.API.STREAM.PURGE.WEIR_JOURNAL_0", "$KV.weir_policy.policy", "$JS.API.STREAM.DELETE.WEIR_REPORTS"}
	for _, answer := range answers {
		for _, subject := range []string{"weir.check.0.acme.shop-1", "weir.report.0.acme.shop-1", "weir.explain.0.acme.shop-1"} {
			if err := nc.PublishRequest(subject, answer, []byte(`{"user":"42"}`)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := nc.PublishRequest("weir.check.0.acme.shop-1", "$JS.ACK.WEIR_REPORTS.x", []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	select { // NATS itself sees to that one
	case err := <-refused:
		if !strings.Contains(err.Error(), "$JS.ACK") {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("an acknowledgement for an answer is not refused")
	}
	// The journal has what was asked and told, and the limiter goes on.
	var records []events.Record
	testenv.Eventually(t, 20*time.Second, func() error {
		if records = limitertest.Records(t, deciding); len(records) < 2*len(answers) {
			return fmt.Errorf("%d records", len(records))
		}
		return nil
	})
	if len(records) != 2*len(answers) {
		t.Errorf("%d records, want %d", len(records), 2*len(answers))
	}
	for _, r := range records {
		if r.Request.Tenant != "acme" || r.Request.Gateway != "shop-1" {
			t.Errorf("a record of %s, %s", r.Request.Tenant, r.Request.Gateway)
		}
	}
	js, err := jetstream.New(s.program("operator", "weir"))
	if err != nil {
		t.Fatal(err)
	}
	if r, err := revision.Newest(t.Context(), js, names); err != nil || r.Number != 0 {
		t.Errorf("the policy: revision %d, %v", r.Number, err)
	}
	client := s.gateway(s.program("den-1", "den-1"), gateway.Config{Name: "den-1", Tenant: "evil", Shards: 1})
	if d, err := client.Check(t.Context(), gateway.Request{User: "42"}); err != nil || d.Remaining != 255 {
		t.Errorf("another tenant's check: %+v, %v", d, err)
	}
	if err := victim.Flush(); err != nil {
		t.Fatal(err)
	}
	own := 0
	for len(reached) > 0 {
		switch m := <-reached; {
		case strings.Contains(string(m.Data), `"remaining":255`):
			own++
		case string(m.Data) != `{"kind":"policy"}`: // which the limiter says when it begins
			t.Errorf("the other tenant's gateway got %s on %s", m.Data, m.Subject)
		}
	}
	if own != 1 {
		t.Errorf("the other tenant's gateway got %d decisions of its own", own)
	}
}
