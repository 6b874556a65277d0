package ingest

import (
	"context"
	"time"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weirhq/weir/internal/access"
	"github.com/weirhq/weir/internal/answer"
	"github.com/weirhq/weir/internal/events"
)

// rateLimits is Envoy's rate limit service, version 3. Each descriptor of a
// request is a check of its own: one that is denied gives nothing back of what
// the others have charged, as Envoy has it of every such service.
type rateLimits struct {
	rls.UnimplementedRateLimitServiceServer
	gateway decider
	metrics *metrics
	headers answer.Headers // that tell of a limit
	log     *zap.Logger
}

// ShouldRateLimit answers with an error only if there is nothing to say of the
// request, so that Envoy's failure_mode_deny decides. A decision that did not
// come in time is the policy's to replace, and an answer like any other.
func (s *rateLimits) ShouldRateLimit(ctx context.Context, asked *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
	requests, err := readDescriptors(asked)
	if err != nil {
		s.metrics.refuse(err)
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if _, err := access.Of(ctx).Tenant(asked.GetDomain()); err != nil {
		s.metrics.refuse(err)
		return nil, denied(err)
	}
	decisions, err := s.decide(ctx, requests)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return nil, status.FromContextError(ctx.Err()).Err()
	case status.Code(err) == codes.Internal:
		return nil, err
	default:
		return nil, status.Error(codes.Unavailable, "No decision can be asked for: "+err.Error()+".")
	}
	for i := range decisions {
		if requests[i].Peek {
			exhaust(&decisions[i])
		}
	}
	return s.answer(decisions), nil
}

// decide asks for all decisions at once, so that they come in one block.
func (s *rateLimits) decide(ctx context.Context, requests []events.Request) ([]events.Decision, error) {
	decisions := make([]events.Decision, len(requests))
	if len(requests) == 1 {
		return decisions, s.check(ctx, requests[0], &decisions[0])
	}
	var asking errgroup.Group
	for i := range requests {
		asking.Go(func() (err error) {
			defer rescue(s.log, &err)
			return s.check(ctx, requests[i], &decisions[i])
		})
	}
	return decisions, asking.Wait()
}

func (s *rateLimits) check(ctx context.Context, r events.Request, into *events.Decision) error {
	start := time.Now()
	decision, err := s.gateway.Check(ctx, r)
	if err == nil {
		s.metrics.decided(decision.Verdict, time.Since(start))
		*into = decision
	}
	return err
}

// exhaust makes a denial of what was asked with hits_addend 0 if nothing is
// left. To Weir no units always fit; Envoy asks whether there is room for any.
func exhaust(d *events.Decision) {
	if d.Verdict == events.Allow && d.Rule != "" && d.Remaining == 0 {
		d.Verdict, d.RetryAfterMS = events.Deny, d.ResetMS
	}
}
