package ingest

import (
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// NewRateLimits is Envoy's service without a server.
func NewRateLimits(config Config, gateway decider) rls.RateLimitServiceServer {
	return &rateLimits{gateway: gateway, metrics: newMetrics(prometheus.NewRegistry(), gateway.Overflow), headers: config.Headers, log: zap.NewNop()}
}
