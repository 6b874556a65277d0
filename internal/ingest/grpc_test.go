package ingest_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/weirhq/weir/internal/access"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/ingest"
	"github.com/weirhq/weir/internal/testenv"
)

const service = "envoy.service.ratelimit.v3.RateLimitService"

func TestGRPCHealth(t *testing.T) {
	var connected atomic.Bool
	c := mustCall(t, deciding(allowed), connected.Load)
	health := grpc_health_v1.NewHealthClient(c)
	for _, serving := range []bool{false, true, false} {
		connected.Store(serving)
		want := grpc_health_v1.HealthCheckResponse_NOT_SERVING
		if serving {
			want = grpc_health_v1.HealthCheckResponse_SERVING
		}
		for _, name := range []string{"", service} {
			testenv.Eventually(t, 10*time.Second, func() error {
				got, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: name})
				if err == nil && got.GetStatus() != want {
					err = fmt.Errorf("%q, connected %v: %v", name, serving, got.GetStatus())
				}
				return err
			})
		}
	}
	_, err := health.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: "another"})
	if status.Code(err) != codes.NotFound {
		t.Errorf("of a service that there is none of: %v", err)
	}
	// Health does not keep anybody from asking: the policy says what then is.
	if got, _ := c.ask(t, shouldLimit("acme", descriptor("user", "a"))); got == "" || got[:2] != "OK" {
		t.Errorf("not serving: %s", got)
	}
}

func TestGRPCReflection(t *testing.T) {
	c := mustCall(t, deciding(allowed), always)
	stream, err := grpc_reflection_v1.NewServerReflectionClient(c).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(r *grpc_reflection_v1.ServerReflectionRequest) *grpc_reflection_v1.ServerReflectionResponse {
		t.Helper()
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
		got, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	var names []string
	list := ask(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_ListServices{}})
	for _, s := range list.GetListServicesResponse().GetService() {
		names = append(names, s.GetName())
	}
	if !slices.Contains(names, service) || !slices.Contains(names, "grpc.health.v1.Health") {
		t.Errorf("services: %v", names)
	}
	file := ask(&grpc_reflection_v1.ServerReflectionRequest{MessageRequest: &grpc_reflection_v1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: service}})
	if len(file.GetFileDescriptorResponse().GetFileDescriptorProto()) == 0 {
		t.Errorf("its description: %v", file)
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
}

// A server that is told to stop answers what it has taken, takes nothing new,
// and does not wait for those who watch its health.
func TestGRPCDrain(t *testing.T) {
	asked, answerNow := make(chan struct{}), make(chan struct{})
	slow := deciding(allowed)
	decide := slow.check
	slow.check = func(ctx context.Context, r events.Request) (events.Decision, error) {
		close(asked)
		<-answerNow
		return decide(ctx, r)
	}
	c := mustCall(t, slow, always)
	watch, err := grpc_health_v1.NewHealthClient(c).Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: service})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := watch.Recv(); err != nil || got.GetStatus() != grpc_health_v1.HealthCheckResponse_SERVING {
		t.Fatalf("watched: %v, %v", got, err)
	}
	got := make(chan string, 1)
	go func() {
		text, _ := c.ask(t, shouldLimit("acme", descriptor("user", "a")))
		got <- text
	}()
	<-asked
	ended := make(chan error, 1)
	go func() { ended <- c.stop() }()
	// The watch ends while the request is under way; it may have told before
	// that the server no longer serves.
	for err == nil {
		var last *grpc_health_v1.HealthCheckResponse
		if last, err = watch.Recv(); err == nil && last.GetStatus() != grpc_health_v1.HealthCheckResponse_NOT_SERVING {
			t.Errorf("watched: %v", last)
		}
	}
	testenv.Eventually(t, 10*time.Second, func() error {
		conn, _ := net.Dial("tcp", c.Target())
		if conn == nil {
			return nil
		}
		conn.Close()
		return errors.New("still listening")
	})
	select {
	case err := <-ended:
		t.Fatalf("ended with a request under way: %v", err)
	default:
	}
	close(answerNow)
	if text := <-got; text != "OK | OK per-minute 256/1 MINUTE, 12 left" {
		t.Errorf("the request under way: %s", text)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A bug in one call is the end of that call alone.
func TestGRPCPanics(t *testing.T) {
	s := deciding(allowed)
	decide := s.check
	s.check = func(ctx context.Context, r events.Request) (events.Decision, error) {
		if r.User == "bug" {
			panic("a bug")
		}
		return decide(ctx, r)
	}
	c := mustCall(t, s, always)
	bug, user := descriptor("user", "bug"), descriptor("user", "a")
	for _, request := range []*rls.RateLimitRequest{shouldLimit("acme", bug), shouldLimit("acme", user, bug)} {
		if got, _ := c.ask(t, request); !strings.HasPrefix(got, "Internal: This is a bug") {
			t.Errorf("got %s", got)
		}
	}
	if got := c.counted(t, answered, "code", "Internal"); got != 2 {
		t.Errorf("counted %v", got)
	}
	if got, _ := c.ask(t, shouldLimit("acme", user)); !strings.HasPrefix(got, "OK") {
		t.Errorf("afterwards: %s", got)
	}
}

// The edge ends when it cannot serve one half.
func TestRunEndsWithAListener(t *testing.T) {
	for i := range 2 {
		on := ingest.Listeners{Guard: new(access.Guard), HTTP: mustListen(t), GRPC: mustListen(t)}
		closed := []net.Listener{on.HTTP, on.GRPC}[i]
		closed.Close()
		server := ingest.New(usual, deciding(allowed), always, prometheus.NewRegistry(), zap.NewNop())
		err := server.Run(t.Context(), on)
		if !errors.Is(err, net.ErrClosed) || !strings.Contains(err.Error(), closed.Addr().String()) {
			t.Errorf("Run: %v", err)
		}
	}
}

// BenchmarkEnvoy measures the service alone: reading the descriptors, wording
// the answer.
func BenchmarkEnvoy(b *testing.B) {
	denied := with(func(d *events.Decision) { d.Verdict, d.RetryAfterMS = events.Deny, 15_001 })
	request := shouldLimit("acme", descriptor("user_id", "42", ":method", "GET", ":path", "/api/order/history/"))
	for _, d := range []events.Decision{allowed, denied} {
		b.Run(string(d.Verdict), func(b *testing.B) {
			limits := ingest.NewRateLimits(usual, deciding(d))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := limits.ShouldRateLimit(b.Context(), request); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "checks/s")
		})
	}
}
