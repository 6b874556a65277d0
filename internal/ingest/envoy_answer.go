package ingest

import (
	"math"
	"net/http"
	"sync"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirhq/weir/internal/answer"
	"github.com/weirhq/weir/internal/events"
	"github.com/weirhq/weir/internal/problem"
)

// answer tells of each decision, and to whoever sent the request of the worst as
// HTTP answers would.
func (s *rateLimits) answer(decisions []events.Decision) *rls.RateLimitResponse {
	response := &rls.RateLimitResponse{
		OverallCode: rls.RateLimitResponse_OK,
		Statuses:    make([]*rls.RateLimitResponse_DescriptorStatus, len(decisions)),
	}
	worst := &decisions[0]
	for i := range decisions {
		d := &decisions[i]
		response.Statuses[i] = envoyStatus(d)
		if worse(d, worst) {
			worst = d
		}
	}
	if worst.Verdict == events.Deny {
		response.OverallCode = rls.RateLimitResponse_OVER_LIMIT
	}
	response.ResponseHeadersToAdd, response.RawBody = page(worst, s.headers)
	return response
}

// worse tells whether a says more than b to whoever sent the request: that it
// is denied, and for how long, or what is left of the tightest limit.
func worse(a, b *events.Decision) bool {
	if a.Verdict != b.Verdict {
		return a.Verdict == events.Deny
	}
	if a.Verdict == events.Deny {
		return wait(a) > wait(b)
	}
	return a.Rule != "" && (b.Rule == "" || a.Remaining < b.Remaining)
}

// wait is how long a denied request has to, for ever if it can never pass.
func wait(d *events.Decision) int64 {
	if d.RetryAfterMS == 0 && d.Rule != "" {
		return math.MaxInt64
	}
	return d.RetryAfterMS
}

// envoyStatus tells of one decision. What no rule bound has no limit.
func envoyStatus(d *events.Decision) *rls.RateLimitResponse_DescriptorStatus {
	all := &struct { // of one allocation
		status     rls.RateLimitResponse_DescriptorStatus
		limit      rls.RateLimitResponse_RateLimit
		multiplier wrapperspb.UInt32Value
		reset      durationpb.Duration
	}{}
	all.status.Code = rls.RateLimitResponse_OK
	if d.Verdict == events.Deny {
		all.status.Code = rls.RateLimitResponse_OVER_LIMIT
	}
	if d.Rule == "" {
		if d.Reason == events.ReasonExempt {
			all.status.LimitRemaining = math.MaxUint32
		}
		return &all.status
	}
	all.limit.Name, all.limit.RequestsPerUnit = d.Rule, clamp(d.Limit)
	var units uint32
	all.limit.Unit, units = envoyUnit(d.WindowMS)
	if units != 1 {
		all.multiplier.Value = units
		all.limit.UnitMultiplier = &all.multiplier
	}
	all.reset.Seconds, all.reset.Nanos = d.ResetMS/1000, int32(d.ResetMS%1000*1e6)
	all.status.CurrentLimit = &all.limit
	all.status.LimitRemaining = clamp(d.Remaining)
	all.status.DurationUntilReset = &all.reset
	return &all.status
}

// clamp fits a number into what Envoy has for it.
func clamp(n int64) uint32 { return uint32(min(n, math.MaxUint32)) }

// envoyUnit returns the longest of Envoy's units that make up a window, and how
// many do. A window is whole seconds, see policy.ParseLimit. Months and years
// have no length of their own.
func envoyUnit(windowMS int64) (rls.RateLimitResponse_RateLimit_Unit, uint32) {
	seconds := max(windowMS/1000, 1)
	for _, unit := range [...]struct {
		seconds int64
		unit    rls.RateLimitResponse_RateLimit_Unit
	}{
		{7 * 24 * 3600, rls.RateLimitResponse_RateLimit_WEEK},
		{24 * 3600, rls.RateLimitResponse_RateLimit_DAY},
		{3600, rls.RateLimitResponse_RateLimit_HOUR},
		{60, rls.RateLimitResponse_RateLimit_MINUTE},
	} {
		if seconds%unit.seconds == 0 {
			return unit.unit, uint32(seconds / unit.seconds)
		}
	}
	return rls.RateLimitResponse_RateLimit_SECOND, uint32(seconds)
}

// headerMaps are the headers of answers while these are made.
var headerMaps = sync.Pool{New: func() any { return make(http.Header) }}

// page returns the headers of the answer that Envoy is to give to a decision and,
// for a denial, the body. Status and length are Envoy's to say.
func page(d *events.Decision, kinds answer.Headers) (all []*core.HeaderValue, body []byte) {
	h := headerMaps.Get().(http.Header)
	defer headerMaps.Put(h)
	clear(h)
	answer.SetLimits(h, d, kinds)
	if d.Verdict == events.Deny {
		problem.SetHeaders(h)
		body = answer.Denial(d).Body()
	}
	if len(h) == 0 {
		return nil, body
	}
	values := make([]core.HeaderValue, len(h)) // of one allocation
	all = make([]*core.HeaderValue, 0, len(h))
	for name, value := range h {
		header := &values[len(all)]
		header.Key, header.Value = name, value[0]
		all = append(all, header)
	}
	return all, body
}
