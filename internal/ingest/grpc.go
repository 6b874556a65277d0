package ingest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	"google.golang.org/grpc/status"

	"github.com/weirhq/weir/internal/access"
)

const (
	maxStreams       = 1024                      // of one connection: an Envoy has one or more for each of its threads
	maxGRPCHeader    = 16 << 10                  // bytes
	maxAsked         = maxDescriptors * 64 << 10 // bytes of a request: each descriptor may have all headers that Envoy takes, 60 KiB by default
	handshakeTimeout = 5 * time.Second           // until a connection speaks HTTP/2
	grpcIdleTimeout  = 15 * time.Minute          // of a connection without requests
	pingAfter        = time.Minute               // without a sign of the other side
	pingTimeout      = 10 * time.Second          // for its answer, else it is gone
	pingAtMostEvery  = 5 * time.Second           // who asks more often is disconnected
	grpcDrainTimeout = 15 * time.Second          // what was read is answered
	healthInterval   = 100 * time.Millisecond
	grpcWorkers      = 256 // goroutines that go from request to request: a new one has its stack grown first
)

// serveGRPC serves Envoy's rate limit service on the listener, which it closes,
// to whom the guard lets in, until ctx ends; then it answers what it has taken and returns nil. Health and
// reflection are served beside it.
func (s *Server) serveGRPC(ctx context.Context, listener net.Listener, guard *access.Guard) error {
	draining, drain := context.WithCancel(context.WithoutCancel(ctx))
	server := grpc.NewServer(
		grpc.ForceServerCodecV2(lenient{encoding.GetCodecV2(proto.Name)}),
		grpc.MaxRecvMsgSize(maxAsked),
		grpc.MaxConcurrentStreams(maxStreams),
		grpc.MaxHeaderListSize(maxGRPCHeader),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.NumStreamWorkers(grpcWorkers),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: grpcIdleTimeout, Time: pingAfter, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingAtMostEvery, PermitWithoutStream: true}),
		grpc.WaitForHandlers(true),
		grpc.ChainUnaryInterceptor(s.count, rescueCalls(s.log), admitCalls(guard)),
		grpc.ChainStreamInterceptor(rescueStreams(s.log), admitStreams(guard), until(draining)),
	)
	rls.RegisterRateLimitServiceServer(server, &rateLimits{gateway: s.gateway, metrics: s.metrics, headers: s.config.Headers, log: s.log})
	state := health.NewServer()
	grpc_health_v1.RegisterHealthServer(server, state)
	reflection.Register(server)
	s.setHealth(state)
	var following sync.WaitGroup
	defer following.Wait()
	defer drain() // ends it
	following.Go(func() { s.followHealth(draining, state) })

	drained := make(chan bool, 1)
	stop := context.AfterFunc(ctx, func() {
		state.Shutdown()
		drain()
		late := time.AfterFunc(grpcDrainTimeout, server.Stop)
		server.GracefulStop()
		drained <- late.Stop()
	})
	s.log.Info("serving gRPC", zap.Stringer("addr", listener.Addr()))
	err := server.Serve(listener)
	if stop() {
		return fmt.Errorf("serve gRPC on %s: %w", listener.Addr(), err)
	}
	if !<-drained {
		return errors.New("gRPC requests under way are cut off")
	}
	return nil
}

// followHealth tells health from readiness until ctx ends.
func (s *Server) followHealth(ctx context.Context, state *health.Server) {
	ticker := time.NewTicker(healthInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.setHealth(state)
		case <-ctx.Done():
			return
		}
	}
}

func (s *Server) setHealth(state *health.Server) {
	is := grpc_health_v1.HealthCheckResponse_NOT_SERVING
	if s.connected() {
		is = grpc_health_v1.HealthCheckResponse_SERVING
	}
	state.SetServingStatus("", is)
	state.SetServingStatus(rls.RateLimitService_ServiceDesc.ServiceName, is)
}

// count counts the answers.
func (s *Server) count(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	response, err := handler(ctx, request)
	code := status.Code(err).String()
	if limited, ok := response.(*rls.RateLimitResponse); ok && err == nil {
		code = limited.GetOverallCode().String()
	}
	s.metrics.calls.WithLabelValues(info.FullMethod, code).Inc()
	return response, err
}

// rescue makes an error of a panic, which else would end the whole edge.
func rescue(log *zap.Logger, err *error) {
	if p := recover(); p != nil {
		log.Error("a call has panicked", zap.Any("panic", p), zap.Stack("stack"))
		*err = status.Error(codes.Internal, "This is a bug of Weir's, whose log says more.")
	}
}

func rescueCalls(log *zap.Logger) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (response any, err error) {
		defer rescue(log, &err)
		return handler(ctx, request)
	}
}

func rescueStreams(log *zap.Logger) grpc.StreamServerInterceptor {
	return func(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
		defer rescue(log, &err)
		return handler(server, stream)
	}
}

// until ends streams, all of which follow something, when the server is told to
// stop. Else a drain would wait for whoever watches the health.
func until(end context.Context) grpc.StreamServerInterceptor {
	return func(server any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx, cancel := context.WithCancel(stream.Context())
		defer cancel()
		defer context.AfterFunc(end, cancel)()
		return handler(server, endingStream{stream, ctx})
	}
}

// endingStream is a stream with a context that ends earlier.
type endingStream struct {
	grpc.ServerStream
	ctx context.Context // what Context returns
}

func (s endingStream) Context() context.Context { return s.ctx }
