package ingest_test

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	ratelimit "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirhq/weir/gateway"
	"github.com/weirhq/weir/internal/access"
	wording "github.com/weirhq/weir/internal/answer"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/ingest"
	"github.com/weirhq/weir/internal/limiter/limitertest"
	"github.com/weirhq/weir/internal/revision"
	"github.com/weirhq/weir/internal/testenv"
)

// calls is an edge served over gRPC, with a connection to it.
type calls struct {
	*grpc.ClientConn
	rls.RateLimitServiceClient
	registry *prometheus.Registry
	stop     func() error // ends the edge and says how it ended
}

// mustCall serves an edge until the test ends.
func mustCall(tb testing.TB, c client, connected func() bool) calls {
	tb.Helper()
	registry := prometheus.NewRegistry()
	server := ingest.New(usual, c, connected, registry, zap.NewNop())
	on := ingest.Listeners{Guard: new(access.Guard), HTTP: mustListen(tb), GRPC: mustListen(tb)}
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	ended := make(chan struct{})
	var err error
	go func() {
		err = server.Run(ctx, on)
		close(ended)
	}()
	stop := func() error {
		cancel()
		<-ended
		return err
	}
	tb.Cleanup(func() {
		if err := stop(); err != nil {
			tb.Error(err)
		}
	})
	conn, dialErr := grpc.NewClient(on.GRPC.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if dialErr != nil {
		tb.Fatal(dialErr)
	}
	tb.Cleanup(func() { conn.Close() })
	return calls{conn, rls.NewRateLimitServiceClient(conn), registry, stop}
}

func mustListen(tb testing.TB) net.Listener {
	tb.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	return listener
}

func always() bool { return true }

// descriptor makes one of keys and values in turn.
func descriptor(entries ...string) *ratelimit.RateLimitDescriptor {
	d := &ratelimit.RateLimitDescriptor{}
	for pair := range slices.Chunk(entries, 2) {
		d.Entries = append(d.Entries, &ratelimit.RateLimitDescriptor_Entry{Key: pair[0], Value: pair[1]})
	}
	return d
}

// adding gives a descriptor a hits_addend of its own.
func adding(hits uint64, d *ratelimit.RateLimitDescriptor) *ratelimit.RateLimitDescriptor {
	d.HitsAddend = wrapperspb.UInt64(hits)
	return d
}

func shouldLimit(domain string, descriptors ...*ratelimit.RateLimitDescriptor) *rls.RateLimitRequest {
	return &rls.RateLimitRequest{Domain: domain, Descriptors: descriptors}
}

// ask asks once and words what came: the codes, and of each limit its size,
// unit and what is left.
func (c calls) ask(tb testing.TB, r *rls.RateLimitRequest) (string, *rls.RateLimitResponse) {
	tb.Helper()
	response, err := c.ShouldRateLimit(tb.Context(), r)
	if err != nil {
		return status.Code(err).String() + ": " + status.Convert(err).Message(), nil
	}
	var text strings.Builder
	text.WriteString(response.GetOverallCode().String())
	for _, s := range response.GetStatuses() {
		text.WriteString(" | " + s.GetCode().String())
		if l := s.GetCurrentLimit(); l != nil {
			fmt.Fprintf(&text, " %s %d/%d %s, %d left", l.GetName(), l.GetRequestsPerUnit(),
				max(l.GetUnitMultiplier().GetValue(), 1), l.GetUnit(), s.GetLimitRemaining())
		}
	}
	return text.String(), response
}

// headers returns those that are to be added to the answer.
func headers(r *rls.RateLimitResponse) map[string]string {
	all := map[string]string{}
	for _, h := range r.GetResponseHeadersToAdd() {
		all[h.GetKey()] = h.GetValue()
	}
	return all
}

// mustDecide runs a limiter under a policy and returns a gateway's client.
func mustDecide(t *testing.T, policy string) (*gateway.Client, *nats.Conn) {
	t.Helper()
	nc := testenv.Connect(t, testenv.NATS(t))
	limitertest.Start(t, nc)
	client := mustClient(t, nc)
	if policy == "" {
		return client, nc
	}
	applied, err := revision.Apply(t.Context(), mustJetStream(t, nc), names, []byte(policy))
	if err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		d, err := client.Check(t.Context(), gateway.Request{Tenant: "waits"})
		if err == nil && d.Policy != applied.Revision {
			err = fmt.Errorf("under revision %d, want %d", d.Policy, applied.Revision)
		}
		return err
	})
	return client, nc
}

// A user has 256 requests a minute by the built-in policy, whatever Envoy's
// worker asks, and the 257th learns how long it has to wait.
func TestEnvoyAllowsAndDenies(t *testing.T) {
	client, nc := mustDecide(t, "")
	c := mustCall(t, client, nc.IsConnected)
	request := shouldLimit("acme", descriptor("user_id", "42", ":method", "GET", ":path", "/api/order/history/?page=2", "remote_address", "192.0.2.7"))
	for i := range 256 {
		got, response := c.ask(t, request)
		if want := fmt.Sprintf("OK | OK per-minute 256/1 MINUTE, %d left", 255-i); got != want {
			t.Fatalf("request %d: %s, want %s", i+1, got, want)
		}
		h := headers(response)
		if h["X-RateLimit-Limit"] != "256" || h["X-RateLimit-Remaining"] != fmt.Sprint(255-i) || h["RateLimit-Policy"] != `"per-minute";q=256;w=60` || h["Retry-After"] != "" {
			t.Fatalf("request %d: headers %v", i+1, h)
		}
		if len(response.GetRawBody()) > 0 {
			t.Fatalf("allowed with a body: %s", response.GetRawBody())
		}
	}
	got, response := c.ask(t, request)
	if want := "OVER_LIMIT | OVER_LIMIT per-minute 256/1 MINUTE, 0 left"; got != want {
		t.Fatalf("request 257: %s, want %s", got, want)
	}
	reset := response.GetStatuses()[0].GetDurationUntilReset().AsDuration()
	if reset <= 0 || reset > time.Minute {
		t.Errorf("until reset: %v", reset)
	}
	seconds := int64((reset + time.Second - 1) / time.Second)
	h := headers(response)
	for name, want := range map[string]string{
		"X-RateLimit-Limit": "256", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": fmt.Sprint(seconds), "Retry-After": fmt.Sprint(seconds),
		"RateLimit": fmt.Sprintf(`"per-minute";r=0;t=%d`, seconds), "Content-Type": "application/problem+json", "Content-Length": "",
	} {
		if h[name] != want {
			t.Errorf("%s: %q, want %q", name, h[name], want)
		}
	}
	if body := string(response.GetRawBody()); !strings.Contains(body, `"status":429,"detail":"Request was throttled. Expected available in `) || !strings.Contains(body, `"verdict":"deny"`) {
		t.Errorf("body: %s", body)
	}
	if got, _ := c.ask(t, shouldLimit("globex", request.GetDescriptors()...)); !strings.HasSuffix(got, "255 left") {
		t.Errorf("another domain is another tenant: %s", got)
	}

	all := limitertest.Records(t, nc)
	r := all[256].Request
	if len(all) != 258 || r.Tenant != "acme" || r.User != "42" || r.Method != "GET" || r.Path != "/api/order/history/" || r.IP.String() != "192.0.2.7" || r.Gateway != "edge" || r.Attrs != "" {
		t.Errorf("%d records; the 257th is of %+v", len(all), r)
	}
	for code, want := range map[string]float64{"OK": 257, "OVER_LIMIT": 1} {
		if got := c.counted(t, answered, "code", code); got != want {
			t.Errorf("counted %v %s, want %v", got, code, want)
		}
	}
}

// counted returns a counter: of rate limit requests by code, or of what was
// refused by field.
func (c calls) counted(tb testing.TB, name, label, value string) float64 {
	tb.Helper()
	families, err := c.registry.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == label && l.GetValue() == value {
					return m.GetCounter().GetValue()
				}
			}
		}
	}
	return 0
}

const (
	answered = "weir_ingest_grpc_requests_total"
	refused  = "weir_ingest_refused_total"
)

const envoyPolicy = `
version: 1
tenants:
  "*":
    rules:
      - { name: few, limit: 10/min, key: [user], when: 'has(request.user)' }
      - { name: per-service, limit: 3 per 10s, key: [attrs.generic_key, attrs.destination_cluster] }
      - { name: tokens, limit: 100/min, key: [attrs.model], count_denied: true }
      - { name: per-network, limit: 2/day, key: [ip], when: 'has(request.ip)' }
`

func TestEnvoyHits(t *testing.T) {
	client, nc := mustDecide(t, envoyPolicy)
	c := mustCall(t, client, nc.IsConnected)
	user := func(name string) *ratelimit.RateLimitDescriptor { return descriptor("user", name) }
	for _, tt := range []struct {
		whole uint32
		of    *ratelimit.RateLimitDescriptor
		want  string
	}{
		{0, user("a"), "OK | OK few 10/1 MINUTE, 9 left"}, // not set stands for 1
		{4, user("a"), "OK | OK few 10/1 MINUTE, 5 left"},
		{4, adding(2, user("a")), "OK | OK few 10/1 MINUTE, 3 left"}, // its own goes before the request's
		{4, user("a"), "OVER_LIMIT | OVER_LIMIT few 10/1 MINUTE, 3 left"},
		{4, adding(0, user("a")), "OK | OK few 10/1 MINUTE, 3 left"}, // only asks
		{3, user("a"), "OK | OK few 10/1 MINUTE, 0 left"},
		{1, adding(0, user("a")), "OVER_LIMIT | OVER_LIMIT few 10/1 MINUTE, 0 left"},
		{0, adding(0, user("b")), "OK | OK few 10/1 MINUTE, 10 left"},
		{11, user("c"), "OVER_LIMIT | OVER_LIMIT few 10/1 MINUTE, 10 left"},
		// What a request has cost is told when it is done (apply_on_stream_done):
		// it counts although it is over the limit, and the next one is denied.
		{0, adding(0, descriptor("model", "m")), "OK | OK tokens 100/1 MINUTE, 100 left"},
		{0, adding(90, descriptor("model", "m")), "OK | OK tokens 100/1 MINUTE, 10 left"},
		{0, adding(0, descriptor("model", "m")), "OK | OK tokens 100/1 MINUTE, 10 left"},
		{0, adding(50, descriptor("model", "m")), "OVER_LIMIT | OVER_LIMIT tokens 100/1 MINUTE, 0 left"},
		{0, adding(0, descriptor("model", "m")), "OVER_LIMIT | OVER_LIMIT tokens 100/1 MINUTE, 0 left"},
	} {
		got, response := c.ask(t, &rls.RateLimitRequest{Domain: "acme", HitsAddend: tt.whole, Descriptors: []*ratelimit.RateLimitDescriptor{tt.of}})
		if got != tt.want {
			t.Errorf("%v, hits_addend %d: %s, want %s", tt.of, tt.whole, got, tt.want)
		}
		// What can never pass is not told when to come back.
		if over := strings.HasPrefix(got, "OVER"); over && (headers(response)["Retry-After"] == "") != (tt.whole == 11) {
			t.Errorf("%v, hits_addend %d: Retry-After %q", tt.of, tt.whole, headers(response)["Retry-After"])
		}
	}
}

// Each descriptor is charged by itself, and the headers are of the worst.
func TestEnvoySeveralDescriptors(t *testing.T) {
	client, nc := mustDecide(t, envoyPolicy)
	c := mustCall(t, client, nc.IsConnected)
	request := shouldLimit("acme",
		descriptor("user", "a"),
		descriptor("generic_key", "slow", "destination_cluster", "shop"),
		descriptor("generic_key", "no rule counts by this alone"),
	)
	for left := 2; left >= 0; left-- {
		want := fmt.Sprintf("OK | OK few 10/1 MINUTE, %d left | OK per-service 3/10 SECOND, %d left | OK", left+7, left)
		got, response := c.ask(t, request)
		if h := headers(response); got != want || h["RateLimit-Policy"] != `"per-service";q=3;w=10` || h["X-RateLimit-Remaining"] != fmt.Sprint(left) {
			t.Errorf("got %s, want %s; headers %v", got, want, h)
		}
	}
	got, response := c.ask(t, request)
	want := "OVER_LIMIT | OK few 10/1 MINUTE, 6 left | OVER_LIMIT per-service 3/10 SECOND, 0 left | OK"
	if h := headers(response); got != want || h["RateLimit-Policy"] != `"per-service";q=3;w=10` || h["Retry-After"] == "" {
		t.Errorf("got %s, want %s; headers %v", got, want, h)
	}
	// Another cluster is another window.
	got, _ = c.ask(t, shouldLimit("acme", descriptor("generic_key", "slow", "destination_cluster", "other")))
	if want := "OK | OK per-service 3/10 SECOND, 2 left"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	// A network counts as its first address.
	for i, want := range []string{"OK | OK per-network 2/1 DAY, 1 left", "OK | OK per-network 2/1 DAY, 0 left", "OVER_LIMIT | OVER_LIMIT per-network 2/1 DAY, 0 left"} {
		key, value := "masked_remote_address", fmt.Sprintf("192.0.2.%d/24", i)
		if i == 2 {
			key, value = "remote_address", "192.0.2.0"
		}
		if got, _ := c.ask(t, shouldLimit("acme", descriptor(key, value))); got != want {
			t.Errorf("%s %s: %s, want %s", key, value, got, want)
		}
	}
}

// recorder remembers what it was asked.
func recorder(asked chan<- events.Request) standIn {
	s := deciding(allowed)
	decide := s.check
	s.check = func(ctx context.Context, r events.Request) (events.Decision, error) {
		asked <- r
		return decide(ctx, r)
	}
	return s
}

func TestEnvoyAttributes(t *testing.T) {
	asked := make(chan events.Request, 1)
	c := mustCall(t, recorder(asked), always)
	for _, tt := range []struct {
		entries []string
		want    string // the request on the wire
	}{
		{[]string{"user", "a"}, `{"tenant":"acme","user":"a","cost":1}`},
		{[]string{"user_id", "a", "api_key", "k", "ip", "2001:db8::7"}, `{"tenant":"acme","user":"a","api_key":"k","ip":"2001:db8::7","cost":1}`},
		{[]string{"remote_address", "::ffff:192.0.2.7"}, `{"tenant":"acme","ip":"192.0.2.7","cost":1}`},
		{[]string{"remote_address", "fe80::1%eth0"}, `{"tenant":"acme","ip":"fe80::1","cost":1}`},
		{[]string{"masked_remote_address", "2001:db8:1:2:3::/64"}, `{"tenant":"acme","ip":"2001:db8:1:2::","cost":1}`},
		{[]string{"method", "GET", "host", "example.org", "path", "/a", "route", "/{a}"},
			`{"tenant":"acme","method":"GET","host":"example.org","path":"/a","route":"/{a}","cost":1}`},
		{[]string{":method", "GET", ":authority", "example.org:8443", ":path", "/a?b=c?d"},
			`{"tenant":"acme","method":"GET","host":"example.org","path":"/a","cost":1}`},
		{[]string{"user", ""}, `{"tenant":"acme","cost":1}`},
		{[]string{"generic_key", "slow", "source_cluster", "edge", "destination_cluster", "shop", "header_match", "mobile", "query_match", "", "cost", "7", "tenant", "globex"},
			`{"tenant":"acme","cost":1,"attrs":{"generic_key":"slow","source_cluster":"edge","destination_cluster":"shop","header_match":"mobile","query_match":"","cost":"7","tenant":"globex"}}`},
		{[]string{"a\"b\n", "\x01\\é<"}, `{"tenant":"acme","cost":1,"attrs":{"a\"b\n":"\u0001\\é<"}}`},
	} {
		if got, _ := c.ask(t, shouldLimit("acme", descriptor(tt.entries...))); !strings.HasPrefix(got, "OK") {
			t.Errorf("%q: %s", tt.entries, got)
			continue
		}
		r := <-asked
		if got := string(events.AppendRequest(nil, &r)); got != tt.want {
			t.Errorf("%q:\ngot  %s\nwant %s", tt.entries, got, tt.want)
		}
	}
}

func TestEnvoyRefuses(t *testing.T) {
	asked := make(chan events.Request, 100)
	c := mustCall(t, recorder(asked), always)
	user := descriptor("user", "a")
	many := func(n int) (all []string) {
		for i := range n {
			all = append(all, fmt.Sprint("key-", i), "x")
		}
		return all
	}
	negative := descriptor("user", "a")
	negative.IsNegativeHits = true
	for _, tt := range []struct {
		request *rls.RateLimitRequest
		want    string
		field   string // as counted
	}{
		{shouldLimit("", user), "domain: want 1 to 64 characters of A-Z a-z 0-9 _ -, found nothing", "domain"},
		{shouldLimit("acme.eu", user), `domain: want 1 to 64 characters of A-Z a-z 0-9 _ -, found "acme.eu"`, "domain"},
		{shouldLimit(">", user), `found ">"`, "domain"},
		{shouldLimit("acme"), `descriptors: want 1 to 32 of them, found "0"`, "descriptors"},
		{shouldLimit("acme", slices.Repeat([]*ratelimit.RateLimitDescriptor{user}, 33)...), `descriptors: want 1 to 32 of them, found "33"`, "descriptors"},
		{shouldLimit("acme", user, descriptor()), `descriptors[1]: entries: want 1 to 32 of them, found "0"`, "entries"},
		{shouldLimit("acme", descriptor(many(33)...)), `descriptors[0]: entries: want 1 to 32 of them, found "33"`, "entries"},
		{shouldLimit("acme", descriptor("", "x")), "descriptors[0]: entries: want a key in each, found nothing", "entries"},
		{shouldLimit("acme", descriptor("generic_key", "a", "generic_key", "b")), `want each attribute once in a descriptor (a generic_key can have a descriptor_key of its own), found "generic_key"`, "entries"},
		{shouldLimit("acme", descriptor("user", "a", "user_id", "b")), `want each attribute once in a descriptor (a generic_key can have a descriptor_key of its own), found "user_id"`, "entries"},
		{shouldLimit("acme", descriptor("remote_address", "192.0.2.7", "masked_remote_address", "192.0.2.0/24")), `found "masked_remote_address"`, "entries"},
		{shouldLimit("acme", descriptor("plan\x00", "a")), "descriptors[0]: attrs: ", "attrs"},
		{shouldLimit("acme", descriptor("user", "", "user_id", "b")), `found "user_id"`, "entries"},
		{shouldLimit("acme", descriptor(strings.Repeat("x", 8<<10), "a")), "descriptors[0]: entries: want keys that are shorter", "entries"},
		{shouldLimit("acme", adding(1<<32+1, descriptor("user", "a"))), `descriptors[0]: hits_addend: want 0 to 4294967296, found "4294967297"`, "hits_addend"},
		{shouldLimit("acme", adding(1<<63, descriptor("user", "a"))), `hits_addend: want 0 to 4294967296`, "hits_addend"},
		{shouldLimit("acme", negative), `descriptors[0]: is_negative_hits: want false: nothing is given back, found "true"`, "is_negative_hits"},
	} {
		before := c.counted(t, refused, "field", tt.field)
		got, _ := c.ask(t, tt.request)
		if !strings.HasPrefix(got, "InvalidArgument: ") || !strings.Contains(got, tt.want) {
			t.Errorf("got %s, want %s", got, tt.want)
		}
		if n := c.counted(t, refused, "field", tt.field); n != before+1 {
			t.Errorf("%s: counted as %s %v times more", tt.want, tt.field, n-before)
		}
	}
	if len(asked) > 0 {
		t.Errorf("%d were asked about all the same", len(asked))
	}
	if got := c.counted(t, answered, "code", "InvalidArgument"); got != 17 {
		t.Errorf("counted %v refused requests", got)
	}
	// A message that is too large is not read.
	large := slices.Repeat([]*ratelimit.RateLimitDescriptor{descriptor("plan", strings.Repeat("x", 64<<10))}, 32)
	if got, _ := c.ask(t, shouldLimit("acme", large...)); !strings.HasPrefix(got, "ResourceExhausted: ") {
		t.Errorf("more than 2 MiB: %s", got)
	}
}

// An end user who is refused passes, as Envoy is configured to let it. So nothing
// that one can send is refused, however long or odd.
func TestEnvoyTakesWhatEndUsersChoose(t *testing.T) {
	asked := make(chan events.Request, 32)
	c := mustCall(t, recorder(asked), always)
	long, plans := strings.Repeat("x", 60<<10), events.MaxAttrs-len(`{"plan":"","generic_key":""}`)
	for _, tt := range []struct {
		key, value string
		want       events.Request
	}{
		{"path", "/" + long, events.Request{Path: "/" + long[:events.MaxPath-1]}},
		{":path", "/\x00?x", events.Request{Path: "/\uFFFD"}},
		{":path", "/%61pi/%zz", events.Request{Path: "/%61pi/%zz"}},
		{":path", "/%61pi/order?x=1", events.Request{Path: "/api/order"}},
		{"host", long, events.Request{Host: long[:events.MaxName]}},
		{":authority", "Example.ORG.:443", events.Request{Host: "example.org"}},
		{":authority", "[2001:db8::1]:443", events.Request{Host: "2001:db8::1"}},
		{"method", long, events.Request{Method: long[:events.MaxName]}},
		{"user", long, events.Request{User: long[:events.MaxName]}},
		{"user_id", "a\x00", events.Request{User: "a\uFFFD"}},
		{"api_key", long, events.Request{APIKey: long}},
		{"route", long, events.Request{Route: long[:events.MaxPath]}},
		{"ip", "unknown", events.Request{}},
		{"masked_remote_address", "192.0.2.7", events.Request{IP: netip.MustParseAddr("192.0.2.7")}},
		{"plan", "a\x00", events.Request{Attrs: `{"plan":"a` + "\uFFFD" + `","generic_key":"g"}`}},
		{"plan", long, events.Request{Attrs: `{"plan":"` + long[:plans/2] + `","generic_key":"g"}`}},
		{"plan", strings.Repeat("\x01", 8000), events.Request{Attrs: `{"plan":"` + strings.Repeat(`\u0001`, plans/2/6) + `","generic_key":"g"}`}},
	} {
		tt.want.Tenant, tt.want.Cost = "acme", 1
		if tt.want.Attrs == "" {
			tt.want.Attrs = `{"generic_key":"g"}`
		}
		got, _ := c.ask(t, shouldLimit("acme", descriptor(tt.key, tt.value, "generic_key", "g")))
		if !strings.HasPrefix(got, "OK") {
			t.Errorf("%s %.20q: %s", tt.key, tt.value, got)
			continue
		}
		if r := <-asked; r != tt.want {
			t.Errorf("%s %.20q: asked %.200v\nwant %.200v", tt.key, tt.value, fmt.Sprint(r), fmt.Sprint(tt.want))
		}
	}
	all := slices.Repeat([]*ratelimit.RateLimitDescriptor{descriptor("path", "/"+long)}, 32)
	if got, _ := c.ask(t, shouldLimit("acme", all...)); !strings.HasPrefix(got, "OK") {
		t.Errorf("a long path in each descriptor: %s", got)
	}
}

// Without a decision the policy speaks; without an answer Envoy does.
func TestEnvoyWithoutADecision(t *testing.T) {
	undecided := func(v events.Verdict) events.Decision {
		return events.Decision{Verdict: v, Reason: events.ReasonTimeout, Cost: 1}
	}
	request := shouldLimit("acme", descriptor("user", "a"))
	c := mustCall(t, deciding(undecided(events.Deny)), always)
	got, response := c.ask(t, request)
	if want := "OVER_LIMIT | OVER_LIMIT"; got != want || headers(response)["Retry-After"] != "1" || !strings.Contains(string(response.GetRawBody()), "No decision came in time") {
		t.Errorf("on_error deny: %s %v", got, response)
	}
	c = mustCall(t, deciding(undecided(events.Allow)), always)
	if got, response = c.ask(t, request); got != "OK | OK" || len(response.GetResponseHeadersToAdd()) > 0 {
		t.Errorf("on_error allow: %s %v", got, response)
	}
	c = mustCall(t, deciding(events.Decision{Verdict: events.Allow, Reason: events.ReasonExempt}), always)
	if _, response = c.ask(t, request); response.GetStatuses()[0].GetLimitRemaining() != 1<<32-1 {
		t.Errorf("exempt: %v", response)
	}
	closed := deciding(allowed)
	closed.check = func(context.Context, events.Request) (events.Decision, error) {
		return events.Decision{}, errors.New("closed")
	}
	c = mustCall(t, closed, always)
	if got, _ := c.ask(t, request); got != "Unavailable: No decision can be asked for: closed." {
		t.Errorf("without a client: %s", got)
	}
	slow := deciding(allowed)
	slow.check = func(ctx context.Context, _ events.Request) (events.Decision, error) {
		<-ctx.Done()
		return events.Decision{}, ctx.Err()
	}
	c = mustCall(t, slow, always)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.ShouldRateLimit(ctx, request); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("Envoy's timeout: %v", err)
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		if c.counted(t, answered, "code", "DeadlineExceeded")+c.counted(t, answered, "code", "Canceled") != 1 {
			return errors.New("not counted")
		}
		return nil
	})
}

// No limiter runs, and nothing is down for it.
func TestEnvoyWithoutALimiter(t *testing.T) {
	nc := testenv.Connect(t, testenv.NATS(t))
	mustStreams(t, nc)
	client, err := gateway.Connect(nc, gateway.Config{Name: "edge", Shards: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	c := mustCall(t, client, nc.IsConnected)
	if got, _ := c.ask(t, shouldLimit("acme", descriptor("user", "a"), descriptor("user", "b"))); got != "OK | OK | OK" {
		t.Errorf("got %s", got)
	}
}

// What a limit is called in Envoy's terms.
func TestEnvoyUnits(t *testing.T) {
	for window, want := range map[time.Duration]string{
		time.Second: "1 SECOND", 30 * time.Second: "30 SECOND", time.Minute: "1 MINUTE", 90 * time.Second: "90 SECOND",
		15 * time.Minute: "15 MINUTE", time.Hour: "1 HOUR", 36 * time.Hour: "36 HOUR", 24 * time.Hour: "1 DAY", 240 * time.Hour: "10 DAY",
		7 * 24 * time.Hour: "1 WEEK", 21 * 24 * time.Hour: "3 WEEK",
	} {
		c := mustCall(t, deciding(with(func(d *events.Decision) { d.WindowMS, d.Limit, d.Remaining = window.Milliseconds(), 1<<40, 1<<33 })), always)
		got, _ := c.ask(t, shouldLimit("acme", descriptor("user", "a")))
		if want = "OK | OK per-minute 4294967295/" + want + ", 4294967295 left"; got != want {
			t.Errorf("%v: %s, want %s", window, got, want)
		}
	}
}

// An answer's memory is its own, also when others have been written since.
func TestEnvoyBodies(t *testing.T) {
	decide := deciding(allowed)
	decide.check = func(_ context.Context, r events.Request) (events.Decision, error) {
		return with(func(d *events.Decision) { d.Verdict, d.Rule = events.Deny, r.User }), nil
	}
	limits := ingest.NewRateLimits(usual, decide)
	var bodies [][]byte
	for i := range 20 {
		rule := strings.Repeat(fmt.Sprint(i), 20-i)
		response, err := limits.ShouldRateLimit(t.Context(), shouldLimit("acme", descriptor("user", rule)))
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, response.GetRawBody())
	}
	for i, body := range bodies {
		var denied struct{ Rule string }
		if err := json.Unmarshal(body, &denied); err != nil || denied.Rule != strings.Repeat(fmt.Sprint(i), 20-i) {
			t.Errorf("denial %d: %v in %s", i, err, body)
		}
	}
}

// The worst of several decisions is told to whoever sent the request.
func TestEnvoyTellsOfTheWorst(t *testing.T) {
	named := func(name string, change func(*events.Decision)) events.Decision {
		return with(func(d *events.Decision) { d.Rule = name; change(d) })
	}
	left := func(n int64) func(*events.Decision) { return func(d *events.Decision) { d.Remaining = n } }
	denied := func(ms int64) func(*events.Decision) {
		return func(d *events.Decision) { d.Verdict, d.Remaining, d.RetryAfterMS = events.Deny, 0, ms }
	}
	ordered := []events.Decision{ // the worst first
		named("never", denied(0)),
		named("long", denied(9000)),
		named("short", denied(2000)),
		named("none left", left(0)),
		named("some left", left(5)),
		{Verdict: events.Allow, Reason: events.ReasonNoRule},
	}
	for worst := range ordered {
		for other := worst; other < len(ordered); other++ {
			for _, order := range [][2]int{{worst, other}, {other, worst}} {
				s := deciding(allowed)
				s.check = func(_ context.Context, r events.Request) (events.Decision, error) {
					return ordered[order[r.User[0]-'0']], nil
				}
				c := mustCall(t, s, always)
				_, response := c.ask(t, shouldLimit("acme", descriptor("user", "0"), descriptor("user", "1")))
				got := headers(response)["RateLimit-Policy"]
				if want := cmp.Or(ordered[worst].Rule, ""); !strings.HasPrefix(got, `"`+want+`"`) && want+got != "" {
					t.Errorf("%q and %q: the headers tell of %s", ordered[order[0]].Rule, ordered[order[1]].Rule, got)
				}
				if over := response.GetOverallCode() == rls.RateLimitResponse_OVER_LIMIT; over != (ordered[worst].Verdict == events.Deny) {
					t.Errorf("%q and %q: %v", ordered[order[0]].Rule, ordered[order[1]].Rule, response.GetOverallCode())
				}
			}
		}
	}
}

func TestEnvoyHeadersCanBeChosen(t *testing.T) {
	limits := ingest.NewRateLimits(ingest.Config{Headers: wording.XRateLimit}, deciding(allowed))
	response, err := limits.ShouldRateLimit(t.Context(), shouldLimit("acme", descriptor("user", "a")))
	if err != nil {
		t.Fatal(err)
	}
	if h := headers(response); h["X-RateLimit-Limit"] != "256" || len(h) != 3 {
		t.Errorf("headers %v", h)
	}
}
