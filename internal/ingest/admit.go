package ingest

import (
	"context"
	"errors"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/weirhq/weir/internal/access"
)

// admitted returns the context of a call that the guard lets in. Anybody may ask
// for the health.
func admitted(ctx context.Context, guard *access.Guard, method string) (context.Context, error) {
	if strings.HasPrefix(method, "/"+grpc_health_v1.Health_ServiceDesc.ServiceName+"/") {
		return ctx, nil
	}
	grant, err := guard.Admit(metadata.ValueFromIncomingContext(ctx, "authorization"), access.Gateway)
	if _, unknown := errors.AsType[*access.UnauthorizedError](err); unknown {
		return nil, status.Error(codes.Unauthenticated, err.Error())
	}
	if err != nil {
		return nil, denied(err)
	}
	if grant != nil {
		ctx = access.With(ctx, grant)
	}
	return ctx, nil
}

func denied(err error) error { return status.Error(codes.PermissionDenied, err.Error()) }

func admitCalls(guard *access.Guard) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		ctx, err := admitted(ctx, guard, info.FullMethod)
		if err != nil {
			return nil, err
		}
		return handler(ctx, request)
	}
}

// admitStreams lets in streams, none of which is a tenant's.
func admitStreams(guard *access.Guard) grpc.StreamServerInterceptor {
	return func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		if _, err := admitted(stream.Context(), guard, info.FullMethod); err != nil {
			return err
		}
		return handler(server, stream)
	}
}
